//! The clients of others that the kit tries, and the reasons for what they fail.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use relay::conformance::client::Start;
use relay_client::Protocol;

use crate::support::go::{NEW, OLD, built};
use crate::support::{RELAY, example, have};
use crate::{rust_yamux, sdk};

/// Somebody's client.
pub(crate) struct Implementation {
    /// As the table has it.
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    /// None where a program for it is missing.
    pub(crate) start: fn() -> Option<Start>,
    /// Which lines it fails, and why.
    pub(crate) fails: &'static [(&'static str, &'static str)],
}

const MULTIPLEX: Protocol = Protocol::Multiplex;
const POOL: Protocol = Protocol::Pool;
const EVENT: Protocol = Protocol::Event;

pub(crate) const ALL: &[Implementation] = &[
    it("this forwarder", MULTIPLEX, || Some(ours("multiplex")), &[]),
    it("relay-client", MULTIPLEX, || Some(Start::Task(sdk::play(MULTIPLEX))), &[]),
    it(
        "examples/go",
        MULTIPLEX,
        || go_example("multiplex"),
        &[("a second FIN", ENDS), ("the service's abort reaches the user", NO_RESET)],
    ),
    it("hashicorp/yamux 2016", MULTIPLEX, || go(OLD, "client"), &[("a second FIN", ENDS)]),
    it("hashicorp/yamux 0.1.2", MULTIPLEX, || go(NEW, "server"), &[("a second FIN", ENDS)]),
    it(
        "libp2p yamux 0.14",
        MULTIPLEX,
        || Some(Start::Task(rust_yamux::play())),
        &[("GoAway 0", ENDS), ("a flood of users who leave at once", "the session ends at 512 streams")],
    ),
    it(
        "yamux-js 0.2.0",
        MULTIPLEX,
        yamux_js,
        &[
            ("a MiB each way at once", CUT),
            ("half-close", CUT),
            ("200 users at once", CUT),
            ("a user who does not read", CUT),
            ("a user who aborts", CUT),
            ("frames in single bytes", CUT),
            ("no more than was granted", CUT),
            ("pings under load", CUT),
            ("GoAway 0", "loses what follows it"),
            ("a flood of pings", CUT),
            ("a flood of users who leave at once", CUT),
            ("a flood of empty frames", CUT),
        ],
    ),
    it("this forwarder", POOL, || Some(ours("pool")), &[]),
    it("relay-client", POOL, || Some(Start::Task(sdk::play(POOL))), &[]),
    it("examples/go", POOL, || go_example("pool"), &[]),
    it("examples/node", POOL, || node_example("pool"), &[]),
    it("pool.py", POOL, || script("python3", "python/pool.py", &["{host}", "{port}"]), &[]),
    it("this forwarder", EVENT, || Some(ours("event")), &[]),
    it("relay-client", EVENT, || Some(Start::Task(sdk::play(EVENT))), &[]),
    it("examples/go", EVENT, || go_example("event"), &[]),
    it("examples/node", EVENT, || node_example("event"), &[]),
    it("event.py", EVENT, || script("python3", "python/event.py", &["{host}", "{port}"]), &[]),
    it("forward.py", EVENT, || script("python3", "python/forward.py", &["{host}:{port}", "{echo}"]), &[]),
    it("event.sh", EVENT, || script("bash", "shell/event.sh", &["{host}", "{port}", "cat"]), &[]),
    it("event.c", EVENT, c_example, &[]),
];

const fn it(
    name: &'static str,
    protocol: Protocol,
    start: fn() -> Option<Start>,
    fails: &'static [(&'static str, &'static str)],
) -> Implementation {
    Implementation { name, protocol, start, fails }
}

const CUT: &str = "loses frames that come in pieces";
const ENDS: &str = "the session ends";
const NO_RESET: &str = "a stream cannot be reset";

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn ours(mode: &str) -> Start {
    quietly(&[RELAY, "forward", "{echo}", "{host}:{port}", "--mode", mode])
}

fn go(version: &str, role: &str) -> Option<Start> {
    let service = built("peers/go", version)?.join("service");
    Some(quietly(&[service.to_str()?, &format!("-role={role}"), "-echo", "{host}", "{port}"]))
}

fn yamux_js() -> Option<Start> {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    let folder = PathBuf::from(ROOT).join("peers/node");
    let installed = INSTALLED.get_or_init(|| {
        have(&["node", "npm"]) && {
            let mut install = Command::new("npm");
            install.args(["ci", "--silent", "--no-audit", "--no-fund"]).current_dir(&folder);
            assert!(install.status().unwrap().success());
            true
        }
    });
    let service = folder.join("service.js");
    installed.then(|| quietly(&["node", &service.to_string_lossy(), "{host}", "{port}"]))
}

fn go_example(protocol: &str) -> Option<Start> {
    let forward = built("examples/go", NEW)?.join("forward");
    Some(quietly(&[forward.to_str()?, protocol, "{host}:{port}", "{echo}"]))
}

fn node_example(protocol: &str) -> Option<Start> {
    script("node", "node/forward.mjs", &[protocol, "{host}:{port}", "{echo}"])
}

fn c_example() -> Option<Start> {
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("kit-event-c");
    have(&["cc"]).then(|| {
        let mut build = Command::new("cc");
        build.args(["-std=c11", "-o"]).arg(&program).arg(example("c/event.c"));
        assert!(build.status().unwrap().success());
        quietly(&[&program.to_string_lossy(), "{host}", "{port}"])
    })
}

/// An example that needs no building.
fn script(interpreter: &str, name: &str, arguments: &[&str]) -> Option<Start> {
    have(&[interpreter]).then(|| quietly(&[&[interpreter, &example(name)], arguments].concat()))
}

/// A program whose complaints nobody needs.
fn quietly(words: &[&str]) -> Start {
    let shell = ["sh", "-c", "exec \"$@\" 2>/dev/null", "sh"];
    Start::Command(shell.iter().chain(words).map(ToString::to_string).collect())
}
