//! `examples/go`: net.Listeners behind a relay, by each of its protocols.

use std::path::PathBuf;
use std::process::Command;

use crate::rig::{self, Invited};
use crate::support::{self, MODES};

/// One of the examples' programs, built; none without Go.
fn program(name: &str) -> Option<PathBuf> {
    Some(support::go::built("examples/go", support::go::NEW)?.join(name))
}

#[test]
fn http_server() {
    let Some(hello) = program("relayed_hello") else { return };
    let invited = Invited::new();
    let example = support::reachable(Command::new(hello).arg(&invited.invite));
    rig::is_a_web_service(example, |from| format!("hello, {from}\n"));
}

#[test]
fn http_server_of_an_open_relay() {
    let Some(hello) = program("relayed_hello") else { return };
    let (_relay, port) = support::relay();
    let example = support::reachable(Command::new(hello).arg(format!("localhost:{port}")));
    rig::is_a_web_service(example, |from| format!("hello, {from}\n"));
}

/// How the forwarder is started, given its relay and the port of its service; none without Go.
pub(crate) fn forward(protocol: &str) -> Option<impl Fn(&str, &str) -> Command> {
    let program = program("forward")?;
    Some(move |relay: &str, service: &str| {
        let mut command = Command::new(&program);
        command.args([protocol, relay, service]);
        command
    })
}

#[test]
fn forwarders() {
    MODES.into_iter().filter_map(forward).for_each(rig::forwards);
}

#[test]
fn forwarders_to_a_service_that_speaks_first() {
    MODES.into_iter().filter_map(forward).for_each(rig::speaks_first);
}

/// Multiplex is not among them: a stream of hashicorp/yamux cannot be reset.
#[test]
fn forwarders_carry_an_abort() {
    ["pool", "event"].into_iter().filter_map(forward).for_each(rig::carries_an_abort);
}
