//! The kit that tries clients, tried itself: it passes who keeps to the protocol, and each of its lines fails
//! somebody.

#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is a failed test")]
#![cfg(unix)]

mod client;
mod fault;
mod implementations;
mod link;
mod rust_yamux;
mod sdk;
mod service;
#[path = "../support/mod.rs"]
mod support;
mod table;

use std::collections::BTreeSet;
use std::process::Command;

use fault::{FAULTS, Fault};
use relay::conformance::client::{Client, Play, Start, checks};
use relay::conformance::{self, Outcome, Report};
use relay_client::Protocol;
use tokio::task::JoinSet;

const PROTOCOLS: [Protocol; 3] = [Protocol::Multiplex, Protocol::Pool, Protocol::Event];

/// What the kit says of a client that runs in this process.
async fn tried(play: Play, protocol: Protocol, only: Option<&str>) -> Report {
    let start = Start::Task(play);
    let client = Client::new(protocol, "127.0.0.1:0".parse().unwrap(), start).await.unwrap();
    client.meet().await;
    let checks: Vec<_> = checks(protocol).filter(|check| only.is_none_or(|only| check.name == only)).collect();
    conformance::run(&client, checks, |_| Ok(())).await.unwrap()
}

fn all_hold(what: &str, report: &Report) {
    for row in &report.rows {
        assert_eq!(row.outcome, Outcome::Holds, "{what}: {row}");
    }
}

/// Our own program, as somebody would try it: with its exit code.
#[test]
fn our_forwarder_passes() {
    for mode in support::MODES {
        let mut kit = Command::new(support::RELAY);
        kit.args(["conformance", "client", "--mode", mode, "--", support::RELAY, "forward", "{echo}", "{host}:{port}"]);
        let output = kit.args(["--mode", mode]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !said.contains("FAILS"), "{mode}: {}\n{said}", output.status);
    }
}

/// It tells whom has started it the first failure, and comes back after later ones.
#[test]
fn the_example_in_python_passes() {
    if !support::have(&["python3"]) {
        return;
    }
    let mut kit = Command::new(support::RELAY);
    kit.args(["conformance", "client", "--mode", "event", "--", "python3", &support::example("python/forward.py")]);
    let output = kit.args(["{host}:{port}", "{echo}"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !said.contains("FAILS"), "{}\n{said}", output.status);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_keeps_to_the_protocol_passes() {
    for protocol in PROTOCOLS {
        all_hold(&protocol.to_string(), &tried(client::play(protocol, Fault::None), protocol, None).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_library_passes() {
    for protocol in PROTOCOLS {
        all_hold(&protocol.to_string(), &tried(sdk::play(protocol), protocol, None).await);
    }
}

#[test]
fn no_line_lacks_a_fault() {
    let lines: BTreeSet<_> = PROTOCOLS.into_iter().flat_map(checks).map(|check| check.name).collect();
    let faults: BTreeSet<_> = FAULTS.iter().map(|(line, ..)| *line).collect();
    assert_eq!(lines, faults);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_line_fails_who_has_its_fault() {
    let mut all = JoinSet::new();
    for (line, fault, seen) in FAULTS {
        for protocol in PROTOCOLS {
            if checks(protocol).any(|check| check.name == *line) {
                all.spawn(async move {
                    let report = tried(client::play(protocol, *fault), protocol, Some(line)).await;
                    let Outcome::Fails(said) = &report.rows[0].outcome else {
                        return Err(format!("{protocol}: {line}"));
                    };
                    let said = said.to_string();
                    if said.contains(seen) { Ok(()) } else { Err(format!("{protocol}: {line}: {said}")) }
                });
            }
        }
    }
    let missed: Vec<_> = all.join_all().await.into_iter().filter_map(Result::err).collect();
    assert!(missed.is_empty(), "{missed:#?}");
}
