use super::*;

fn run(line: &str) -> Result<Invocation, clap::Error> {
    let args = std::iter::once("relay").chain(line.split_whitespace());
    parse(args.map(OsString::from))
}

/// What a command line means, in short.
fn meaning(line: &str) -> String {
    match run(line).unwrap_or_else(|error| panic!("{line}: {error}")).command {
        Command::Server { listen, ports, bbr, original } => {
            let bbr = if bbr { "" } else { " no BBR" };
            format!("{} {listen} {ports:?}{bbr}", if original { "original" } else { "server" })
        }
        Command::Forward(config) => {
            let bbr = if config.bbr { "" } else { " no BBR" };
            format!("forward {} {} {}{bbr}", config.service, config.relay, config.protocol)
        }
        Command::Demo => "demo".into(),
    }
}

#[test]
fn every_form_is_understood() {
    for (line, wanted) in [
        ("1234", "original [::]:1234 AboveControl"),
        ("1234 --log-format json", "original [::]:1234 AboveControl"),
        ("--localForwardPort=80 host 1234", "forward localhost:80 host:1234 multiplex"),
        ("-localForwardPort=80 host 1234", "forward localhost:80 host:1234 multiplex"),
        ("--localForwardPort 80 host 1234", "forward localhost:80 host:1234 multiplex"),
        ("-localForwardPort 80 host 1234", "forward localhost:80 host:1234 multiplex"),
        ("-localForwardPort=80 server 1234", "forward localhost:80 server:1234 multiplex"),
        ("-localForwardPort=80 ::1 1234", "forward localhost:80 [::1]:1234 multiplex"),
        ("-localForwardPort=80 [::1] 1234", "forward localhost:80 [::1]:1234 multiplex"),
        ("-v -localForwardPort=80 -- host 1234", "forward localhost:80 host:1234 multiplex"),
        ("server --open", "server [::]:7000 AboveControl"),
        ("server --listen 127.0.0.1:0 --open", "server 127.0.0.1:0 AboveControl"),
        ("server --listen=[::1]:80 --ports=8000-8999 --open", "server [::1]:80 FromTo(8000, 8999)"),
        ("server --listen 127.0.0.1 --ports 8000 --open", "server 127.0.0.1:7000 FromTo(8000, 8000)"),
        ("server --listen [::1] --open", "server [::1]:7000 AboveControl"),
        ("server --listen 7001 --open -v", "server [::]:7001 AboveControl"),
        ("-v server --open", "server [::]:7000 AboveControl"),
        ("server --open --no-bbr", "server [::]:7000 AboveControl no BBR"),
        ("forward 8080 host --no-bbr", "forward localhost:8080 host:7000 multiplex no BBR"),
        ("forward 8080 host", "forward localhost:8080 host:7000 multiplex"),
        ("forward web:80 [::1]:1 --mode pool", "forward web:80 [::1]:1 pool"),
        ("forward --mode=event unix:/s host:1", "forward unix:/s host:1 event"),
        ("--log-format json forward 8080 host", "forward localhost:8080 host:7000 multiplex"),
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
        ("forward 7000", "RELAY"),
        ("--localForwardPort=80", "required"),
        ("--localForwardPort=80 host", "<HOST> <PORT>"),
        ("--localForwardPort=0 host 1234", "1..=65535"),
        ("--localForwardPort=x host 1234", "invalid value"),
        ("--localForwardPort=80 host x", "\"x\" is no port"),
        ("--localForwardPort=80 host 0", "from 1 to 65535"),
        ("--localForwardPort=80 h:1 2", "a port goes apart"),
        ("--localForwardPort=80 a/b 1", "neither a name nor an IP address"),
        ("server", "pass --open"),
        ("server --listen host:1 --open", "give an IP address and a port"),
        ("server --ports 9-8 --open", "the lower first"),
        ("server --ports 0-8 --open", "from 1 to 65535"),
        ("server --bogus --open", "--bogus"),
        ("forward", "SERVICE"),
        ("forward 8080", "RELAY"),
        ("forward 0 host", "is no service"),
        ("forward 80 host:0", "from 1 to 65535"),
        ("forward 80 tls://host", "without a scheme"),
        ("forward 80 host --mode bogus", "multiplex, pool or event"),
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
    for line in ["--help", "server --help", "forward --help", "demo --help", "1234 --help"] {
        let help = run(line).expect_err(line);
        assert_eq!(help.exit_code(), 0, "{line}");
        let text = help.to_string();
        assert!(text.lines().count() <= 24, "{line} has {} lines:\n{text}", text.lines().count());
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.contains("relay "), "{text}");
    }
}

#[test]
fn usage_speaks_of_relay_whatever_the_file_is_called() {
    for line in ["server --bogus", "bogus", "forward 80", "--localForwardPort=80", "demo now", "server --help"] {
        let args = std::iter::once("/opt/relay-1.2").chain(line.split_whitespace());
        let said = parse(args.map(OsString::from)).expect_err(line).to_string();
        assert!(said.contains("Usage: relay ") && !said.contains("relay-1.2"), "{said}");
    }
}
