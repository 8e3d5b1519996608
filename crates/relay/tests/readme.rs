//! Runs the README: what it shows must work as it stands there.
//!
//! Every block of `sh` says in a comment just above it what its commands do:
//!
//! ```text
//! <!-- test: prints "TEXT" -->      they end with success, and print TEXT
//! <!-- test: stays until "TEXT" --> the last of them runs on until the next heading; TEXT or
//! <!-- test: stays until port N -->    a listening port shows that it is ready
//! <!-- test: run by FILE -->        FILE has every line of it
//! <!-- test: not run: REASON -->
//! ```
//!
//! The blocks run in order on a machine that is new at each heading: it is called relay.example.com, has a network of
//! its own, where every port is free, no relay's state, and `relay` on the PATH. That takes Linux' namespaces.
//! A word in quotes that the README cuts short, as in `'relay://laptop:…'`, stands for the whole one, which an earlier
//! block has printed on a line of its own.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Program, TempDir};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Where the system's programs keep what lasts.
const STATES: &str = "/var/lib";

/// Set for the copy of this test that runs inside the namespaces.
const INSIDE: &str = "RELAY_README_INSIDE";

#[derive(Debug)]
struct Block {
    section: String,
    test: String,
    commands: String,
}

fn blocks() -> Vec<Block> {
    let readme = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let (mut section, mut above) = (String::new(), "");
    let mut blocks = Vec::new();
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix("## ") {
            heading.clone_into(&mut section);
        } else if line == "```sh" {
            let test = above.strip_prefix("<!-- test: ").and_then(|test| test.strip_suffix(" -->"));
            let commands: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            let test = test.unwrap_or_else(|| panic!("nothing says how to test {commands:?}"));
            blocks.push(Block { section: section.clone(), test: test.to_owned(), commands: commands.join("\n") });
        }
        above = line;
    }
    blocks
}

/// The text between quotes.
fn quoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_else(|| panic!("{text} is not in quotes"))
}

/// The commands with what was printed in the place of words that are cut short.
fn unabridged(commands: &str, printed: &str) -> String {
    let Some((before, after)) = commands.split_once('…') else { return commands.to_owned() };
    let (before, begin) = before.rsplit_once('\'').unwrap_or_else(|| panic!("no quote begins before … in {commands}"));
    let (_, after) = after.split_once('\'').unwrap_or_else(|| panic!("no quote ends behind … in {commands}"));
    let whole = printed.lines().rfind(|line| line.starts_with(begin));
    let whole = whole.unwrap_or_else(|| panic!("nothing printed a line that begins with {begin}:\n{printed}"));
    format!("{before}'{whole}'{}", unabridged(after, printed))
}

fn shell(commands: &str, folder: &Path) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", commands]).current_dir(folder).env("HOME", folder);
    shell
}

#[test]
fn every_command_works() {
    if std::env::var_os(INSIDE).is_some() {
        return inside();
    }
    if !support::have(&["unshare", "ip", "hostname", "redis-server", "redis-cli", "curl", "python3"]) {
        return;
    }
    // The copy is the first process of its own process namespace, so nothing that it starts outlives it.
    let output = Command::new("unshare")
        .args(["--map-root-user", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "every_command_works", "--nocapture"])
        .env(INSIDE, "yes")
        .output()
        .unwrap();
    let printed = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&printed));
}

fn inside() {
    let folder = TempDir::new();
    let folder = folder.path();
    let hosts = folder.join("hosts");
    // An address of nobody's (RFC 5737): from loopback, no name would be guessed.
    fs::write(&hosts, "127.0.0.1 localhost\n::1 localhost\n203.0.113.1 relay.example.com\n").unwrap();
    let prepare = format!(
        "hostname relay.example.com; ip link set lo up; ip address add 203.0.113.1/32 dev lo; \
         mount --bind {} /etc/hosts; mount -t tmpfs none {STATES}; ln -s {ROOT}/examples .",
        hosts.display()
    );
    assert!(shell(&prepare, folder).status().unwrap().success());
    let binaries = Path::new(support::RELAY).parent().unwrap();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());

    let mut staying: Vec<Program> = Vec::new();
    let (mut section, mut printed) = (String::new(), String::new());
    for block in blocks() {
        println!("{block:?}"); // The last one shown is the one that failed.
        if block.section != section {
            section.clone_from(&block.section);
            staying.clear();
            printed.clear();
            let _ = fs::remove_dir_all(Path::new(STATES).join("relay"));
        }
        let mut commands = shell(&unabridged(&block.commands, &printed), folder);
        commands.env("PATH", &path);
        if let Some(text) = block.test.strip_prefix("prints ") {
            let output = commands.stdin(Stdio::null()).output().unwrap();
            let both = [output.stdout, output.stderr].concat();
            let both = String::from_utf8_lossy(&both);
            assert!(output.status.success() && both.contains(quoted(text)), "{}: {both}", output.status);
            printed += &both;
        } else if let Some(ready) = block.test.strip_prefix("stays until ") {
            let program = Program::spawn(&mut commands);
            match ready.strip_prefix("port ") {
                Some(port) => support::wait_for_port(port.parse().unwrap()),
                None => drop(program.line_with(quoted(ready))),
            }
            staying.push(program);
        } else if let Some(file) = block.test.strip_prefix("run by ") {
            let file = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
            for command in block.commands.lines() {
                assert!(file.contains(command), "it does not run {command:?}");
            }
        } else {
            assert!(block.test.starts_with("not run: "), "unknown: {:?}", block.test);
        }
    }
}
