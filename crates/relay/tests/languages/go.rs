//! `examples/go`: net.Listeners behind a relay, by each of its protocols.

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::rig::{self, Invited};
use crate::support::{self, MODES, PATIENCE};

/// One of the examples' programs, built; none without Go.
fn program(name: &str) -> Option<PathBuf> {
    Some(support::go::built("examples/go", support::go::NEW)?.join(name))
}

/// The program beside this file, built in the examples' module; none without Go.
fn closing() -> Option<PathBuf> {
    static BUILT: OnceLock<bool> = OnceLock::new();
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("examples-go-closes");
    let built = BUILT.get_or_init(|| {
        support::have(&["go"]) && {
            let mut build = Command::new("go");
            build.current_dir(support::example("go")).args(["build", "-o"]).arg(&program);
            build.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/languages/closes.go"));
            assert!(build.status().unwrap().success());
            true
        }
    });
    built.then_some(program)
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

/// Under TLS an end is bytes: a service that has not read it closes all the same without a RST.
#[test]
fn close_ahead_of_the_users_end_is_an_end() {
    let Some(program) = closing() else { return };
    let invited = Invited::new();
    for mode in MODES {
        let mut command = Command::new(&program);
        let (_example, at) = support::reachable(command.args([mode, &invited.invite, "greet"]));
        let mut user = TcpStream::connect(at).unwrap();
        user.set_read_timeout(Some(PATIENCE)).unwrap();
        user.shutdown(Shutdown::Write).unwrap();
        let mut heard = String::new();
        user.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "welcome");
    }
}

/// Multiplex is not among them: a stream of hashicorp/yamux cannot be reset.
#[test]
fn forwarders_carry_an_abort() {
    ["pool", "event"].into_iter().filter_map(forward).for_each(rig::carries_an_abort);
}

#[test]
fn close_frees_the_port() {
    let Some(program) = closing() else { return };
    for mode in MODES {
        rig::closes(|relay| {
            let mut command = Command::new(&program);
            command.args([mode, relay]);
            command
        });
    }
}
