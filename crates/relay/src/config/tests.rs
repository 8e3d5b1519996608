use std::fs;

use proptest::prelude::*;
use relay_proto::identity::Token;

use super::*;

const FILE: &str = "/etc/relay.toml";

/// Every key of a server's file.
const SERVER: &str = r#"
listen = "127.0.0.1:7000"
ports = "8000-8999"
bind = "127.0.0.1"
state = "state"
open = true
host = "vps.example:443"
plain_text = true
proxy_protocol = ["10.0.0.0/8", "192.0.2.1"]
no_bbr = true
identities_file = "identities"

[tls]
certificate = "cert.pem"
key = "key.pem"
tls12 = true

[anonymous]
networks = ["10.0.0.0/8", "::1"]
ports = "9000"

[limits]
handshakes = 1
handshakes_per_source = 2
failures_per_source = 3
tunnels_per_identity = 4
users_per_tunnel = 5
users_per_source = 6
new_users_per_source = 7
waiting_users = 8
descriptors = 9
exempt = []
bandwidth = "10 MB"
memory_per_session = 4096
memory = "1 GiB"

[[identity]]
name = "laptop"
token_file = "laptop.token"
certificate_sha256 = "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"
ports = "8001-8002"
max_tunnels = 2
max_users = 100
bandwidth = "1 MiB"
expires = 1970-01-02T01:00:00+01:00
allow = ["::ffff:192.0.2.0/120"]
refuse = ["192.0.2.7"]

[[identity]]
name = "phone"
verifier = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"

[[identity]]
name = "car"
token_env = "CAR"
"#;

/// Every key of a forwarder's file; of the three that name the relay it takes one at a time.
const FORWARDER: &str = r#"
relay = "tls://vps.example"
ca = "ca.pem"
cert = "cert.pem"
key = "key.pem"
no_bbr = true

[[service]]
service = "8080"
mode = "pool"
port = 8001
allow = ["10.0.0.0/8"]
proxy_protocol = "v2"
"#;

fn parse(text: &str) -> Result<Configuration, ConfigError> {
    Configuration::parse(Path::new(FILE), text, None, References::Leave)
}

/// What is wrong, without the file's name.
fn problems(text: &str) -> Vec<String> {
    let error = parse(text).map(|parsed| panic!("{text}: {parsed:?}")).unwrap_err();
    error.to_string().lines().map(|line| line.strip_prefix(FILE).unwrap_or_else(|| panic!("{line}")).into()).collect()
}

#[test]
fn every_key_of_a_server_is_read() {
    let Configuration::Server(server) = parse(SERVER).unwrap() else { panic!("it is a server's") };
    let network = |text: &str| relay_proto::network::parse(text).unwrap();
    assert_eq!(server.listen, Some("127.0.0.1:7000".parse().unwrap()));
    assert_eq!((server.ports, server.bind), (Some((8000, 8999)), Some("127.0.0.1".parse().unwrap())));
    assert_eq!(server.state.as_deref(), Some(Path::new("/etc/state")), "from the file's folder");
    assert_eq!((server.open, server.plain_text, server.no_bbr), (Some(true), Some(true), Some(true)));
    assert_eq!(server.host.unwrap().to_string(), "vps.example:443");
    assert_eq!(server.proxy_protocol, [network("10.0.0.0/8"), network("192.0.2.1")]);
    let files = Some(("/etc/cert.pem".into(), "/etc/key.pem".into()));
    assert_eq!(server.tls, Tls { files, tls12: Some(true) });
    let networks = vec![network("10.0.0.0/8"), network("::1/128")];
    assert_eq!(server.anonymous, Anonymous { networks, ports: Some((9000, 9000)) });
    let limits = Limits {
        handshakes: Some(1),
        handshakes_per_source: Some(2),
        failures_per_source: Some(3),
        tunnels_per_identity: Some(4),
        users_per_tunnel: Some(5),
        users_per_source: Some(6),
        new_users_per_source: Some(7),
        waiting_users: Some(8),
        descriptors: Some(9),
        exempt: Some(Vec::new()),
        bandwidth: Some(10_000_000),
        memory_per_session: Some(4096),
        memory: Some(1 << 30),
    };
    assert_eq!(server.limits, limits);
    let [laptop, phone, car] = &server.identities[..] else { panic!("{:?}", server.identities) };
    assert_eq!((laptop.name.as_str(), laptop.certificate), ("laptop", Some([15; 32])));
    let rights = crate::identity::Rights {
        ports: Some((8001, 8002)),
        max_tunnels: 2,
        max_users: 100,
        bandwidth: Some(1 << 20),
        expires: Some(std::time::UNIX_EPOCH + std::time::Duration::from_hours(24)),
        allow: vec![network("192.0.2.0/24")],
        refuse: vec![network("192.0.2.7/32")],
    };
    assert_eq!(laptop.rights, rights);
    assert!(phone.verifier.is_some() && car.verifier.is_none(), "what it refers to was left alone");
    assert_eq!((car.rights.max_tunnels, car.rights.max_users), (4, 4096), "the limit is the default of identities");
}

#[test]
fn every_key_of_a_forwarder_is_read() {
    let Configuration::Forwarder(forwarder) = parse(FORWARDER).unwrap() else { panic!("it is a forwarder's") };
    assert_eq!(forwarder.relay, Some("tls://vps.example".parse().unwrap()));
    assert_eq!(forwarder.ca.as_deref(), Some(Path::new("/etc/ca.pem")));
    assert_eq!(forwarder.certificate, Some(("/etc/cert.pem".into(), "/etc/key.pem".into())));
    assert_eq!(forwarder.no_bbr, Some(true));
    let service = forwarder.service.unwrap();
    assert_eq!(service.service, "8080".parse().unwrap());
    assert_eq!((service.mode, service.port), (Some(relay_client::Protocol::Pool), Some(8001)));
    assert_eq!(service.allow, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(service.proxy_protocol, Some(relay_proto::proxy::Version::V2));
}

#[test]
fn every_key_is_in_the_page_about_them() {
    let page = include_str!("../../../../docs/CONFIGURATION.md");
    for (kind, text) in [(Kind::Server, SERVER), (Kind::Forwarder, FORWARDER)] {
        let source = Source::new(Path::new(FILE), text, References::Leave);
        read(&source, Some(kind));
        let known = source.known();
        // The outermost keys are also written down for telling the kinds apart.
        let outermost: Vec<_> = known.iter().filter(|key| !key.contains('.') && *key != "no_bbr").collect();
        assert!(outermost.iter().all(|key| kind.keys().contains(&key.as_str())), "{kind}: {outermost:?}");
        assert_eq!(outermost.len(), kind.keys().len());

        let part = page.split("\n## ").find(|part| part.starts_with(&format!("The {kind}'s file"))).unwrap();
        let mut table = String::new();
        let mut documented = std::collections::BTreeSet::new();
        for line in part.lines() {
            if let Some(heading) = line.strip_prefix("### `") {
                table = heading.trim_matches(|c| matches!(c, '[' | ']' | '`')).to_owned() + ".";
                documented.insert(table.trim_end_matches('.').to_owned());
            } else if let Some(row) = line.strip_prefix("| `") {
                documented.insert(format!("{table}{}", row.split('`').next().unwrap()));
            }
        }
        assert_eq!(documented, known, "{kind}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_known() {
    for (text, wanted) in [
        ("\nport = \"1-2\"", ":2: unknown key `port`; did you mean `ports`?"),
        ("opne = true", ":1: unknown key `opne`; did you mean `open`?"),
        ("handshakes = 3", ":1: unknown key `handshakes`; it belongs into the table `limits`"),
        ("[limits]\nmemroy = 3", ":2: unknown key `memroy` in `limits`; did you mean `memory`?"),
        ("[limit]\nmemory = 3", ":1: unknown key `limit`; did you mean `limits`?"),
        ("quux = 3", ":1: unknown key `quux`; docs/CONFIGURATION.md lists all keys"),
        ("\"\\u001b[31m\" = 3", ":1: unknown key `\\u{1b}[31m`; docs/CONFIGURATION.md lists all keys"),
        ("[[service]]\nservice = \"1\"\nprot = 3", ":3: unknown key `prot` in `service`; did you mean `port`?"),
        ("relay = \"h\"\nlisten = \"1\"", ":1: `relay` belongs into a forwarder's file, and this is a server's"),
        ("\n[[service]]\n[limits]", ":2: `service` belongs into a forwarder's file, and this is a server's"),
    ] {
        assert_eq!(problems(text), [wanted], "{text}");
    }
    let text = "listen = \"7000\"";
    let as_forwarder = Configuration::parse(Path::new(FILE), text, Some(Kind::Forwarder), References::Leave);
    let said = as_forwarder.unwrap_err().to_string();
    assert_eq!(said, format!("{FILE}:1: `listen` belongs into a server's file, and this is a forwarder's"));
}

#[test]
fn a_wrong_value_is_named_with_its_line_and_what_is_expected() {
    for (text, wanted) in [
        ("open = 1", ":1: `open` takes true or false, not a whole number"),
        ("listen = 7000", ":1: `listen` takes a text in quotes, not a whole number"),
        ("listen = \"host:1\"", ":1: `listen`: give an IP address and a port, as in 0.0.0.0:7000 or [::]:7000"),
        ("ports = \"9-8\"", ":1: `ports`: give two ports from 1 to 65535, the lower first, as in 8000-8999"),
        ("bind = \"h\"", ":1: `bind`: give an IP address, as in 192.0.2.1 or [::]"),
        ("host = \"a b\"", ":1: `host`: give HOST or HOST:PORT, an IPv6 address in brackets"),
        ("state = \"\"", ":1: `state`: it is empty: give the name of a file or folder"),
        ("tls = 1", ":1: `tls` takes a table, as in [tls], not a whole number"),
        ("identity = 1", ":1: `identity` takes tables, each as [[identity]]"),
        ("identity = [1]", ":1: `identity` takes tables, each as [[identity]]"),
        ("[tls]\nkey = \"k\"", ":2: `key` needs `certificate`, the file of its certificate"),
        ("[tls]\ncertificate = \"k\"", ":2: `certificate` needs `key`, the file of its key"),
        ("[anonymous]\nnetworks = []", ":2: `networks` is empty: leave it out, or name what is meant"),
        ("[anonymous]\nnetworks = \"::/0\"", ":2: `networks` takes a list of texts, as in [\"…\", \"…\"], not a text"),
        ("[anonymous]\nnetworks = [1]", ":2: `networks` takes a list of texts, as in [\"…\", \"…\"], not a list"),
        (
            "[anonymous]\nnetworks = [\n\"::/0\",\n\"x\"]",
            ":4: `networks`: a network is an address and a length, as in 10.0.0.0/8 or 2001:db8::/32, or one address",
        ),
        ("[limits]\nhandshakes = 0", ":2: `handshakes` takes a whole number from 1 to 100000000"),
        ("[limits]\nhandshakes = -1", ":2: `handshakes` takes a whole number from 1 to 100000000"),
        ("[limits]\nhandshakes = 99999999999999999999", ":2: `handshakes` takes a whole number from 1 to 100000000"),
        ("[limits]\nhandshakes = 1.5", ":2: `handshakes` takes a whole number from 1 to 100000000, not a fraction"),
        (
            "[limits]\nmemory = 0x10000000000000000",
            ":2: `memory`: give bytes, as in 64 MiB, 10 MB or 4096; units are B, kB, MB, GB, KiB, MiB and GiB",
        ),
        ("[limits]\nmemory = true", ":2: `memory` takes bytes, as in \"64 MiB\" or 4096, not true or false"),
        ("[[service]]\nport = 1", ":1: a `[[service]]` needs `service`, where it listens"),
        (
            "[[service]]\nservice = \"0\"",
            ":2: `service`: give a port, host:port (an IPv6 host in brackets) or unix:PATH",
        ),
        ("[[service]]\nservice = \"1\"\nport = 0", ":3: `port` takes a whole number from 1 to 65535"),
        ("[[service]]\nservice = \"1\"\nmode = \"x\"", ":3: `mode`: it is multiplex, pool or event"),
        (
            "[[service]]\nservice = \"1\"\n[[service]]\nservice = \"2\"",
            ":3: a forwarder has one service: run another `relay forward` for each further one",
        ),
        (
            "relay = \"h\"\ninvite_env = \"I\"",
            ": there is one relay: give only one of `relay`, `invite_file` and `invite_env`",
        ),
        (
            "relay = \"h\"\nca = \"c\"",
            ": certificates are for TLS, and HOST[:PORT] is plain text: write the relay as tls://HOST[:PORT]",
        ),
    ] {
        assert_eq!(problems(text), [wanted], "{text}");
    }
}

#[test]
fn an_identity_needs_a_name_and_one_proof() {
    let verifier = "verifier = \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"";
    for (lines, wanted) in [
        (verifier.to_owned(), ":2: an identity needs a `name`"),
        (
            "name = \"a\"".into(),
            ":2: an identity needs something to prove itself: `token_file`, `token_env`, `verifier` or \
             `certificate_sha256`",
        ),
        (
            format!("name = \"a\"\ntoken_env = \"T\"\n{verifier}"),
            ":2: an identity has one token: give only one of `token_file`, `token_env` and `verifier`",
        ),
        (
            format!("name = \"A\"\n{verifier}"),
            ":3: `name`: a name has 1 to 63 of a-z, 0-9, dot, dash and underscore, and begins with a letter or digit",
        ),
        (
            format!("name = \"a\"\n{verifier}\nexpires = 2030-01-01T00:00:00"),
            ":5: `expires` takes a date from 1970 on, as in 2030-12-31 or 2030-12-31T18:00:00Z, without quotes",
        ),
        (format!("name = \"a\"\n{verifier}\nallow = []"), ":5: `allow` is empty: leave it out, or name what is meant"),
        (
            format!("name = \"a\"\n{verifier}\n[[identity]]\nname = \"a\"\n{verifier}"),
            ":5: the identity `a` is there twice: give each a name of its own",
        ),
    ] {
        assert_eq!(problems(&format!("\n[[identity]]\n{lines}")), [wanted], "{lines}");
    }
}

#[test]
fn all_problems_are_told_at_once_in_order() {
    let told = problems("opne = true\n[limits]\nmemory = true\n[tls]\nkey = 1\n[[identity]]\nname = 3\n");
    let lines: Vec<_> = told.iter().map(|problem| problem.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["1", "3", "5", "6", "7"], "{told:?}");
}

#[test]
fn what_is_not_toml_is_refused_with_its_line() {
    for text in ["\nlisten", "\nlisten = ", "\nopen = true true", "listen = \"1\"\nlisten = \"2\"", "\n[tls", "\n]"] {
        let told = problems(text);
        assert!(
            told.iter().all(|problem| problem.starts_with(":2: ") && !problem.contains('\n')),
            "{text:?}: {told:?}"
        );
    }
}

/// A folder with all that the examples refer to, and a configuration in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["relay".into()]).unwrap().self_signed(&key).unwrap();
        folder.write("cert.pem", &certificate.pem(), 0o644);
        folder.write("ca.pem", &certificate.pem(), 0o644);
        folder.write("key.pem", &key.serialize_pem(), 0o640);
        folder.write("other.pem", &rcgen::KeyPair::generate().unwrap().serialize_pem(), 0o600);
        folder.write("laptop.token", &format!("{}\n", token(1)), 0o600);
        let lines = format!("# who\n\none {}\n two\t{}\n", token(2), token(3));
        folder.write("identities", &lines, 0o400);
        folder
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.path(name), text).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let _ = mode;
    }

    /// What is wrong with a configuration of that text, without the folder's name; or how many identities it has.
    fn check(&self, text: &str) -> Result<usize, String> {
        self.write("relay.toml", text, 0o644);
        match Configuration::read(&self.path("relay.toml")) {
            Ok(Configuration::Server(server)) => Ok(server.identities.len()),
            Ok(Configuration::Forwarder(_)) => Ok(0),
            Err(error) => Err(error.to_string().replace(&format!("{}/", self.0.path().display()), "")),
        }
    }
}

fn token(byte: u8) -> String {
    Token::from_random([byte; 32]).expose()
}

#[test]
fn what_a_configuration_refers_to_is_read_and_checked() {
    let folder = Folder::new();
    // Every system that tests run on has this variable, and no token in it.
    let told = folder.check(&SERVER.replace("\"CAR\"", "\"PATH\"")).unwrap_err();
    let line = 1 + SERVER.lines().position(|line| line.starts_with("token_env")).unwrap();
    let wanted = "`token_env`: a token has 43 characters of A-Z, a-z, 0-9, dash and underscore";
    assert_eq!(told, format!("relay.toml:{line}: {wanted}"));
    let without = SERVER.split("[[identity]]\nname = \"car\"").next().unwrap();
    assert_eq!(folder.check(without), Ok(4));
    assert_eq!(folder.check(FORWARDER), Ok(0));
}

#[test]
fn a_reference_that_leads_nowhere_is_named() {
    let folder = Folder::new();
    folder.write("bad.pem", "no PEM", 0o600);
    folder.write("bad.token", "secret", 0o600);
    folder.write("bad.identities", &format!("a b c\nA {0}\nb {0}x\nb {0}\nb {0}\n", token(4)), 0o600);
    folder.write("bad.invite", &format!("relay://laptop:{}@", token(5)), 0o600);
    let identity = |line: &str| format!("[[identity]]\nname = \"a\"\n{line}");
    for (text, wanted) in [
        ("identities_file = \"none\"".into(), ":1: `identities_file`: cannot read none: "),
        ("identities_file = \".\"".into(), "cannot read "),
        (identity("token_file = \"bad.token\""), ":3: `token_file`: a token has 43 characters"),
        (identity("token_env = \"RELAY_TEST_UNSET\""), "has no variable \"RELAY_TEST_UNSET\": set it"),
        (identity("token_env = \"A=B\""), "no variable of the environment can have that name"),
        (
            "[tls]\ncertificate = \"cert.pem\"\nkey = \"other.pem\"".into(),
            ":2: `certificate`: the key other.pem does not fit",
        ),
        ("[tls]\ncertificate = \"cert.pem\"\nkey = \"bad.pem\"".into(), "bad.pem is not PEM"),
        ("[tls]\ncertificate = \"bad.pem\"\nkey = \"key.pem\"".into(), "bad.pem is not PEM"),
        ("[tls]\ncertificate = \"none\"\nkey = \"key.pem\"".into(), "cannot read none: "),
        ("ca = \"key.pem\"\nrelay = \"tls://h\"".into(), ":1: `ca`: key.pem is not PEM"),
        (
            "invite_file = \"bad.invite\"".into(),
            ":1: `invite_file`: not a whole invite, copy it again: the host is missing",
        ),
        ("invite_file = \"none\"".into(), "cannot read none: "),
    ] {
        let told = folder.check(&text).unwrap_err();
        assert!(told.contains(wanted) && told.starts_with("relay.toml:"), "{text}: {told}");
    }
    let told = folder.check("identities_file = \"bad.identities\"").unwrap_err();
    for (number, wanted) in [(1, "two words: NAME TOKEN"), (2, "a name has"), (3, "a token has"), (5, "there twice")] {
        assert!(told.contains(&format!("its line {number}: ")) && told.contains(wanted), "{told}");
    }
    assert!(!told.contains(&token(4)) && told.lines().count() == 4, "{told}");
    let missing = Configuration::read(&folder.path("none.toml")).unwrap_err().to_string();
    assert!(missing.contains("none.toml: cannot read "), "{missing}");
}

#[cfg(unix)]
#[test]
fn secrets_that_others_may_read_are_refused() {
    let folder = Folder::new();
    for (mode, refused) in [(0o644, true), (0o604, true), (0o660, true), (0o602, true), (0o640, false), (0o600, false)]
    {
        folder.write("identities", &format!("one {}", token(2)), mode);
        let told = folder.check("identities_file = \"identities\"");
        assert_eq!(told.is_err(), refused, "{mode:o} {told:?}");
        if let Err(told) = told {
            assert!(told.contains("type `chmod 600 identities`"), "{told}");
        }
    }
    folder.write("key.pem", "anything", 0o644);
    assert!(folder.check("[tls]\ncertificate = \"cert.pem\"\nkey = \"key.pem\"").unwrap_err().contains("chmod 600"));
}

#[test]
fn a_secret_in_a_wrong_place_is_refused_and_not_shown() {
    let secret = token(7);
    let invite = format!("relay://laptop:{secret}@vps.example");
    for text in [
        format!("relay = \"{invite}\""),
        format!("relay = \"{}\"", invite.replace("relay:", "rely:")),
        format!("invite_file = \"{secret}\""),
        format!("invite_env = \"{secret}\""),
        format!("[[service]]\nservice = \"{invite}\""),
        format!("host = \"{invite}\""),
        format!("listen = \"{secret}\""),
        format!("[[identity]]\nname = \"{secret}A\"\ntoken_file = \"{secret}\""),
        format!("[[identity]]\nname = \"a\"\ntoken = \"{secret}\""),
        format!("[[identity]]\nname = \"a\"\nverifier = \"{secret}A\""),
    ] {
        let told = problems(&text).join("\n");
        assert!(!told.contains(&secret), "{told}");
    }
}

fn mangled() -> impl Strategy<Value = String> {
    let sample = prop_oneof![Just(SERVER), Just(FORWARDER)];
    (sample, any::<prop::sample::Index>(), 0..8usize, "[\\x00-\\x7fä\u{1f600}]{0,8}").prop_map(
        |(text, at, cut, put)| {
            let chars: Vec<_> = text.chars().collect();
            let at = at.index(chars.len());
            let rest = chars.iter().skip(at + cut);
            chars[..at].iter().copied().chain(put.chars()).chain(rest.copied()).collect()
        },
    )
}

proptest! {
    /// Whatever a file holds, reading it ends with a configuration, or with at least one problem.
    #[test]
    fn no_text_panics(text in prop_oneof![mangled(), any::<String>(), "[a-z\\[\\]=\"#. \n0-9-]{0,64}"]) {
        for kind in [None, Some(Kind::Server), Some(Kind::Forwarder)] {
            if let Err(error) = Configuration::parse(Path::new(FILE), &text, kind, References::Leave) {
                prop_assert!(!error.problems().is_empty());
                let lines = text.lines().count() + 1;
                let within = |problem: &Problem| problem.line.is_none_or(|line| (1..=lines).contains(&line));
                prop_assert!(error.problems().iter().all(within), "{error}");
            }
        }
    }
}
