//! What floods on a link cost the relay in memory: bounded, however long they last.

#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is a failed test")]
#![cfg(target_os = "linux")]

mod support;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use support::{MIB, Program, relay};

/// The most that one link with one user may cost, whatever it brings.
const BOUND: usize = 16 * MIB;
/// How long a peer may refuse all bytes before it counts as one that reads no more.
const STUCK: Duration = Duration::from_secs(1);

fn frame(kind: u8, flags: u8, stream: u32, length: u32) -> Vec<u8> {
    [&[0, kind, 0, flags][..], &stream.to_be_bytes(), &length.to_be_bytes()].concat()
}

/// A link whose one user says nothing and reads nothing.
fn link(control: u16) -> (TcpStream, TcpStream) {
    let mut link = TcpStream::connect(("127.0.0.1", control)).unwrap();
    link.write_all(b"multiplex\n").unwrap();
    let mut port = String::new();
    let mut reader = BufReader::with_capacity(1, link.try_clone().unwrap());
    reader.read_line(&mut port).unwrap();
    let user = TcpStream::connect(("127.0.0.1", port.trim().parse::<u16>().unwrap())).unwrap();
    let mut syn = [0; 12];
    link.read_exact(&mut syn).unwrap();
    assert_eq!(syn[..], frame(1, 1, 1, 0));
    link.write_all(&frame(1, 2, 1, 0)).unwrap();
    (link, user)
}

/// Sends `bytes` again and again, and reads nothing, until the relay has ended the link, takes no more or
/// has had enough. Gives what the relay has taken of memory meanwhile.
fn flood(relay: &Program, link: &mut TcpStream, bytes: &[u8], enough: usize) -> usize {
    let before = relay.peak_memory();
    link.set_write_timeout(Some(STUCK)).unwrap();
    let mut sent = 0;
    while sent < enough {
        match link.write(bytes) {
            // A frame that was cut is finished first.
            Ok(written) if link.write_all(&bytes[written..]).is_ok() => sent += bytes.len(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    relay.peak_memory() - before
}

#[test]
fn no_flood_on_a_link_fills_the_memory() {
    let floods = [
        // One byte a frame, as many as the window holds.
        ("one-byte data", [frame(0, 0, 1, 1), vec![7]].concat().repeat(1000), 262 * 13_000),
        ("empty data", frame(0, 0, 1, 0).repeat(5000), 64 * MIB),
        ("pings", frame(2, 1, 0, 9).repeat(5000), 64 * MIB),
        ("openings that are refused", frame(1, 1, 2, 0).repeat(5000), 64 * MIB),
        ("openings with their reset", [frame(1, 1, 2, 0), frame(1, 8, 2, 0)].concat().repeat(5000), 64 * MIB),
        ("credit", frame(1, 0, 1, 1).repeat(5000), 64 * MIB),
        ("credit for streams unknown", (0..5000).flat_map(|n| frame(1, 0, 2 * n + 99, 5)).collect(), 64 * MIB),
        ("announced ends", frame(3, 0, 0, 0).repeat(5000), 64 * MIB),
    ];
    for (what, bytes, enough) in floods {
        let (mut relay, control) = relay();
        let (mut suspect, _user) = link(control);
        let cost = flood(&relay, &mut suspect, &bytes, enough);
        eprintln!("{what}: {} KiB", cost / 1024);
        assert!(cost < BOUND, "{what} cost {cost} bytes");
        relay.assert_runs();
        // Another link is served.
        let (mut honest, mut user) = link(control);
        honest.write_all(&[frame(0, 0, 1, 5), b"hello".to_vec()].concat()).unwrap();
        let mut heard = [0; 5];
        user.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
    }
}
