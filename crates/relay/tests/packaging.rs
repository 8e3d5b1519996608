//! The units of systemd in `packaging/`: how much they leave exposed, and that systemd and the program understand them.

#![allow(clippy::unwrap_used, reason = "tests")]
#![cfg(unix)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{Program, RELAY, TempDir};

const PACKAGING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging");
const UNITS: [&str; 2] = ["relay.service", "relay-forward.service"];

/// Where the units have the program, and the forwarder its configuration and its invite.
const INSTALLED: &str = "/usr/local/bin/relay";
const CONFIGURATION: &str = "/etc/relay";
const CREDENTIALS: &str = "%d";

/// The most that a unit may leave exposed, in tenths, of a hundred.
const MOST_EXPOSED: u8 = 20;

fn unit(name: &str) -> String {
    fs::read_to_string(Path::new(PACKAGING).join(name)).unwrap()
}

/// Runs `systemd-analyze`; gives whether it is content, and what it says. `None` without it.
fn analyze(args: &[&str]) -> Option<(bool, String)> {
    if !support::have(&["systemd-analyze"]) {
        return None;
    }
    let output = Command::new("systemd-analyze").arg("--no-pager").args(args).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8(said).unwrap()))
}

#[test]
fn little_of_the_system_is_exposed() {
    for name in UNITS {
        let path = format!("{PACKAGING}/{name}");
        let threshold = format!("--threshold={MOST_EXPOSED}");
        let Some((closed, said)) = analyze(&["security", "--offline=true", &threshold, &path]) else { return };
        assert!(closed && said.contains("Overall exposure level"), "{name}:\n{said}");
    }
}

#[test]
fn systemd_understands_them() {
    let folder = TempDir::new();
    for name in UNITS {
        let path = folder.path().join(name);
        fs::write(&path, unit(name).replace(INSTALLED, RELAY)).unwrap();
        let Some((understood, said)) = analyze(&["verify", path.to_str().unwrap()]) else { return };
        // It may complain about the system's own units.
        assert!(understood && !said.contains(name), "{name}:\n{said}");
    }
}

#[test]
fn the_program_takes_what_they_give_it() {
    let (folder, port) = (TempDir::new(), support::free_port());
    let (folder, state) = (folder.path(), folder.path().join("state"));
    let command = |name: &str| {
        let unit = unit(name);
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let here = folder.to_str().unwrap();
        let line = line.replace(INSTALLED, RELAY).replace(CREDENTIALS, here).replace(CONFIGURATION, here);
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env("STATE_DIRECTORY", &state).env("RELAY_LISTEN", format!("127.0.0.1:{port}"));
        command
    };
    let _relay = Program::spawn(&mut command("relay.service"));
    support::wait_for_port(port);
    fs::write(folder.join("invite"), support::manage(&state, &["invite", "laptop"])).unwrap();
    fs::write(folder.join("forward.toml"), "[[service]]\nservice = \"8080\"\n").unwrap();
    support::established(&Program::spawn(&mut command("relay-forward.service")));
}
