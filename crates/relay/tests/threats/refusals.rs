//! The quick start, with one thing wrong: the forwarder ends with 1 and says what.

use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Program, RELAY, TempDir, established, free_port, serve, wait_for_port};

/// A server with a state of its own, and its address.
fn server() -> (Program, TempDir, String) {
    let folder = TempDir::new();
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let program = Program::start(RELAY, ["server", "--listen", &listen, "--state", &state(&folder)]);
    wait_for_port(port);
    (program, folder, listen)
}

fn state(folder: &TempDir) -> String {
    folder.path().join("state").display().to_string()
}

fn relay(arguments: &[&str]) -> Output {
    Command::new(RELAY).args(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> String {
    let output = relay(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// The forwarder with that invite gives up for good.
fn gives_up(invite: &str, why: &str) {
    let output = relay(&["forward", "9", invite]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    let last = error.lines().last().unwrap();
    assert!(last.starts_with("relay: ") && last.contains(why), "{error}");
    let token = invite.split([':', '@']).nth(2).unwrap();
    assert!(!error.contains(token) && output.stdout.is_empty(), "{error}");
}

/// The same invite with another character there, which is as well formed.
fn changed(invite: &str, behind: &str) -> String {
    let at = invite.find(behind).unwrap() + behind.len();
    let other = if &invite[at..=at] == "a" { "b" } else { "a" };
    format!("{}{other}{}", &invite[..at], &invite[at + 1..])
}

#[test]
fn an_invite_that_is_wrong_revoked_replaced_or_expired_ends_the_forwarder() {
    let (_server, folder, listen) = server();
    let state = state(&folder);
    let invite =
        |name, more: &[&str]| command(&[&["invite", name, "--state", &state, "--host", &listen], more].concat());
    let laptop = invite("laptop", &[]);
    gives_up(&changed(&laptop, "sha256-"), "does not show the certificate that is expected");
    gives_up(&changed(&laptop, "laptop:"), "denied");
    gives_up(&laptop.replacen("laptop", "nobody", 1), "denied");
    let service = serve().to_string();
    let forwarder = Program::start(RELAY, ["forward", &service, &laptop]);
    let public = established(&forwarder);
    command(&["revoke", "laptop", "--state", &state]);
    let revoked = Instant::now();
    forwarder.line_with("relay: ");
    assert!(revoked.elapsed() < Duration::from_secs(2), "{:?}", revoked.elapsed());
    assert!(std::net::TcpStream::connect(public).is_err());
    gives_up(&laptop, "revoked");
    let again = invite("laptop", &["--replace"]);
    gives_up(&laptop, "denied");
    let forwarder = Program::start(RELAY, ["forward", &service, &again]);
    established(&forwarder);
    let short = invite("guest", &["--expires", "1s"]);
    thread::sleep(Duration::from_millis(1100));
    gives_up(&short, "expired");
}

#[test]
fn the_state_holds_no_token() {
    let (_server, folder, listen) = server();
    let state = state(&folder);
    let invite = command(&["invite", "laptop", "--state", &state, "--host", &listen]);
    let token = invite.split([':', '@']).nth(2).unwrap();
    let files =
        std::fs::read_dir(&state).unwrap().map(Result::unwrap).filter(|file| file.file_type().unwrap().is_file());
    let kept = files.map(|file| String::from_utf8(std::fs::read(file.path()).unwrap()).unwrap()).collect::<String>();
    assert!(!kept.contains(token));
    // What is kept instead is no token.
    let verifier = kept.split("verifier = \"").nth(1).unwrap().split('"').next().unwrap();
    gives_up(&invite.replace(token, verifier), "denied");
}
