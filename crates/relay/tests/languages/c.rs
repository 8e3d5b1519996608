//! `examples/c`: event with POSIX sockets.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::{rig, support};

/// The example, built; none without a compiler.
fn event() -> Option<PathBuf> {
    static BUILT: OnceLock<bool> = OnceLock::new();
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("event-c");
    let built = BUILT.get_or_init(|| {
        support::have(&["cc"]) && {
            let mut build = Command::new("cc");
            build.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program);
            assert!(build.arg(support::example("c/event.c")).status().unwrap().success());
            true
        }
    });
    built.then_some(program)
}

#[test]
fn echo() {
    let Some(event) = event() else { return };
    let (_relay, port) = support::relay();
    rig::echoes(support::reachable(Command::new(event).args(["localhost", &port.to_string()])));
}

#[test]
fn relay_is_started_anew() {
    let Some(event) = event() else { return };
    rig::survives_a_restart(|host, port| support::reachable(Command::new(event).args([host, port])));
}
