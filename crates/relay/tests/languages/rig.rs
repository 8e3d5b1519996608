//! What every example must do, by what it claims.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{self, MIB, PATIENCE, Program, TempDir, User};

/// An example, with the address at which users reach it.
type Started = (Program, SocketAddr);

/// An echo: several MiB there and back, many users at once, and what follows a user's end.
pub(crate) fn echoes((mut example, at): Started) {
    let user = User::of_echo(at);
    user.echo(10 * MIB);
    user.many(50);
    user.half_close_echo();
    example.assert_runs();
}

/// A web service that greets users by name and sends back what they post.
pub(crate) fn is_a_web_service((mut example, at): Started, greeting: impl Fn(SocketAddr) -> String) {
    let user = User::of_echo(at);
    let (from, page) = user.get();
    assert_eq!(page, greeting(from));
    user.post(1, 5 * MIB);
    let users: Vec<_> = (2..32).map(|seed| thread::spawn(move || user.post(seed, 100_000))).collect();
    for user in users {
        user.join().unwrap();
    }
    example.assert_runs();
}

/// A relay that is open to everybody is started anew: the example's tunnel is back, at the same address.
pub(crate) fn survives_a_restart(start: impl FnOnce(&str, &str) -> Started) {
    let (relay, port) = support::relay();
    let (mut example, at) = start("localhost", &port.to_string());
    User::of_echo(at).echo(1000);
    drop(relay);
    let _relay = support::relay_on(port);
    assert_eq!(example.address_after("reachable again at "), at);
    User::of_echo(at).echo(1000);
    example.assert_runs();
}

/// A relay that serves only whom it invites, and an invite.
pub(crate) struct Invited {
    state: TempDir,
    _relay: Program,
    pub(crate) invite: String,
}

impl Invited {
    pub(crate) fn new() -> Self {
        let state = TempDir::new();
        let relay = support::closed_relay(state.path());
        let invite = support::manage(state.path(), &["invite", "laptop"]);
        Self { state, _relay: relay, invite }
    }
}

/// A forwarder with an invite, told the port of its service: what an echo does, hashes compared, and either end ending
/// first; its relay is started anew, and another is not taken for it.
pub(crate) fn forwards(start: impl Fn(&str, &str) -> Command) {
    let Invited { state, _relay: relay, invite } = Invited::new();
    let service = support::serve().port().to_string();
    refuses_forgeries(&invite, |invite| start(invite, &service));
    let (mut example, at) = support::reachable(&mut start(&invite, &service));
    let user = User::of(at);
    user.echo(10 * MIB);
    user.many(50);
    user.half_close();
    user.half_close_echo();
    user.service_ends_first();

    let port = invite.split(['?', ':']).nth_back(1).unwrap().parse().unwrap();
    drop(relay);
    let _relay = support::closed_relay_on(port, state.path());
    assert_eq!(example.address_after("reachable again at "), at);
    user.echo(1000);
    example.assert_runs();

    support::manage(state.path(), &["revoke", "laptop"]);
    example.line_with("the relay refuses: ");
}

/// A forwarder, whose service resets a user: in plain text and over TLS.
pub(crate) fn carries_an_abort(start: impl Fn(&str, &str) -> Command) {
    let service = support::serve().port().to_string();
    let (_relay, port) = support::relay();
    let invited = Invited::new();
    for relay in [&format!("localhost:{port}"), &invited.invite] {
        let (_example, at) = support::reachable(&mut start(relay, &service));
        User::of(at).is_reset();
    }
}

/// A forwarder, whose service speaks before its users do.
pub(crate) fn speaks_first(start: impl Fn(&str, &str) -> Command) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = listener.local_addr().unwrap().port().to_string();
    thread::spawn(move || listener.incoming().try_for_each(|user| user?.write_all(b"welcome")));
    let (_relay, port) = support::relay();
    let (_example, at) = support::reachable(&mut start(&format!("localhost:{port}"), &service));
    User::of(at).is_greeted("welcome");
}

/// A server that takes one user, closes, and echoes then: its public port is free, and the user stays to the end.
pub(crate) fn closes(start: impl Fn(&str) -> Command) {
    let (_relay, port) = support::relay();
    let (mut example, at) = support::reachable(&mut start(&format!("localhost:{port}")));
    let mut user = TcpStream::connect(at).unwrap();
    user.set_read_timeout(Some(PATIENCE)).unwrap();
    user.write_all(b"hello").unwrap();
    user.read_exact(&mut [0; 5]).unwrap();
    let closed = Instant::now();
    while TcpStream::connect(at).is_ok() {
        assert!(closed.elapsed() < Duration::from_secs(5), "the public port is still open");
        thread::sleep(Duration::from_millis(100));
    }
    user.write_all(b"again").unwrap();
    user.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    user.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "again");
    example.assert_runs();
}

/// An example says what is wrong with an invite that is not quite right, and does nothing more.
pub(crate) fn refuses_forgeries(invite: &str, start: impl Fn(&str) -> Command) {
    let (rest, pin) = invite.rsplit_once('-').unwrap();
    let other = if pin.starts_with('0') { "1" } else { "0" };
    for (forged, answer) in [
        (invite.replace("relay://laptop:", "relay://desktop:"), "denied unknown name or wrong token"),
        (format!("{rest}-{other}{}", &pin[1..]), "not the one that the invite names"),
    ] {
        let example = Program::spawn(&mut start(&forged));
        example.line_with(answer);
        assert!(example.lines().iter().all(|line| !line.contains("reachable at")));
    }
}
