use std::fs;
use std::net::Ipv4Addr;
use std::time::SystemTime;

use relay_proto::invite::Invite;
use tempfile::TempDir;

use super::*;
use crate::identity::Rights;
use crate::state::rig::{self, identity, name};
use crate::state::{Certificate, Source};

fn context(place: &TempDir) -> Context<'_> {
    Context { state: Some(place.path()), ..Context::default() }
}

fn wish(text: &str) -> Wish {
    Wish { name: name(text), rights: Rights::default(), expires: None, host: None, replace: false }
}

fn to(text: &str, host: &str) -> Wish {
    Wish { host: Some(host.parse().unwrap()), ..wish(text) }
}

/// What a command printed, and how it ended.
struct Ran<T> {
    out: String,
    err: String,
    ended: Result<T, CommandError>,
}

fn run<T>(command: impl FnOnce(&mut dyn Write, &mut dyn Write) -> Result<T, CommandError>) -> Ran<T> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = command(&mut out, &mut err);
    Ran { out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap(), ended }
}

/// The one line on stdout as an invite.
fn invited(context: &Context<'_>, wish: &Wish) -> (Invite, String) {
    let Ran { out, err, ended } = run(|out, err| invite(context, wish, out, err));
    ended.unwrap();
    assert_eq!((out.lines().count(), out.ends_with('\n')), (1, true), "{out}");
    (out.trim_end().parse().unwrap(), err)
}

fn load(place: &TempDir) -> Identities {
    Identities::load(&Directory::find(Some(place.path())).unwrap(), []).unwrap()
}

#[test]
fn an_invite_has_all_that_its_owner_needs() {
    let place = rig::state();
    let locked = rig::lock(place.path());
    Facts { listen: (Ipv4Addr::UNSPECIFIED, 7777).into(), ..Facts::default() }.store(&locked).unwrap();
    let pin = Certificate::load(&locked).unwrap().unwrap().pin();
    drop(locked);
    let rights = Rights { ports: Some((8000, 8001)), max_tunnels: 1, max_users: 2, ..Rights::default() };
    let wish = Wish { rights: rights.clone(), expires: Some(Duration::MAX), ..to("laptop", "vps.example") };
    let (invite, err) = invited(&context(&place), &wish);
    assert_eq!((invite.name.as_str(), invite.relay.to_string().as_str()), ("laptop", "vps.example:7777"));
    assert_eq!(invite.pin, Some(pin));
    assert!(err.contains(&format!("  relay forward SERVICE '{invite}'\n")) && err.contains("--invite-file"), "{err}");
    assert!(err.contains("no relay runs") && !err.contains("guess") && !err.contains("warning"), "{err}");

    let identities = load(&place);
    let identity = identities.get(&invite.name).unwrap();
    assert_eq!(identity.verifier, Some(invite.token.verifier()));
    assert!(identity.rights.expires.is_some_and(|end| end > SystemTime::now() + Duration::from_secs(1 << 34)));
    assert_eq!(Rights { expires: None, ..identity.rights.clone() }, rights);
    for file in fs::read_dir(place.path()).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(&invite.token.expose()), "the token is kept");
    }
}

#[test]
fn the_host_is_as_named_or_a_guess_that_is_said() {
    let place = rig::state();
    let relay = |text, host: &str| invited(&context(&place), &to(text, host));
    let (invite, err) = relay("a", "[2001:db8::1]:443");
    assert_eq!(invite.relay.to_string(), "[2001:db8::1]:443");
    assert!(!err.contains("warning"), "{err}");
    assert!(relay("b", "10.0.0.1").1.contains("warning: 10.0.0.1 is private"));
    assert!(relay("c", "localhost").1.contains("warning: localhost is this machine itself"));
    // Never started, so the port is the usual one.
    assert_eq!(relay("d", "vps.example").0.relay.port(), 7000);

    let (_, err) = invited(&context(&place), &wish("e"));
    assert!(err.contains("a guess from this machine's"), "{err}");
    let configured = Context { host: Some("vps.example:1".parse().unwrap()), ..context(&place) };
    let (invite, err) = invited(&configured, &wish("f"));
    assert_eq!(invite.relay.to_string(), "vps.example:1");
    assert!(err.contains("vps.example:1, as its configuration says"), "{err}");
}

#[test]
fn a_certificate_of_a_name_is_not_pinned() {
    let place = rig::state();
    let names = Some(vec!["*.vps.example".to_owned(), "vps.example".to_owned()]);
    let context = Context { certificate: names, ..context(&place) };
    for (text, host, pinned, warned) in [
        ("a", "VPS.example", false, false),
        ("b", "a.vps.example:1", false, false),
        ("c", "a.b.vps.example", false, true),
        ("d", "198.51.100.1", true, false),
    ] {
        let (invite, err) = invited(&context, &to(text, host));
        assert_eq!((invite.pin.is_some(), err.contains("clients will refuse it")), (pinned, warned), "{host}: {err}");
    }
    let (invite, err) = invited(&context, &wish("e"));
    assert_eq!((invite.relay.host(), invite.pin), ("vps.example", None), "{err}");
}

#[test]
fn a_running_server_knows_at_once() {
    let place = rig::state();
    let (_runtime, relay) = rig::serve(place.path(), vec![identity("configured")]);
    let (invite, err) = invited(&context(&place), &to("laptop", "vps.example"));
    assert!(!err.contains("no relay runs"), "{err}");
    let verifier = |name| relay.identities.lock().unwrap().get(name).unwrap().verifier.clone();
    assert_eq!(verifier(&invite.name), Some(invite.token.verifier()));

    let refused = run(|out, err| super::invite(&context(&place), &to("laptop", "vps.example"), out, err));
    assert_eq!(refused.out, "");
    let error = refused.ended.unwrap_err().to_string();
    assert!(error.starts_with("laptop: the name is in use") && error.contains("--replace"), "{error}");
    let (new, err) = invited(&context(&place), &Wish { replace: true, ..to("laptop", "vps.example") });
    assert_ne!(new.token, invite.token);
    assert!(err.contains("replaced laptop: cut 2 links and 3 users"), "{err}");
    assert_eq!(verifier(&new.name), Some(new.token.verifier()));

    let revoked = run(|out, err| revoke(&context(&place), &name("configured"), out, err));
    revoked.ended.unwrap();
    assert_eq!((&*revoked.out, &*revoked.err), ("revoked configured: cut 2 links and 3 users\n", ""));
    assert!(load(&place).get(&name("configured")).unwrap().revoked);
    let error = run(|out, err| revoke(&context(&place), &name("nobody"), out, err)).ended.unwrap_err();
    assert_eq!(error.to_string(), "nobody: nobody has that name: `relay identities` lists those who have one");
}

#[test]
fn without_a_server_the_files_are_written_and_that_is_said() {
    let place = rig::state();
    Facts { open: true, ..Facts::default() }.store(&rig::lock(place.path())).unwrap();
    let context = Context { identities: vec![identity("configured")], ..context(&place) };
    let revoked = run(|out, err| revoke(&context, &name("configured"), out, err));
    revoked.ended.unwrap();
    assert_eq!(revoked.out, "revoked configured\n");
    let (note, warning) = revoked.err.split_once('\n').unwrap();
    assert!(note.starts_with("note: no relay runs with the state in "), "{note}");
    assert!(warning.starts_with("warning: the relay is open: anyone can still connect"), "{warning}");
    assert!(load(&place).get(&name("configured")).unwrap().revoked);
    let error = run(|out, err| revoke(&context, &name("nobody"), out, err)).ended.unwrap_err().to_string();
    assert!(error.ends_with("name that with --config FILE"), "{error}");
}

#[test]
fn identities_are_listed_for_people_and_programs() {
    let place = rig::state();
    let listed = |json| {
        let Ran { out, err, ended } = run(|out, err| identities(&context(&place), json, out, err));
        ended.unwrap();
        (out, err)
    };
    assert_eq!(listed(true), ("[]\n".into(), String::new()));
    assert_eq!(
        listed(false),
        (String::new(), "nobody is invited yet; to invite somebody, type: relay invite NAME\n".into())
    );

    let expired = Rights { expires: Some(SystemTime::UNIX_EPOCH), ports: Some((8000, 8010)), ..Rights::default() };
    for (text, rights) in [("a-long-name", Rights::default()), ("b", expired)] {
        add(&place, Identity { rights, ..identity(text) });
    }
    run(|out, err| revoke(&context(&place), &name("a-long-name"), out, err)).ended.unwrap();
    assert_eq!(
        listed(false).0,
        "NAME         STATE    PORTS      TUNNELS  USERS       EXPIRES\n\
         a-long-name  revoked  any        up to 8  up to 4096  never\n\
         b            expired  8000-8010  up to 8  up to 4096  1970-01-01T00:00:00Z\n"
    );
    let alone = listed(true).0;
    let (_runtime, relay) = rig::serve(place.path(), vec![identity("c")]);
    assert!(
        listed(false).0.ends_with("c            active   any        2 of 8   3 of 4096  never\n"),
        "{}",
        listed(false).0
    );
    let served: serde_json::Value = serde_json::from_str(&listed(true).0).unwrap();
    assert_eq!(
        served[1],
        serde_json::json!({
            "name": "b", "state": "expired", "source": "invite", "ports": [8000, 8010], "tunnels": 2, "max_tunnels": 8,
            "users": 3, "max_users": 4096, "bandwidth": null, "expires": "1970-01-01T00:00:00Z",
        })
    );
    assert_eq!(served[2]["source"], serde_json::to_value(Source::Configuration).unwrap());
    let alone: serde_json::Value = serde_json::from_str(&alone).unwrap();
    assert_eq!((&alone[1]["tunnels"], alone[1].as_object().unwrap().len()), (&serde_json::Value::Null, 10));
    drop(relay);
}

fn add(place: &TempDir, identity: Identity) {
    load(place).add(&rig::lock(place.path()), identity, false).unwrap();
}

#[test]
fn invites_at_once_are_all_kept() {
    for served in [false, true] {
        let place = rig::state();
        let server = served.then(|| rig::serve(place.path(), Vec::new()));
        let names: Vec<_> = (0..6).map(|number| format!("name-{number}")).collect();
        thread::scope(|scope| {
            for text in &names {
                let place = &place;
                scope.spawn(move || invited(&context(place), &to(text, "vps.example")));
            }
        });
        drop(server);
        assert_eq!(load(&place).iter().count(), names.len());
    }
}

#[test]
fn a_server_that_does_not_answer_is_not_passed_over() {
    let place = rig::state();
    // As a server that hangs before it listens.
    let locked = rig::lock(place.path());
    thread::scope(|scope| {
        scope.spawn(|| {
            let error = run(|out, err| identities(&context(&place), false, out, err)).ended.unwrap_err().to_string();
            assert!(error.contains("does not answer") && error.contains("restart it"), "{error}");
        });
        let refused = run(|out, err| invite(&context(&place), &to("a", "vps.example"), out, err));
        assert!(matches!(refused.ended, Err(CommandError::Unanswered { .. })));
        assert_eq!(refused.out, "");
    });
    drop(locked);
    assert_eq!(load(&place).iter().count(), 0);
}

#[test]
fn without_a_state_nothing_is_made() {
    let place = tempfile::tempdir().unwrap();
    let context = context(&place);
    for error in [
        run(|out, err| invite(&context, &wish("a"), out, err)).ended.unwrap_err(),
        run(|out, err| revoke(&context, &name("a"), out, err)).ended.unwrap_err(),
        run(|out, err| identities(&context, true, out, err)).ended.unwrap_err(),
    ] {
        assert!(error.to_string().contains("start `relay server "), "{error}");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn a_read_only_state_can_be_listed_and_not_changed() {
    let Some(disk) = rig::SmallDisk::mount() else { return };
    drop(rig::fill(disk.path()));
    disk.make_read_only();
    let context = Context { state: Some(disk.path()), ..Context::default() };
    run(|out, err| identities(&context, false, out, err)).ended.unwrap();
    let refused = run(|out, err| invite(&context, &to("a", "vps.example"), out, err));
    let error = refused.ended.unwrap_err().to_string();
    assert!(error.contains("make it writable") && refused.out.is_empty(), "{error}");
}
