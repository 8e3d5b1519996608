//! What the crate brings into a program, and what it does not.

#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is a failed test")]

use std::collections::HashSet;
use std::process::Command;

/// What only the program `relay` needs, or who asks for it.
const FOREIGN: [&str; 8] = ["axum", "clap", "hyper", "relay-tunnel", "serde", "toml", "tonic", "tracing-subscriber"];

#[test]
fn no_server_and_no_command_line_comes_with_it() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--package", "relay-client", "--edges", "normal", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let packages: HashSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(packages.contains("relay-client") && packages.contains("tokio"), "{tree}");
    let foreign: Vec<_> = FOREIGN.into_iter().filter(|package| packages.contains(package)).collect();
    assert!(foreign.is_empty(), "{foreign:?} in\n{tree}");
}
