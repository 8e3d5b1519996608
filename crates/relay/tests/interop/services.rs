//! Real services behind the relay, used by their own clients.

use std::fs::{self, File};
use std::io::BufWriter;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{self, MODES, Program, RELAY, TempDir, User};

/// Runs a command and returns what it prints; panics if it fails.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{printed}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    printed
}

const PASSWORD: &str = "swordfish";

#[test]
fn redis() {
    if !support::have(&["redis-server", "redis-cli", "redis-benchmark"]) {
        return;
    }
    let folder = TempDir::new();
    let service = support::free_port();
    let redis = Program::spawn(Command::new("redis-server").current_dir(folder.path()).args([
        "--bind",
        "127.0.0.1",
        "--port",
        &service.to_string(),
        "--requirepass",
        PASSWORD,
        "--save",
        "",
    ]));
    redis.line_with("Ready to accept connections");

    let (_relay, port) = support::relay();
    for mode in MODES {
        let (_forwarder, at) = support::forwarder(SocketAddr::from(([127, 0, 0, 1], service)), port, mode);
        let public = at.port().to_string();
        let with_password = ["-h", "127.0.0.1", "-p", &public, "-a", PASSWORD, "--no-auth-warning"];
        let cli = |args: &[&str]| run("redis-cli", &[&with_password, args].concat());

        let refused = run("redis-cli", &["-h", "127.0.0.1", "-p", &public, "ping"]);
        assert!(refused.contains("NOAUTH"), "{mode}: {refused:?}");
        assert_eq!(cli(&["ping"]), "PONG\n");
        let value = "relay".repeat(20_000);
        assert_eq!(cli(&["set", mode, &value]), "OK\n");
        assert_eq!(cli(&["get", mode]).trim_end(), value);

        // The requests take turns (-P 1), then go many at a time (-P 16), each time over 50 connections.
        for pipeline in ["1", "16"] {
            let args = ["-h", "127.0.0.1", "-p", &public, "-a", PASSWORD, "-n", "20000", "-P", pipeline];
            let printed = run("redis-benchmark", &[&args[..], &["-q", "-t", "set,get,lrange_100"]].concat());
            assert!(printed.contains("GET: ") && printed.contains("LRANGE_100"), "{mode}: {printed}");
        }
    }
}

/// The server speaks first: its banner must not wait for a user who says nothing.
#[test]
fn ssh_banner_for_a_silent_user() {
    if !support::have(&["sshd", "ssh-keygen"]) {
        return;
    }
    let folder = TempDir::new();
    let key = folder.path().join("host_key");
    let key = key.to_str().unwrap();
    run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", key]);
    // Started as root it wants this folder, which the init scripts of a machine make.
    let _ = fs::create_dir("/run/sshd");
    let service = support::free_port();
    let _sshd = Program::start(
        Path::new("/usr/sbin/sshd"),
        ["-D", "-e", "-f", "/dev/null", "-h", key, "-o", "ListenAddress=127.0.0.1", "-o", "PidFile=none", "-p"]
            .map(str::to_owned)
            .into_iter()
            .chain([service.to_string()]),
    );
    support::wait_for_port(service);

    let (_relay, port) = support::relay();
    for mode in ["multiplex", "event"] {
        let (_forwarder, at) = support::forwarder(SocketAddr::from(([127, 0, 0, 1], service)), port, mode);
        User::of(at).is_greeted("SSH-2.0-");
    }
}

/// As the users of the original type it: `relay PORT`, and `relay --localForwardPort=PORT HOST PORT` with
/// one dash or two, with `=` or a blank.
#[test]
fn one_gibibyte_over_http_with_the_originals_commands() {
    const SIZE: usize = 1 << 30;
    if !support::have(&["python3", "curl", "sha256sum"]) {
        return;
    }
    let folder = TempDir::new();
    let file = folder.path().join("file");
    support::write_pattern(SIZE, &mut BufWriter::new(File::create(&file).unwrap()));
    let hash = run("sha256sum", &[file.to_str().unwrap()]);
    let hash = hash.split(' ').next().unwrap();

    let service = support::free_port().to_string();
    let _web = Program::start(
        "python3",
        ["-m", "http.server", &service, "--bind", "127.0.0.1", "--directory", folder.path().to_str().unwrap()],
    );
    support::wait_for_port(service.parse().unwrap());

    let port = support::free_port();
    let _relay = Program::start(RELAY, [port.to_string()]);
    support::wait_for_port(port);
    let forms: [&[&str]; 4] = [
        &[&format!("--localForwardPort={service}")],
        &[&format!("-localForwardPort={service}")],
        &["--localForwardPort", &service],
        &["-localForwardPort", &service],
    ];
    let mut forwarders = Vec::new();
    for (form, public) in forms.into_iter().zip(port + 1..) {
        let forwarder = Program::start(RELAY, [form, &["localhost", &port.to_string()]].concat());
        assert_eq!(support::established(&forwarder).port(), public, "the original counts up from its control port");
        forwarders.push(forwarder);
    }

    // A pipeline, so that the copy needs no second gibibyte.
    let fetch = format!("set -o pipefail; curl -sSf http://127.0.0.1:{}/file | sha256sum", port + 1);
    assert_eq!(run("bash", &["-c", &fetch]).split(' ').next(), Some(hash));
    for public in port + 2..=port + 4 {
        let page = run("curl", &["-sSf", &format!("http://127.0.0.1:{public}/")]);
        assert!(page.contains("file"), "{page}");
    }
}
