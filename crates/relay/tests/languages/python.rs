//! `examples/python`: event and pool in the original exchange, and an asyncio server behind a relay.

use std::net::SocketAddr;
use std::process::Command;

use crate::rig::{self, Invited};
use crate::support::{self, Program, User};

fn python(name: &str, args: &[&str]) -> Option<(Program, SocketAddr)> {
    support::interpreted("python3", name, args)
}

#[test]
fn event() {
    let (_relay, port) = support::relay();
    let Some(example) = python("python/event.py", &["localhost", &port.to_string()]) else { return };
    rig::echoes(example);
}

#[test]
fn pool() {
    let (_relay, port) = support::relay();
    let Some(example) = python("python/pool.py", &["localhost", &port.to_string()]) else { return };
    rig::echoes(example);
}

#[test]
fn asyncio_server() {
    let invited = Invited::new();
    let Some((example, at)) = python("python/relayed_server.py", &[&invited.invite]) else { return };
    let from = User::of_echo(at).echo(1000);
    example.line_with(&format!("a user from ('127.0.0.1', {})", from.port()));
    rig::echoes((example, at));
}

#[test]
fn asyncio_server_of_an_open_relay() {
    let (_relay, port) = support::relay();
    let Some((example, at)) = python("python/relayed_server.py", &[&format!("localhost:{port}")]) else { return };
    let from = User::of_echo(at).echo(1000);
    example.line_with(&format!("a user from ('127.0.0.1', {})", from.port()));
    rig::echoes((example, at));
}

/// How the forwarder is started, given its relay and the port of its service.
pub(crate) fn forward(relay: &str, service: &str) -> Command {
    let mut command = Command::new("python3");
    command.args([&support::example("python/forward.py"), relay, service]);
    command
}

#[test]
fn forwarder() {
    if support::have(&["python3"]) {
        rig::forwards(forward);
    }
}

#[test]
fn forwarder_carries_an_abort() {
    if support::have(&["python3"]) {
        rig::carries_an_abort(forward);
    }
}

#[test]
fn forwarder_to_a_service_that_speaks_first() {
    if support::have(&["python3"]) {
        rig::speaks_first(forward);
    }
}
