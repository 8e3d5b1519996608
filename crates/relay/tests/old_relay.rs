//! Each form of our forwarder with a relay that, as the original does, ends itself when it hears what it
//! does not know.
//!
//! The stand-in is a gate in front of our own server. It reads the lines of each connection by the
//! original's rules, byte by byte, and dies of a second word on a line, of an empty line and of
//! `auth NAME`; one unknown word it never answers. What it knows it hands on, with all that follows.

#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is a failed test")]
#![cfg(unix)]

mod support;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use support::{PATIENCE, Program, RELAY, User, established, relay, serve, wait_for_port};

#[derive(Default)]
struct Gate {
    /// Why the original would have ended.
    died: Option<String>,
    /// The exchanges, as they were heard.
    heard: Vec<String>,
    /// The public ports that were given.
    given: Vec<u16>,
}

struct OldRelay {
    control: SocketAddr,
    gate: Arc<Mutex<Gate>>,
    port: u16,
    server: Option<Program>,
}

impl OldRelay {
    fn start() -> Self {
        let (server, port) = relay();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let control = listener.local_addr().unwrap();
        let gate = Arc::new(Mutex::new(Gate::default()));
        let inside = gate.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, gate) = (client.unwrap(), inside.clone());
                thread::spawn(move || greet(client, port, &gate));
            }
        });
        Self { control, gate, port, server: Some(server) }
    }

    /// Ends, with every connection, and starts anew: it remembers nothing.
    fn restart(&mut self) {
        self.gate.lock().unwrap().given.clear();
        // Two servers cannot have one port: the old one goes first.
        drop(self.server.take());
        let listen = format!("127.0.0.1:{}", self.port);
        self.server = Some(Program::start(RELAY, ["server", "--open", "--listen", &listen]));
        wait_for_port(self.port);
    }

    fn is_alive(&self) {
        assert_eq!(self.gate.lock().unwrap().died, None);
    }

    /// How many of the exchanges were of that kind; an id counts as `ID`.
    fn heard(&self, exchange: &str) -> usize {
        self.gate.lock().unwrap().heard.iter().filter(|heard| *heard == exchange).count()
    }
}

fn greet(mut client: TcpStream, port: u16, gate: &Mutex<Gate>) -> io::Result<()> {
    let protocol = word(&mut client, gate)?;
    let mut lines = format!("{protocol}\n");
    let mut exchange = lines.clone();
    match protocol.as_str() {
        "multiplex" => {}
        "pool" | "event" => {
            let id = word(&mut client, gate)?;
            exchange += if id == "new" { "new\n" } else { "ID\n" };
            lines = format!("{protocol}\n{id}\n");
        }
        // Neither an answer nor a close.
        _ => loop {
            thread::park();
        },
    }
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    server.write_all(lines.as_bytes())?;
    if !exchange.ends_with("ID\n") {
        let port = line(&mut server)?;
        writeln!(client, "{port}")?;
        gate.lock().unwrap().given.push(port.parse().unwrap());
    }
    gate.lock().unwrap().heard.push(exchange);
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Write);
    });
    let _ = io::copy(&mut client, &mut server);
    server.shutdown(Shutdown::Write)
}

/// One line that is one word. Anything else is the death of the original.
fn word(client: &mut TcpStream, gate: &Mutex<Gate>) -> io::Result<String> {
    let heard = line(client);
    match &heard {
        Ok(line) if line.split_whitespace().count() == 1 => return Ok(line.trim().into()),
        _ => gate.lock().unwrap().died = Some(format!("{heard:?}")),
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// The bytes before the next newline; not one behind it is taken.
fn line(from: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        from.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        line.push(byte[0]);
    }
}

/// Users are served, also after the relay was gone for a moment, and nothing kills it.
fn works_with_it(forwarder: impl FnOnce(&OldRelay, SocketAddr) -> Program, opening: &str, carrying: Option<&str>) {
    let mut relay = OldRelay::start();
    let service = serve();
    let mut forwarder = forwarder(&relay, service);
    let public = established(&forwarder);
    let all = |public: SocketAddr| {
        let user = User::of(public);
        user.echo(1 << 20);
        user.many(20);
        user.half_close();
        user.service_ends_first();
    };
    all(public);
    relay.is_alive();
    assert_eq!(relay.heard(opening), 1);
    if let Some(carrying) = carrying {
        assert!(relay.heard(carrying) >= 20);
    }

    relay.restart();
    let started = Instant::now();
    let public = loop {
        assert!(started.elapsed() < PATIENCE, "it does not come back");
        forwarder.assert_runs();
        let given = relay.gate.lock().unwrap().given.clone();
        if let [.., last] = given[..] {
            break SocketAddr::from(([127, 0, 0, 1], last));
        }
        thread::sleep(Duration::from_millis(10));
    };
    all(public);
    relay.is_alive();
}

fn forward(mode: &'static str) -> impl FnOnce(&OldRelay, SocketAddr) -> Program {
    move |relay, service| {
        Program::start(RELAY, ["forward", &service.to_string(), &relay.control.to_string(), "--mode", mode])
    }
}

#[test]
fn multiplex() {
    works_with_it(forward("multiplex"), "multiplex\n", None);
}

#[test]
fn pool() {
    works_with_it(forward("pool"), "pool\nnew\n", Some("pool\nID\n"));
}

#[test]
fn event() {
    works_with_it(forward("event"), "event\nnew\n", Some("event\nID\n"));
}

#[test]
fn the_originals_form() {
    let forwarder = |relay: &OldRelay, service: SocketAddr| {
        let (flag, port) = (format!("--localForwardPort={}", service.port()), relay.control.port().to_string());
        Program::start(RELAY, [flag.as_str(), "localhost", &port])
    };
    works_with_it(forwarder, "multiplex\n", None);
}

#[test]
fn the_stand_in_dies_as_the_original_does() {
    for (bytes, dies) in [
        ("multiplex port=1\n", true),
        ("\n", true),
        ("auth NAME\n", true),
        ("pool\n\n", true),
        ("event\nnew one\n", true),
        ("", true),
        ("relay/1\n", false),
    ] {
        let relay = OldRelay::start();
        let mut client = TcpStream::connect(relay.control).unwrap();
        client.write_all(bytes.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        if dies {
            let started = Instant::now();
            while relay.gate.lock().unwrap().died.is_none() {
                assert!(started.elapsed() < PATIENCE, "{bytes:?}");
                thread::sleep(Duration::from_millis(1));
            }
        } else {
            client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let silence = client.read(&mut [0]).unwrap_err();
            assert!(matches!(silence.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
            relay.is_alive();
        }
    }
}
