//! The examples in `examples/python`, as a reader would start them.

use std::net::SocketAddr;

use crate::support::{self, MIB, Program, User};

/// The example's echo service behind the relay on `port`; none without Python.
pub(crate) fn example(name: &str, port: u16) -> Option<(Program, SocketAddr)> {
    if !support::have(&["python3"]) {
        return None;
    }
    let path = format!("{}/../../examples/python/{name}", env!("CARGO_MANIFEST_DIR"));
    let example = Program::start("python3", [&path, "localhost", &port.to_string()]);
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
