//! The examples in `examples/python`, as a reader would start them.

use std::net::SocketAddr;

use crate::support::{self, MIB, Program, TempDir, User};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/python");

/// The example's echo service behind the relay on `port`; none without Python.
pub(crate) fn example(name: &str, port: u16) -> Option<(Program, SocketAddr)> {
    if !support::have(&["python3"]) {
        return None;
    }
    let example = Program::start("python3", [&format!("{EXAMPLES}/{name}"), "localhost", &port.to_string()]);
    let at = example.address_after("reachable at ");
    Some((example, at))
}

fn serves(name: &str) {
    let (_relay, port) = support::relay();
    let Some((mut example, at)) = example(name, port) else { return };
    let user = User::of_echo(at);
    user.echo(100 * MIB);
    user.many(300);
    user.half_close_echo();
    example.assert_runs();
}

#[test]
fn pool() {
    serves("pool.py");
}

#[test]
fn event() {
    serves("event.py");
}

#[test]
fn event_over_tls_with_an_identity() {
    if !support::have(&["python3"]) {
        return;
    }
    let folder = TempDir::new();
    let state = folder.path().join("state");
    let _relay = support::closed_relay(&state);
    let invite = support::manage(&state, &["invite", "laptop"]);
    let service = support::serve().port().to_string();
    let mut example = Program::start("python3", [&format!("{EXAMPLES}/auth.py"), &invite, &service]);
    let user = User::of(example.address_after("reachable at "));
    user.echo(20 * MIB);
    user.many(100);
    user.half_close();
    user.service_ends_first();
    example.assert_runs();

    support::manage(&state, &["revoke", "laptop"]);
    example.line_with("the relay has closed the tunnel");

    let forged = invite.replace("relay://laptop:", "relay://desktop:");
    let refused = Program::start("python3", [&format!("{EXAMPLES}/auth.py"), &forged, &service]);
    refused.line_with("the relay refuses: 'denied unknown name or wrong token'");
}
