use std::fs;

use relay_proto::proxy::Version;

use super::*;
use crate::cli::LinkFlags;
use crate::config::{Configuration, Kind};

fn server(text: &str) -> Server {
    match Configuration::parse(Path::new("/f"), text, Some(Kind::Server), References::Leave) {
        Ok(Configuration::Server(server)) => *server,
        other => panic!("{other:?}"),
    }
}

fn forwarder(text: &str) -> Forwarder {
    match Configuration::parse(Path::new("/f"), text, Some(Kind::Forwarder), References::Leave) {
        Ok(Configuration::Forwarder(forwarder)) => *forwarder,
        other => panic!("{other:?}"),
    }
}

/// The environment comes in with the flags: that it stands behind them is tested with the command line.
#[test]
fn a_servers_flags_go_before_its_file_and_that_before_the_default() {
    let file = "listen = \"1\"\nports = \"2-3\"\nstate = \"/file\"\nopen = true\nno_bbr = true";
    let link = LinkFlags { no_bbr: Some(false) };
    let place = PlaceFlags { state: Some("/flag".into()), config: None };
    let (listen, ports) = (Some("127.0.0.1:9".parse().unwrap()), Some((8, 9)));
    let flags = ServerFlags { listen, ports, place, open: Some(false), link };
    let short = |flags: &ServerFlags, file: &str| {
        let plan = ServerPlan::merge(flags.clone(), server(file));
        let state = plan.state.unwrap_or_default();
        format!("{} {:?} {} open {} bbr {}", plan.listen, plan.ports, state.display(), plan.open, plan.bbr)
    };
    let none = ServerFlags::default();
    assert_eq!(short(&none, ""), "[::]:7000 None  open false bbr true");
    assert_eq!(short(&none, file), "[::]:1 Some((2, 3)) /file open true bbr false");
    assert_eq!(short(&flags, file), "127.0.0.1:9 Some((8, 9)) /flag open false bbr true");
    assert_eq!(short(&flags, ""), short(&flags, file));
}

#[test]
fn public_ports_are_bound_where_the_control_port_is_unless_told_otherwise() {
    let bind = |file| ServerPlan::merge(ServerFlags::default(), server(file)).bind.to_string();
    assert_eq!(bind(""), "::");
    assert_eq!(bind("listen = \"127.0.0.1:1\""), "127.0.0.1");
    assert_eq!(bind("listen = \"127.0.0.1:1\"\nbind = \"0.0.0.0\""), "0.0.0.0");
}

const TOKEN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

const PIN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

#[test]
fn a_forwarders_flags_go_before_its_file_and_that_before_the_default() {
    let file = "relay = \"file\"\nno_bbr = true\n[[service]]\nservice = \"1\"\nmode = \"pool\"\nport = 2\nallow = [\"::1\"]\n\
         proxy_protocol = \"v1\"";
    let flags = ForwardFlags {
        service: Some("80".parse().unwrap()),
        relay: Some("flag:1".parse().unwrap()),
        mode: Some(Protocol::Event),
        port: Some(9),
        allow: vec!["10.0.0.0/8".parse().unwrap()],
        proxy_protocol: Some(Version::V2),
        link: LinkFlags { no_bbr: Some(false) },
        ..ForwardFlags::default()
    };
    let short = |flags: &ForwardFlags, file: &str| {
        let config = merge(flags.clone(), forwarder(file)).unwrap();
        let forward::Config { service, relay, protocol, port, allow, proxy_protocol, bbr, .. } = config;
        format!("{service} {relay} {protocol} {port:?} {allow:?} {proxy_protocol:?} bbr {bbr}")
    };
    assert_eq!(
        short(&ForwardFlags::default(), file),
        "localhost:1 file:7000 pool Some(2) [::1/128] Some(V1) bbr false"
    );
    assert_eq!(short(&flags, file), "localhost:80 flag:1 event Some(9) [10.0.0.0/8] Some(V2) bbr true");
    let bare = ForwardFlags { service: flags.service.clone(), relay: flags.relay.clone(), ..ForwardFlags::default() };
    assert_eq!(short(&bare, ""), "localhost:80 flag:1 multiplex None [] None bbr true");
    assert_eq!(short(&bare, file), "localhost:80 flag:1 pool Some(2) [::1/128] Some(V1) bbr false");
}

#[test]
fn the_relay_is_an_argument_or_an_invite_of_a_file_or_of_the_environment_or_the_configurations() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("invite");
    fs::write(&path, format!("'relay://laptop:{TOKEN}@in-file?pin=sha256-{PIN}'\n")).unwrap();
    let invite: Result<Relay, String> = Ok(format!("relay://laptop:{TOKEN}@in-env?pin=sha256-{PIN}").parse().unwrap());
    let relay: Option<Relay> = Some("argument".parse().unwrap());
    let all = ForwardFlags { relay, invite_file: Some(path), invite: Some(invite), ..ForwardFlags::default() };
    let [mut no_argument, mut no_file, mut nothing] = [all.clone(), all.clone(), all.clone()];
    no_argument.relay = None;
    (no_file.relay, no_file.invite_file) = (None, None);
    (nothing.relay, nothing.invite_file, nothing.invite) = (None, None, None);
    for (flags, wanted) in [(all, "argument"), (no_argument, "in-file"), (no_file, "in-env"), (nothing, "in-config")] {
        let service = Some("80".parse().unwrap());
        let config = merge(ForwardFlags { service, ..flags }, forwarder("relay = \"in-config\""));
        assert_eq!(config.unwrap().relay.host(), wanted);
    }
}

#[test]
fn what_is_missing_or_does_not_fit_is_wrong_usage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("invite");
    fs::write(&path, format!("relay://laptop:{TOKEN}@")).unwrap();
    let (service, relay) = (Some("80".parse().unwrap()), |text: &str| Some(text.parse().unwrap()));
    let none = ForwardFlags::default;
    for (flags, hint) in [
        (none(), "the relay is missing"),
        (ForwardFlags { relay: relay("host"), ..none() }, "the service is missing"),
        (ForwardFlags { invite_file: Some(path), ..none() }, "not a whole invite"),
        (ForwardFlags { invite_file: Some("/none".into()), ..none() }, "cannot read /none"),
        (ForwardFlags { invite: Some(Err("broken".into())), ..none() }, "broken"),
        (ForwardFlags { service: service.clone(), relay: relay("host"), ca: Some("/c".into()), ..none() }, "tls://"),
        (ForwardFlags { service, relay: relay("tls://host"), ca: Some("/none".into()), ..none() }, "cannot read /none"),
    ] {
        match merge(flags, forwarder("")) {
            Err(PlanError::Usage(said)) => assert!(said.contains(hint) && !said.contains(TOKEN), "{said}"),
            other => panic!("{hint}: {other:?}"),
        }
    }
}

#[test]
fn only_a_relay_without_a_scheme_is_met_in_plain_text() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(&ca, rcgen::CertificateParams::new(["relay".into()]).unwrap().self_signed(&key).unwrap().pem()).unwrap();
    let invite = format!("relay://laptop:{TOKEN}@host");
    for (relay, ca, tls) in [
        ("host".to_owned(), None, false),
        ("tls://host".into(), Some(ca.clone()), true),
        (invite.clone(), Some(ca), true),
        (format!("{invite}?pin=sha256-{PIN}"), None, true),
    ] {
        let (service, relay) = (Some("80".parse().unwrap()), Some(relay.parse().unwrap()));
        let config = merge(ForwardFlags { service, relay, ca, ..ForwardFlags::default() }, forwarder("")).unwrap();
        assert_eq!(config.tls.is_some(), tls);
    }
}
