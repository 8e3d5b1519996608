//! The program as its users type it: exit codes, what it says, the environment, signals, the demo.

#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is a failed test")]
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn relay(line: &str, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relay"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RELAY_")) {
        command.env_remove(name);
    }
    command.args(line.split_whitespace()).envs(environment.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A program that ends by itself: its exit code, and what it printed to stdout and stderr.
fn ends(line: &str, environment: &[(&str, &str)]) -> (i32, String, String) {
    let output = relay(line, environment).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A program that runs on; killed when dropped.
struct Running {
    child: Child,
    out: mpsc::Receiver<String>,
    err: mpsc::Receiver<String>,
}

impl Running {
    fn start(line: &str, environment: &[(&str, &str)]) -> Self {
        let mut child = relay(line, environment).spawn().unwrap();
        let out = lines(child.stdout.take().unwrap());
        let err = lines(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    /// Waits for a line on stderr that contains `text`.
    fn logs(&self, text: &str) -> String {
        let mut seen = String::new();
        loop {
            let line = self.err.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {text:?} in:\n{seen}"));
            if line.contains(text) {
                return line;
            }
            seen += &(line + "\n");
        }
    }

    /// The next line on stdout, which must begin with `text`; what follows that.
    fn prints(&self, text: &str) -> String {
        let line = self.out.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{text:?} is not printed"));
        line.strip_prefix(text).unwrap_or_else(|| panic!("{line:?} instead of {text:?}")).into()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn ends_with(mut self, code: i32) -> Duration {
        let asked = Instant::now();
        let status = self.wait();
        assert_eq!(status.code(), Some(code), "{}", self.err.try_iter().collect::<Vec<_>>().join("\n"));
        asked.elapsed()
    }

    fn wait(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "still runs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(stream).lines().map_while(Result::ok).try_for_each(|line| send.send(line))
    });
    lines
}

/// The control port of a server that is told to take any.
fn server(line: &str) -> (Running, String) {
    let server = Running::start(line, &[]);
    let line = server.logs("relay listens");
    let address = line.rsplit("address=").next().unwrap().trim().to_owned();
    (server, address)
}

/// An address at which nobody listens.
fn nowhere() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn wrong_usage_ends_with_2_and_a_sentence_on_stderr() {
    for (line, hint) in [
        ("", "Usage:"),
        ("bogus", "bogus"),
        ("70000", "no port"),
        ("1234 5678", "--localForwardPort"),
        ("-localForwardPort=80 host", "<HOST> <PORT>"),
        ("forward 8080", "the relay is missing"),
        ("forward --config /dev/null", "the relay is missing"),
        ("forward 8080 relay://name:token@host", "a token has 43 characters"),
        ("forward 8080 host --ca /none", "write the relay as tls://"),
        ("forward 8080 tls://host --ca /none", "cannot read /none"),
        ("forward 8080 --invite-file /none", "cannot read /none"),
        ("invite", "<NAME>"),
    ] {
        let (code, out, err) = ends(line, &[]);
        assert_eq!((code, out.as_str()), (2, ""), "{line}: {err}");
        assert!(err.contains(hint), "{line}: {err}");
    }
}

#[test]
fn help_and_version_end_with_0_on_stdout() {
    for (line, hint) in [("--help", "Example:"), ("server --help", "--open"), ("--version", "relay ")] {
        let (code, out, err) = ends(line, &[]);
        assert_eq!((code, err.as_str()), (0, ""), "{line}");
        assert!(out.contains(hint), "{line}: {out}");
    }
}

#[test]
fn the_environment_stands_in_for_flags() {
    let listen = ("RELAY_LISTEN", "127.0.0.1:0");
    // Kubernetes sets that for a service that is called relay: it is no flag of ours.
    let server = Running::start("server", &[listen, ("RELAY_OPEN", "1"), ("RELAY_PORT", "tcp://10.0.0.1:7000")]);
    server.logs("relay listens");
    for (line, name, value) in [
        ("forward 80 host", "RELAY_MODE", "bogus"),
        ("server --open", "RELAY_PORTS", "9-8"),
        ("server --open", "RELAY_LISTEN", "host:1"),
        ("server", "RELAY_OPEN", "perhaps"),
        ("demo", "RELAY_LOG_FORMAT", "xml"),
        ("0", "RELAY_LOG_FORMAT", "xml"),
        ("demo", "RELAY_LOG", "=="),
    ] {
        let (code, _, err) = ends(line, &[(name, value)]);
        assert!(code == 2 && err.contains(value) && err.contains(&format!("'{name}'")), "{name}={value}: {code} {err}");
    }
    // What is wrong on the command line is not the variable's fault.
    let (_, _, err) = ends("server --open --ports 9-8", &[("RELAY_PORTS", "7-6")]);
    assert!(err.contains("'9-8' for '--ports"), "{err}");
    // A flag goes before the environment.
    let server = Running::start("server --open --listen 127.0.0.1:0", &[("RELAY_LISTEN", "host:1")]);
    server.logs("relay listens");
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let names = ["RELAY_LISTEN", "RELAY_PORTS", "RELAY_OPEN", "RELAY_VERBOSE", "RELAY_LOG", "RELAY_LOG_FORMAT"];
    let empty = names.map(|name| (name, ""));
    let server = Running::start("server --open --listen 127.0.0.1:0", &empty);
    server.logs("WARN");
    server.logs("relay listens");
    Running::start(&format!("forward 80 {}", nowhere()), &[("RELAY_MODE", "")]).logs("cannot connect");
}

/// A file that is gone with the test.
fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn flags_go_before_the_environment_and_that_before_the_file() {
    let (flag, variable, configured) = (nowhere(), nowhere(), nowhere());
    let file = file(&format!("listen = \"{configured}\"\nopen = true\n"));
    let with_file = format!("server --config {}", file.path().display());
    let listens = |line: &str, environment: &[(&str, &str)], wanted: &str| {
        Running::start(line, environment).logs(&format!("relay listens address={wanted}"));
    };
    listens(&with_file, &[], &configured);
    listens("server", &[("RELAY_CONFIG", file.path().to_str().unwrap())], &configured);
    listens(&with_file, &[("RELAY_LISTEN", &variable)], &variable);
    listens(&format!("{with_file} --listen {flag}"), &[("RELAY_LISTEN", &variable)], &flag);
}

#[test]
fn a_wrong_configuration_ends_with_64_and_all_that_is_wrong() {
    let wrong = file("port = \"1-2\"\nopen = 1\n");
    let path = wrong.path().display().to_string();
    for line in [format!("check {path}"), format!("server --config {path}"), format!("invite a --config {path}")] {
        let (code, out, err) = ends(&line, &[]);
        assert_eq!((code, out.as_str()), (64, ""), "{line}: {err}");
        assert!(err.contains(&format!("{path}:1: unknown key `port`; did you mean `ports`?")), "{line}: {err}");
        assert!(err.contains(&format!("{path}:2: `open` takes true or false")), "{line}: {err}");
    }
    for line in ["check /none", "server --config /none", "forward 80 host --config /none"] {
        let (code, _, err) = ends(line, &[]);
        assert!(code == 64 && err.contains("cannot read /none"), "{line}: {code} {err}");
    }
    let (code, _, err) = ends(&format!("forward 80 host --config {path}"), &[]);
    assert!(code == 64 && err.contains("belongs into a server's file"), "{code} {err}");
}

#[test]
fn a_right_configuration_is_said_to_be_ok() {
    for (text, kind) in [("open = true", "server"), ("[[service]]\nservice = \"80\"", "forwarder"), ("", "server")] {
        let file = file(text);
        let path = file.path().display();
        let (code, out, err) = ends(&format!("check {path}"), &[]);
        assert_eq!((code, out, err), (0, format!("{path}: ok ({kind})\n"), String::new()));
    }
}

const TOKEN: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

#[test]
fn a_malformed_invite_ends_with_2_wherever_it_comes_from_and_is_not_shown() {
    let invite = format!("relay://laptop:{TOKEN}x@vps.example");
    let file = file(&invite);
    let in_file = format!("forward 80 --invite-file {}", file.path().display());
    for (line, environment) in [
        (format!("forward 80 {invite}"), vec![]),
        ("forward 80".into(), vec![("RELAY_INVITE", invite.as_str())]),
        (in_file, vec![]),
        (format!("forward 80 --invite-file {invite}"), vec![]),
        (format!("forward {invite}"), vec![]),
        (invite.clone(), vec![]),
        (format!("forward 80 --mode {invite}"), vec![]),
    ] {
        let (code, out, err) = ends(&line, &environment);
        assert_eq!((code, out.as_str()), (2, ""), "{line}: {err}");
        assert!(!err.contains(&TOKEN[..10]) && !err.contains(&TOKEN[33..]), "{line}: {err}");
    }
    let (code, _, err) = ends(&format!("check {TOKEN}"), &[]);
    assert!(code == 64 && !err.contains(TOKEN), "{err}");
}

#[test]
fn invites_are_for_a_relay_that_has_a_state() {
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none");
    for command in ["invite laptop", "revoke laptop", "identities"] {
        let (code, out, err) = ends(&format!("{command} --state {}", none.display()), &[]);
        assert_eq!((code, out.as_str()), (1, ""), "{command}: {err}");
        assert!(err.contains("none") && !none.exists(), "{command}: {err}");
    }
}

#[test]
fn an_address_of_another_machine_is_no_port_in_use() {
    let (code, _, err) = ends("server --open --listen 192.0.2.1:7000", &[]);
    assert!(code == 1 && err.contains("choose an address of this machine"), "{err}");
}

#[test]
fn a_port_in_use_ends_with_1_and_says_which() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, _, err) = ends(&format!("server --open --listen {address}"), &[]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains(&format!("cannot listen on {address}: ")) && err.contains("choose another port"), "{err}");
}

#[test]
fn open_servers_warn_and_say_what_to_type_instead() {
    let original = Running::start("0", &[]);
    let warning = original.logs("WARN");
    assert!(warning.contains("open to everyone") && warning.contains("relay server --listen"), "{warning}");
    assert!(warning.contains("whom you invite"), "{warning}");
    let server = Running::start("server --open --listen 127.0.0.1:0", &[]);
    assert!(server.logs("WARN").contains("open to everyone"));
}

#[test]
fn plain_text_warns_unless_it_stays_on_this_machine() {
    let far = Running::start("forward 80 relay.invalid", &[]);
    far.logs("the connection to relay.invalid:7000 is plain text");
    far.logs("relay.invalid does not resolve");
    far.signal("-TERM");
    far.ends_with(0);
    let near = Running::start(&format!("forward 80 {}", nowhere()), &[]);
    assert!(near.logs("").contains("cannot connect"), "the first line is no warning about plain text");
}

#[test]
fn signals_end_each_command_with_0() {
    for signal in ["-TERM", "-INT"] {
        let (server, control) = server("server --open --listen 127.0.0.1:0");
        let forwarder = Running::start(&format!("forward 80 {control}"), &[]);
        forwarder.prints("established relay address: 127.0.0.1:");
        let trying = Running::start(&format!("forward 80 {}", nowhere()), &[]);
        trying.logs("cannot connect");
        let demo = Running::start("demo", &[]);
        demo.prints("open http://127.0.0.1:");
        for running in [forwarder, trying, demo, server] {
            running.signal(signal);
            let took = running.ends_with(0);
            assert!(took < Duration::from_secs(10), "nobody is live, and it took {took:?}");
        }
    }
}

/// A service, a relay, a forwarder, and a user with whom a byte has gone each way.
fn a_live_user() -> (Running, Running, TcpStream, TcpStream) {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let (server, control) = server("server --open --listen 127.0.0.1:0");
    let forwarder = Running::start(&format!("forward {} {control}", service.local_addr().unwrap()), &[]);
    let mut user = TcpStream::connect(forwarder.prints("established relay address: ")).unwrap();
    user.set_read_timeout(Some(PATIENCE)).unwrap();
    user.write_all(b"a").unwrap();
    let (mut dialled, _) = service.accept().unwrap();
    dialled.set_read_timeout(Some(PATIENCE)).unwrap();
    dialled.read_exact(&mut [0]).unwrap();
    dialled.write_all(b"b").unwrap();
    user.read_exact(&mut [0]).unwrap();
    (server, forwarder, user, dialled)
}

#[test]
fn a_live_user_finishes_before_the_end() {
    for end_server in [true, false] {
        let (server, forwarder, mut user, mut dialled) = a_live_user();
        let (ending, staying) = if end_server { (server, forwarder) } else { (forwarder, server) };
        ending.signal("-TERM");
        ending.logs("live users may finish");
        user.write_all(b"c").unwrap();
        dialled.read_exact(&mut [0]).unwrap();
        dialled.write_all(b"last").unwrap();
        drop((dialled, user.shutdown(std::net::Shutdown::Write)));
        let mut rest = String::new();
        user.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "last");
        ending.ends_with(0);
        drop(staying);
    }
}

#[test]
fn a_second_signal_ends_at_once_and_resets_who_is_left() {
    for end_server in [true, false] {
        let (server, forwarder, mut user, _served) = a_live_user();
        let (ending, _staying) = if end_server { (server, forwarder) } else { (forwarder, server) };
        ending.signal("-TERM");
        ending.logs("live users may finish");
        ending.signal("-INT");
        let took = ending.ends_with(0);
        assert!(took < Duration::from_secs(5), "{took:?}");
        let error = user.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn limits_that_were_met_are_counted_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let (server, _) = server(&format!("server --listen 127.0.0.1:0 --state {}", state.display()));
    let (code, invite, err) = ends(&format!("invite laptop --max-tunnels 1 --state {}", state.display()), &[]);
    assert_eq!(code, 0, "{err}");
    let forward = || Running::start("forward 1", &[("RELAY_INVITE", &invite)]);
    let first = forward();
    first.prints("established relay address: ");
    forward().logs("refuses: too-many-tunnels");
    server.signal("-TERM");
    let last = server.logs("relay stopped");
    assert!(last.contains("\"max_tunnels\": "), "{last}");
}

#[test]
fn the_originals_forms_work_as_typed() {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port();
    let (_server, control) = server("0");
    let control = control.rsplit(':').next().unwrap();
    for flag in ["--localForwardPort=", "-localForwardPort=", "--localForwardPort ", "-localForwardPort "] {
        let forwarder = Running::start(&format!("{flag}{port} localhost {control}"), &[]);
        let public = forwarder.prints("established relay address: ");
        // As it was typed.
        assert!(public.starts_with("localhost:"), "{public}");
        let mut user = TcpStream::connect(public).unwrap();
        user.write_all(b"x").unwrap();
        service.accept().unwrap().0.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn json_logs_are_one_object_a_line() {
    let server = Running::start("server --open --listen 127.0.0.1:0 --log-format json -v", &[]);
    let line = server.logs("relay listens");
    assert!(line.starts_with('{') && line.ends_with('}') && line.contains("\"address\":\"127.0.0.1:"), "{line}");
    // What a peer sends is escaped.
    let address = line.split("\"address\":\"").nth(1).unwrap().split('"').next().unwrap();
    TcpStream::connect(address).unwrap().write_all(b"\x1b[31mred\x07\n").unwrap();
    let line = server.logs("red");
    assert!(line.ends_with('}') && line.chars().all(|c| !c.is_control()), "{line:?}");
}

#[test]
fn text_logs_escape_what_peers_send() {
    let (server, address) = server("server --open --listen 127.0.0.1:0 -v");
    TcpStream::connect(address).unwrap().write_all(b"\x1b[31mred\x07\n").unwrap();
    let line = server.logs("red");
    assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
}

#[test]
fn nobody_reading_its_output_ends_nothing() {
    let (_server, control) = server("server --open --listen 127.0.0.1:0");
    let mut child = relay(&format!("forward 80 {control} -v"), &[]).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    // The tunnel stands: its public port is the first above the control port, or near it.
    let (host, first) = control.rsplit_once(':').unwrap();
    let first: u16 = first.parse().unwrap();
    let started = Instant::now();
    while !(first + 1..first.saturating_add(20)).any(|port| {
        // The service is not there, so a user of the tunnel is reset.
        TcpStream::connect((host, port)).is_ok_and(|mut user| {
            user.set_read_timeout(Some(PATIENCE)).unwrap();
            user.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
        })
    }) {
        assert!(started.elapsed() < PATIENCE, "no tunnel");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_demo_serves_its_page_through_the_relay() {
    let demo = Running::start("demo", &[]);
    let line = demo.prints("open http://");
    let host = line.split('/').next().unwrap();
    let mut user = TcpStream::connect(host).unwrap();
    user.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(user, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    user.read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("This page came through the relay") && page.contains(host), "{page}");
    assert!(!page.contains("{{") && page.trim_end().ends_with("</html>"), "{page}");
    demo.signal("-TERM");
    demo.ends_with(0);
}

#[test]
fn a_request_that_never_ends_does_not_hold_up_the_demo() {
    let demo = Running::start("demo", &[]);
    let opened = demo.logs("service=");
    let [public, service] = ["address=", "service="].map(|name| {
        let rest = opened.split(name).nth(1).unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    });
    let begun = [public, service].map(|at| {
        let mut user = TcpStream::connect(at).unwrap();
        user.write_all(b"GET / HT").unwrap();
        user
    });
    std::thread::sleep(Duration::from_millis(200));
    demo.signal("-INT");
    let took = demo.ends_with(0);
    assert!(took < Duration::from_secs(5), "{took:?}");
    drop(begun);
}

/// A value that a line of the log has.
fn logged<'a>(line: &'a str, name: &str) -> &'a str {
    let value = line.split(&format!(" {name}=")).nth(1).unwrap_or_else(|| panic!("no {name} in {line}"));
    value.split_whitespace().next().unwrap()
}

#[test]
fn the_line_of_a_tunnel_counts_its_own_users_to_their_end() {
    for mode in ["multiplex", "pool", "event"] {
        let service = TcpListener::bind("127.0.0.1:0").unwrap();
        let (server, control) = server("server --open --listen 127.0.0.1:0");
        let forwarder =
            Running::start(&format!("forward {} {control} --mode {mode}", service.local_addr().unwrap()), &[]);
        let mut user = TcpStream::connect(forwarder.prints("established relay address: ")).unwrap();
        user.write_all(b"abc").unwrap();
        let (mut dialled, _) = service.accept().unwrap();
        dialled.read_exact(&mut [0; 3]).unwrap();
        dialled.write_all(b"b").unwrap();
        user.read_exact(&mut [0]).unwrap();
        if mode == "pool" {
            forwarder.signal("-TERM");
        }
        drop(server);
        let line = forwarder.logs("tunnel closed");
        assert_eq!(["users", "bytes_up", "bytes_down"].map(|name| logged(&line, name)), ["1", "3", "1"], "{line}");
    }
}

/// A relay for event that the test plays: the next control connection, told that port.
fn event_control(relay: &TcpListener, port: u16) -> TcpStream {
    let (mut control, _) = relay.accept().unwrap();
    control.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = [0; 10];
    control.read_exact(&mut request).unwrap();
    assert_eq!(&request, b"event\nnew\n");
    control.write_all(format!("{port}\n").as_bytes()).unwrap();
    control
}

#[test]
fn a_user_who_outlives_its_tunnel_counts_for_it() {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = format!("forward {} {} --mode event", service.local_addr().unwrap(), relay.local_addr().unwrap());
    let forwarder = Running::start(&line, &[]);
    let mut control = event_control(&relay, 7001);
    control.write_all(b"TICKET\n").unwrap();
    let (mut user, _) = relay.accept().unwrap();
    user.read_exact(&mut [0; 13]).unwrap();
    let (mut dialled, _) = service.accept().unwrap();
    drop(control);
    assert_eq!(logged(&forwarder.logs("tunnel lost"), "live"), "1");
    let control = event_control(&relay, 7002);
    forwarder.logs("tunnel opened");
    drop(control);
    let line = forwarder.logs("tunnel closed");
    assert_eq!(["address", "users"].map(|name| logged(&line, name)), ["127.0.0.1:7002", "0"], "{line}");
    user.write_all(b"late").unwrap();
    dialled.read_exact(&mut [0; 4]).unwrap();
    drop((user, dialled));
    let line = forwarder.logs("tunnel closed");
    let counted = ["address", "users", "bytes_up"].map(|name| logged(&line, name));
    assert_eq!(counted, ["127.0.0.1:7001", "1", "4"], "{line}");
}

#[test]
fn a_relay_that_drops_each_tunnel_is_logged_once_for_each_cause() {
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let forwarder = Running::start(&format!("forward 80 {} --mode event", relay.local_addr().unwrap()), &[]);
    for _ in 0..3 {
        drop(event_control(&relay, 7001));
    }
    event_control(&relay, 7001).write_all(b"no ticket\n").unwrap();
    let end = Instant::now() + Duration::from_millis(500);
    let mut lines = Vec::new();
    while let Ok(line) = forwarder.err.recv_timeout(end.saturating_duration_since(Instant::now())) {
        lines.push(line);
    }
    let about = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    // Before the first loss, and once more before it came back.
    assert_eq!(about("tunnel opened"), 2, "{lines:?}");
    assert_eq!(about("the relay closed the connection"), 1, "{lines:?}");
    assert_eq!(about("an id that is not"), 1, "{lines:?}");
    // Another address is news.
    let _control = event_control(&relay, 7002);
    forwarder.logs("tunnel opened");
    forwarder.signal("-TERM");
    forwarder.logs("the relay closed the connection (2 times more)");
}
