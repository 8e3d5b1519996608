//! `examples/shell`: event with bash alone, and over TLS with openssl and socat.

use std::process::Command;

use crate::rig::{self, Invited};
use crate::support;

#[test]
fn echo() {
    let (_relay, port) = support::relay();
    let args = ["localhost", &port.to_string(), "cat"];
    let Some(example) = support::interpreted("bash", "shell/event.sh", &args) else { return };
    rig::echoes(example);
}

#[test]
fn relay_is_started_anew() {
    if support::have(&["bash"]) {
        rig::survives_a_restart(|host, port| {
            support::interpreted("bash", "shell/event.sh", &[host, port, "cat"]).unwrap()
        });
    }
}

#[test]
fn echo_over_tls() {
    if !support::have(&["openssl", "socat"]) {
        return;
    }
    let invited = Invited::new();
    rig::refuses_forgeries(&invited.invite, |invite| {
        let mut command = Command::new("bash");
        command.args([&support::example("shell/event_tls.sh"), invite, "cat"]);
        command
    });
    let Some(example) = support::interpreted("bash", "shell/event_tls.sh", &[&invited.invite, "cat"]) else { return };
    rig::echoes(example);
}
