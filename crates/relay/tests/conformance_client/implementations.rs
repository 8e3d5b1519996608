//! The clients of others that the kit tries, and the reasons for what they fail.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use relay::conformance::client::Start;
use relay_client::Protocol;

use crate::rust_yamux;
use crate::support::go::{NEW, OLD, built};
use crate::support::{RELAY, have};

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

pub(crate) const ALL: &[Implementation] = &[
    Implementation {
        name: "this forwarder",
        protocol: Protocol::Multiplex,
        start: || Some(ours("multiplex")),
        fails: &[],
    },
    Implementation {
        name: "hashicorp/yamux 2016",
        protocol: Protocol::Multiplex,
        start: || go(OLD, "client"),
        fails: SECOND_FIN,
    },
    Implementation {
        name: "hashicorp/yamux 0.1.2",
        protocol: Protocol::Multiplex,
        start: || go(NEW, "server"),
        fails: SECOND_FIN,
    },
    Implementation {
        name: "libp2p yamux 0.14",
        protocol: Protocol::Multiplex,
        start: || Some(Start::Task(rust_yamux::play())),
        fails: &[
            ("GoAway 0", "the session ends"),
            ("a flood of users who leave at once", "the session ends at 512 streams"),
        ],
    },
    Implementation {
        name: "yamux-js 0.2.0",
        protocol: Protocol::Multiplex,
        start: node,
        fails: &[
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
    },
    Implementation { name: "this forwarder", protocol: Protocol::Pool, start: || Some(ours("pool")), fails: &[] },
    Implementation {
        name: "examples/python/pool.py",
        protocol: Protocol::Pool,
        start: || python("pool.py"),
        fails: &[],
    },
    Implementation { name: "this forwarder", protocol: Protocol::Event, start: || Some(ours("event")), fails: &[] },
    Implementation {
        name: "examples/python/event.py",
        protocol: Protocol::Event,
        start: || python("event.py"),
        fails: &[],
    },
];

const CUT: &str = "loses frames that come in pieces";
const SECOND_FIN: &[(&str, &str)] = &[("a second FIN", "the session ends")];

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

fn ours(mode: &str) -> Start {
    quietly(&[RELAY, "forward", "{echo}", "{host}:{port}", "--mode", mode])
}

fn go(version: &str, role: &str) -> Option<Start> {
    let service = built(version)?.join("service");
    Some(quietly(&[service.to_str()?, &format!("-role={role}"), "-echo", "{host}", "{port}"]))
}

fn node() -> Option<Start> {
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

fn python(example: &str) -> Option<Start> {
    have(&["python3"]).then(|| quietly(&["python3", &format!("{ROOT}/examples/python/{example}"), "{host}", "{port}"]))
}

/// A program whose complaints nobody needs.
fn quietly(words: &[&str]) -> Start {
    let shell = ["sh", "-c", "exec \"$@\" 2>/dev/null", "sh"];
    Start::Command(shell.iter().chain(words).map(ToString::to_string).collect())
}
