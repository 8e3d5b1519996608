//! States that cannot be used or kept: the server ends with 1, and says what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::rig::Relay;
use crate::support::{Program, RELAY, TempDir};

const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

fn refused(state: &Path, why: &[&str]) {
    let output = Command::new(RELAY).args(["server", "--state"]).arg(state).args(LISTEN).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let last = error.lines().last().unwrap();
    assert!(last.starts_with("relay: ") && why.iter().all(|why| last.contains(why)), "{error}");
}

/// A state that a server has made.
fn made(state: &Path) {
    let mut command = Command::new(RELAY);
    let server = Program::spawn(command.args(["server", "--state"]).arg(state).args(LISTEN));
    server.line_with("relay listens");
}

#[test]
fn a_state_that_others_may_read_is_refused() {
    let folder = TempDir::new();
    let state = folder.path().join("state");
    made(&state);
    for (path, open, closed) in
        [(state.clone(), 0o755, "chmod 700"), (state.join("identities.toml"), 0o644, "chmod 600")]
    {
        let before = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
        refused(&state, &["open to other users of this machine", closed]);
        fs::set_permissions(&path, before).unwrap();
    }
    made(&state);
}

#[test]
fn a_state_that_was_cut_short_is_refused_and_left_as_it_is() {
    let folder = TempDir::new();
    let state = folder.path().join("state");
    made(&state);
    for file in ["identities.toml", "certificate.toml"] {
        let path = state.join(file);
        let whole = fs::read(&path).unwrap();
        let half = &whole[..whole.len() / 2];
        fs::write(&path, half).unwrap();
        refused(&state, &[file, "is damaged", "left as it is"]);
        assert_eq!(fs::read(&path).unwrap(), half);
        fs::write(&path, &whole).unwrap();
    }
    made(&state);
}

/// A file system of 64 KiB, which only root can have.
struct Disk(TempDir);

impl Disk {
    /// `None`, with a word of it, if it cannot be had; with `CI` set that is a failure.
    fn mount() -> Option<Self> {
        let disk = Self(TempDir::new());
        let mounted = mount(&["-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs"], disk.0.path());
        assert!(mounted || std::env::var_os("CI").is_none(), "cannot mount a tmpfs");
        if !mounted {
            eprintln!("SKIPPED: needs the right to mount a tmpfs");
        }
        mounted.then_some(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

fn mount(options: &[&str], place: &Path) -> bool {
    Command::new("mount").args(options).arg(place).output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_full_or_read_only_disk_is_told_of() {
    let Some(disk) = Disk::mount() else { return };
    let state = disk.0.path().join("state");
    made(&state);
    let rest = disk.0.path().join("rest");
    let _ = std::io::copy(&mut std::io::repeat(0), &mut fs::File::create(&rest).unwrap());
    let output = Command::new(RELAY).args(["invite", "laptop", "--host", "h", "--state"]).arg(&state).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && error.contains("free some space"), "{error}");
    refused(&disk.0.path().join("new"), &["cannot", "free some space"]);
    fs::remove_file(rest).unwrap();
    made(&state);
    assert!(mount(&["-o", "remount,ro"], disk.0.path()));
    refused(&state, &["cannot", "make it writable"]);
}

#[test]
fn a_disk_that_fills_up_while_the_server_runs_ends_nothing() {
    let Some(disk) = Disk::mount() else { return };
    let state = disk.0.path().join("state");
    let mut relay = Relay::start_in(&state, "");
    relay.serves();
    let _ = std::io::copy(&mut std::io::repeat(0), &mut fs::File::create(disk.0.path().join("rest")).unwrap());
    // A port that cannot be written down is not given.
    let mut client = relay.prove().unwrap();
    std::io::Write::write_all(&mut client, b"event\nnew\n").unwrap();
    let answer = crate::rig::line(&mut client).unwrap();
    assert_eq!(answer, "error no-port the relay cannot write its state");
    relay.program.assert_runs();
    fs::remove_file(disk.0.path().join("rest")).unwrap();
    relay.serves();
}
