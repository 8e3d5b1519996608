use super::*;

const TOKEN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

fn run(line: &str) -> Result<Invocation, clap::Error> {
    let args = std::iter::once("relay").chain(line.split_whitespace());
    parse(args.map(OsString::from))
}

/// What a command line means, in short.
fn meaning(line: &str) -> String {
    let said = |parts: &[Option<String>]| parts.iter().flatten().flat_map(|part| [" ", part]).collect::<String>();
    let path = |name, path: &Option<std::path::PathBuf>| path.as_ref().map(|path| format!("{name}={}", path.display()));
    let place = |place: &PlaceFlags| said(&[path("state", &place.state), path("config", &place.config)]);
    match run(line).unwrap_or_else(|error| panic!("{line}: {error}")).command {
        Command::Original(listen) => format!("original {listen}"),
        Command::Server(flags) => {
            let ServerFlags { listen, ports, place: at, open, link } = *flags;
            let (listen, ports) = (listen.map(|listen| listen.to_string()), ports.map(|ports| format!("{ports:?}")));
            let open = open.map(|open| format!("open={open}"));
            let bbr = link.no_bbr.map(|no_bbr| format!("no_bbr={no_bbr}"));
            format!("server{}{}", said(&[listen, ports, open, bbr]), place(&at))
        }
        Command::Forward(flags) => {
            let relay = flags.relay.map(|relay| match relay {
                Relay::Invite(invite) => format!("invite:{}@{}", invite.name, invite.relay),
                Relay::Tls(address) => format!("tls:{address}"),
                Relay::Plain(address) => address.to_string(),
            });
            let allow = (!flags.allow.is_empty()).then(|| format!("{:?}", flags.allow));
            let parts = [
                flags.service.map(|service| service.to_string()),
                relay,
                flags.mode.map(|mode| mode.to_string()),
                flags.port.map(|port| format!("port={port}")),
                allow,
                flags.proxy_protocol.map(|version| format!("{version:?}")),
                path("invite_file", &flags.invite_file),
                path("config", &flags.config),
                path("ca", &flags.ca),
                path("cert", &flags.cert),
                path("key", &flags.key),
                flags.link.no_bbr.map(|no_bbr| format!("no_bbr={no_bbr}")),
            ];
            format!("forward{}", said(&parts))
        }
        Command::Invite(flags) => {
            let parts = [
                flags.host.map(|host| host.to_string()),
                flags.ports.map(|ports| format!("{ports:?}")),
                flags.expires.map(|expires| format!("{}s", expires.as_secs())),
                flags.max_tunnels.map(|count| format!("tunnels={count}")),
                flags.max_users.map(|count| format!("users={count}")),
                flags.replace.then(|| "replace".into()),
            ];
            format!("invite {}{}{}", flags.name, said(&parts), place(&flags.place))
        }
        Command::Revoke(flags) => format!("revoke {}{}", flags.name, place(&flags.place)),
        Command::Identities(flags) => format!("identities json={}{}", flags.json, place(&flags.place)),
        Command::Check(flags) => format!("check {}", flags.file.display()),
        Command::Conformance(ConformanceSubject::Relay(flags)) => {
            format!("conformance relay {}", flags.relay.address())
        }
        Command::Conformance(ConformanceSubject::Client(flags)) => {
            format!("conformance client {} {}", flags.mode, flags.listen)
        }
        Command::Demo => "demo".into(),
    }
}

#[test]
fn every_form_is_understood() {
    for (line, wanted) in [
        ("1234", "original [::]:1234"),
        ("1234 --log-format json", "original [::]:1234"),
        ("--localForwardPort=80 host 1234", "forward localhost:80 host:1234"),
        ("-localForwardPort=80 host 1234", "forward localhost:80 host:1234"),
        ("--localForwardPort 80 host 1234", "forward localhost:80 host:1234"),
        ("-localForwardPort 80 host 1234", "forward localhost:80 host:1234"),
        ("-localForwardPort=80 server 1234", "forward localhost:80 server:1234"),
        ("-localForwardPort=80 ::1 1234", "forward localhost:80 [::1]:1234"),
        ("-localForwardPort=80 [::1] 1234", "forward localhost:80 [::1]:1234"),
        ("-v -localForwardPort=80 -- host 1234", "forward localhost:80 host:1234"),
        ("server", "server"),
        ("-v server --open", "server open=true"),
        ("server --open=no --no-bbr", "server open=false no_bbr=true"),
        ("server --listen 127.0.0.1:0", "server 127.0.0.1:0"),
        ("server --listen=[::1]:80 --ports=8000-8999", "server [::1]:80 (8000, 8999)"),
        ("server --listen 127.0.0.1 --ports 8000 --open", "server 127.0.0.1:7000 (8000, 8000) open=true"),
        ("server --listen [::1]", "server [::1]:7000"),
        ("server --listen 7001 --open -v", "server [::]:7001 open=true"),
        ("server --state /s --config c.toml", "server state=/s config=c.toml"),
        ("forward 8080 host", "forward localhost:8080 host:7000"),
        ("forward 8080 host --proxy-protocol v2", "forward localhost:8080 host:7000 V2"),
        ("forward 8080 host --no-bbr", "forward localhost:8080 host:7000 no_bbr=true"),
        ("forward web:80 [::1]:1 --mode pool", "forward web:80 [::1]:1 pool"),
        ("forward --mode=event unix:/s host:1", "forward unix:/s host:1 event"),
        ("--log-format json forward 8080 host", "forward localhost:8080 host:7000"),
        ("forward 80 tls://host --ca c", "forward localhost:80 tls:host:7000 ca=c"),
        ("forward 80 tls://host --cert c --key k", "forward localhost:80 tls:host:7000 cert=c key=k"),
        ("forward 80 --invite-file i", "forward localhost:80 invite_file=i"),
        ("forward --config c", "forward config=c"),
        (
            "forward 80 h --port 90 --allow ::1 --allow 10.1.2.3/8,192.0.2.1",
            "forward localhost:80 h:7000 port=90 [::1/128, 10.0.0.0/8, 192.0.2.1/32]",
        ),
        (&format!("forward 80 relay://laptop:{TOKEN}@host:1"), "forward localhost:80 invite:laptop@host:1"),
        (&format!("forward 80 'relay://laptop:{TOKEN}@host'"), "forward localhost:80 invite:laptop@host:7000"),
        ("invite laptop", "invite laptop"),
        ("invite a --host [::1]:1 --ports 80-81 --expires 30d --replace", "invite a [::1]:1 (80, 81) 2592000s replace"),
        ("invite a --max-tunnels 2 --max-users 3 --state s --config c", "invite a tunnels=2 users=3 state=s config=c"),
        ("revoke laptop --state s", "revoke laptop state=s"),
        ("identities", "identities json=false"),
        ("identities --json --config c", "identities json=true config=c"),
        ("check f.toml", "check f.toml"),
        ("conformance relay host:1", "conformance relay host:1"),
        ("conformance client --mode pool", "conformance client pool 127.0.0.1:7000"),
        ("conformance client --mode event --listen [::1]:1 -v", "conformance client event [::1]:1"),
        ("demo", "demo"),
    ] {
        assert_eq!(meaning(line), wanted, "{line}");
    }
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_helps() {
    for (line, hint) in [
        ("", "Example:"),
        ("bogus", "bogus"),
        ("sevrer --open", "server"),
        ("65536", "\"65536\" is no port"),
        ("1234 host", "--localForwardPort"),
        ("1234 5678 9", "unexpected"),
        ("localhost 7000", "need --localForwardPort"),
        ("localhost 7000 -v", "unrecognized"),
        ("--localForwardPort=80", "required"),
        ("--localForwardPort=80 host", "<HOST> <PORT>"),
        ("--localForwardPort=0 host 1234", "1..=65535"),
        ("--localForwardPort=x host 1234", "invalid value"),
        ("--localForwardPort=80 host x", "\"x\" is no port"),
        ("--localForwardPort=80 host 0", "from 1 to 65535"),
        ("--localForwardPort=80 h:1 2", "a port goes apart"),
        ("--localForwardPort=80 a/b 1", "neither a name nor an IP address"),
        ("server --listen host:1 --open", "give an IP address and a port"),
        ("server --ports 9-8 --open", "the lower first"),
        ("server --ports 0-8 --open", "from 1 to 65535"),
        ("server --bogus --open", "--bogus"),
        ("forward 0 host", "is no service"),
        ("forward 80 host:0", "from 1 to 65535"),
        ("forward 80 http://host", "without a scheme"),
        ("forward 80 tls://host:0", "from 1 to 65535"),
        ("forward relay://x@host", "the service comes before it"),
        ("forward 80 relay://host", "copy it again"),
        ("forward 80 host --port 0", "1..=65535"),
        ("forward 80 host --allow host", "a network is an address"),
        ("forward 80 host --proxy-protocol 1", "it is v1 or v2"),
        ("forward 80 tls://host --cert c", "--key"),
        ("forward 80 tls://host --key k", "--cert"),
        ("forward 80 --invite-file relay://x@host", "the name of a file"),
        ("server --open=perhaps", "--open"),
        ("invite", "NAME"),
        ("invite A", "a name has"),
        ("invite a --host a/b", "neither a name"),
        ("invite a --expires soon", "--expires"),
        ("invite a --max-users 0", "from 1 up"),
        ("revoke", "NAME"),
        ("check", "FILE"),
        ("forward 80 host --mode bogus", "multiplex, pool or event"),
        ("conformance", "Example:"),
        ("conformance relay", "RELAY"),
        ("conformance relay relay://x@host", "copy it again"),
        ("conformance client", "--mode"),
        ("demo now", "now"),
        ("demo --log-format xml", "text or json"),
    ] {
        let error = run(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        let said = error.to_string();
        assert!(said.contains(hint), "{line}: {said}");
    }
}

#[test]
fn verbose_and_the_log_format_reach_the_logs() {
    for line in ["1234 -v --log-format=json", "demo --verbose --log-format json", "--log-format json -v demo"] {
        let log = run(line).unwrap().log;
        assert_eq!(log, logs::Options { format: logs::Format::Json, filter: "debug".into() }, "{line}");
    }
    assert_eq!(run("demo").unwrap().log, logs::Options { format: logs::Format::Text, filter: "info".into() });
}

#[test]
fn help_fits_a_screen_and_shows_an_example() {
    for line in [
        "--help",
        "server --help",
        "forward --help",
        "invite --help",
        "revoke --help",
        "identities --help",
        "check --help",
        "conformance --help",
        "conformance relay --help",
        "conformance client --help",
        "demo --help",
        "1234 --help",
    ] {
        let help = run(line).expect_err(line);
        assert_eq!(help.exit_code(), 0, "{line}");
        let text = help.to_string();
        assert!(text.lines().count() <= 24, "{line} has {} lines:\n{text}", text.lines().count());
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("Example: relay "), "{text}");
    }
}

#[test]
fn usage_speaks_of_relay_whatever_the_file_is_called() {
    for line in ["server --bogus", "bogus", "forward 80 a/b", "--localForwardPort=80", "demo now", "server --help"] {
        let args = std::iter::once("/opt/relay-1.2").chain(line.split_whitespace());
        let said = parse(args.map(OsString::from)).expect_err(line).to_string();
        assert!(said.contains("Usage: relay ") && !said.contains("relay-1.2"), "{said}");
    }
}

/// Wherever an invite is pasted, and however it is damaged, no message shows the token, nor half of it.
#[test]
fn no_error_shows_a_token() {
    let invite = format!("relay://laptop:{TOKEN}@vps.example:7000?pin=sha256-{}", "0f".repeat(32));
    let lines = [
        "forward 80 X",
        "forward X",
        "forward 80 host X",
        "X",
        "X 80",
        "forward --mode X",
        "forward 80 host --mode=X",
        "forward 80 --port X",
        "server --listen X",
        "server X",
        "invite X",
        "invite a --host X",
        "revoke X",
        "X --help",
        "server --bogus=X",
        "1234 X",
        "check a X",
        "conformance relay X",
        "conformance X",
        "demo X",
        "--localForwardPort=X host 1",
        "forward --X",
        "-localForwardPort=80 X 1",
    ];
    let mut shown = 0;
    for at in (0..=invite.len()).step_by(2) {
        for (put, cut) in [("", 1), ("%", 1), ("\"", 0)] {
            let damaged = format!("{}{put}{}", &invite[..at], &invite[(at + cut).min(invite.len())..]);
            for line in lines {
                let args =
                    std::iter::once("relay".to_owned()).chain(line.split(' ').map(|word| word.replace('X', &damaged)));
                let Err(error) = parse(args.map(OsString::from)) else { continue };
                let said = error.to_string();
                let half = [&TOKEN[..21], &TOKEN[22..]];
                assert!(!half.iter().any(|half| said.contains(half)), "{line} {damaged:?}: {said}");
                shown += 1;
            }
        }
    }
    assert!(shown > 3_000, "{shown} messages");
    let error = run(&format!("forward 80 host --mode {TOKEN}")).unwrap_err().to_string();
    assert!(error.starts_with("error: invalid value '***' for '--mode <MODE>'"), "{error}");
}
