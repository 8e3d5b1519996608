//! A relay of 2017 does not answer the greeting: examples that greet go on with the bare original exchange.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;

use crate::support::{self, PATIENCE, Program};

/// The next connection to come; it has said this and nothing else.
fn client(listener: &TcpListener, words: &str) -> TcpStream {
    let (mut client, _) = listener.accept().unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    expect(&mut client, words);
    client
}

fn expect(client: &mut TcpStream, words: &str) {
    let mut said = vec![0; words.len()];
    client.read_exact(&mut said).unwrap();
    assert_eq!(String::from_utf8_lossy(&said), words);
}

fn relay() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).unwrap();
    let at = listener.local_addr().unwrap().to_string();
    (listener, at)
}

fn rest(mut client: TcpStream) -> String {
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    rest
}

/// A forwarder by event is served, also when the port and the first ticket come in one segment.
fn serves(start: impl FnOnce(&str, &str) -> Command) {
    let (listener, relay) = relay();
    let example = Program::spawn(&mut start(&relay, &support::serve().port().to_string()));
    assert_eq!(rest(client(&listener, "relay/1\n")), "");
    let mut link = client(&listener, "event\nnew\n");
    link.write_all(b"1235\n0123456789\n").unwrap();
    example.line_with("reachable at 127.0.0.1:1235");
    let mut user = client(&listener, "event\n0123456789\n");
    user.write_all(b"ehello").unwrap();
    user.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(user), "hello");
}

/// A relay that has answered before is not taken for an old one when it closes, as one does that is being restarted.
fn asks_again(start: impl FnOnce(&str, &str) -> Command) {
    let (listener, relay) = relay();
    let example = Program::spawn(&mut start(&relay, "9"));
    let mut link = client(&listener, "relay/1\n");
    link.write_all(b"relay/1\n").unwrap();
    expect(&mut link, "event\nnew\n");
    link.write_all(b"1235\n").unwrap();
    example.line_with("reachable at 127.0.0.1:1235");
    drop(link);
    drop(client(&listener, "relay/1\n"));
    client(&listener, "relay/1\n");
}

#[test]
fn python() {
    if support::have(&["python3"]) {
        serves(crate::python::forward);
        asks_again(crate::python::forward);
    }
}

#[test]
fn go() {
    let Some(forward) = crate::go::forward("event") else { return };
    serves(&forward);
    asks_again(&forward);
}

#[test]
fn node() {
    if support::have(&["node"]) {
        serves(crate::node::forward("event"));
        asks_again(crate::node::forward("event"));
    }
}
