//! What tests share that start other programs: the programs, ports for them, and the users they serve.

#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of this module")]

pub(crate) mod go;
mod pattern;
mod program;
mod service;
mod user;

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub(crate) use pattern::Pattern;
pub(crate) use program::{Program, TempDir};
pub(crate) use service::serve;
pub(crate) use user::User;

/// How long anything on loopback may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) const MIB: usize = 1 << 20;

/// Whether the programs can be run here. If not, the test says so and has nothing more to do; in CI, where
/// all of them are installed, a missing one is a failure.
pub(crate) fn have(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).collect();
    let missing = programs.iter().find(|name| !folders.iter().any(|folder| folder.join(name).is_file()));
    let Some(missing) = missing else { return true };
    assert!(std::env::var_os("CI").is_none(), "CI has no {missing}");
    // Written past the capture of the test's output, which hides what tests that pass have printed.
    let _ = writeln!(std::io::stderr(), "SKIPPED: needs {missing}");
    false
}

/// A port for a program that cannot be given port 0. The ports above it stay free for the tunnels that a
/// relay on it opens, and no outgoing connection is given one of them: all are below Linux' own range.
pub(crate) fn free_port() -> u16 {
    const BLOCK: u16 = 40;
    const FIRST: u16 = 10_000;
    const BLOCKS: u16 = (32_000 - FIRST) / BLOCK;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % u32::from(BLOCKS)).unwrap();
    for _ in 0..BLOCKS {
        let block = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % BLOCKS;
        let port = FIRST + block * BLOCK;
        if (0..5).all(|above| TcpListener::bind(("0.0.0.0", port + above)).is_ok()) {
            return port;
        }
    }
    panic!("no free port");
}

/// Waits until somebody listens on the port of this machine.
pub(crate) fn wait_for_port(port: u16) {
    let started = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(started.elapsed() < PATIENCE, "nobody listens on port {port}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Fills a file or socket with bytes that do not compress.
pub(crate) fn write_pattern(bytes: usize, to: &mut impl Write) {
    pattern::Pattern::new(0).write(bytes, to).unwrap();
}

/// The program that is tested.
pub(crate) const RELAY: &str = env!("CARGO_BIN_EXE_relay");

/// Our relay, with its control port.
pub(crate) fn relay() -> (Program, u16) {
    let port = free_port();
    (relay_on(port), port)
}

/// Our relay on that control port.
pub(crate) fn relay_on(port: u16) -> Program {
    let relay = Program::start(RELAY, ["server", "--open", "--listen", &format!("127.0.0.1:{port}")]);
    wait_for_port(port);
    relay
}

/// Our relay that serves only whom it invites. Its state is in the folder.
pub(crate) fn closed_relay(state: &Path) -> Program {
    closed_relay_on(free_port(), state)
}

/// The same, on that control port.
pub(crate) fn closed_relay_on(port: u16, state: &Path) -> Program {
    let listen = format!("127.0.0.1:{port}");
    let relay = Program::spawn(Command::new(RELAY).args(["server", "--listen", &listen, "--state"]).arg(state));
    wait_for_port(port);
    relay
}

/// What a command says about the relay that has its state in the folder: an invite, for one.
pub(crate) fn manage(state: &Path, command: &[&str]) -> String {
    let output = Command::new(RELAY).args(command).arg("--state").arg(state).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// Our forwarder, with the address at which users reach `service` through the relay on `port`.
pub(crate) fn forwarder(service: SocketAddr, port: u16, mode: &str) -> (Program, SocketAddr) {
    let forwarder =
        Program::start(RELAY, ["forward", &service.to_string(), &format!("127.0.0.1:{port}"), "--mode", mode]);
    let address = established(&forwarder);
    (forwarder, address)
}

/// Waits until the forwarder prints where its service is reachable.
pub(crate) fn established(forwarder: &Program) -> SocketAddr {
    forwarder.address_after("established relay address: ")
}

/// A file of `examples/`.
pub(crate) fn example(name: &str) -> String {
    format!("{}/../../examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// An example that is run by the interpreter of its language, with the address at which users reach it; none without the
/// interpreter.
pub(crate) fn interpreted(interpreter: &str, name: &str, args: &[&str]) -> Option<(Program, SocketAddr)> {
    have(&[interpreter]).then(|| reachable(Command::new(interpreter).arg(example(name)).args(args)))
}

/// An example, started, with the address at which users reach it.
pub(crate) fn reachable(command: &mut Command) -> (Program, SocketAddr) {
    let example = Program::spawn(command);
    let at = example.address_after("reachable at ");
    (example, at)
}

pub(crate) const MODES: [&str; 3] = ["multiplex", "pool", "event"];
