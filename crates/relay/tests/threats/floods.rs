//! Floods from outside: others are served meanwhile, and the memory is bounded.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::rig::{Relay, chat, from, is_gone, line};
use crate::support::MIB;

/// The most that a flood of connections with nothing behind them may cost.
const BOUND: usize = 16 * MIB;

/// One flood at a time: what they take of the machine would spoil what is measured.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_thousand_silent_connections_from_one_address_slow_nobody_else_down() {
    const SILENT: usize = 1000;
    const HANDSHAKES: usize = 200;
    const ALLOWED: Duration = Duration::from_millis(100);
    /// What else the machine does may spoil a round: the relay's own slowness would spoil all.
    const ROUNDS: usize = 3;
    let _alone = alone();
    let relay = Relay::start("");
    relay.serves();
    let before = relay.program.peak_memory();
    let round = || {
        let mut took: Vec<_> = (0..HANDSHAKES)
            .map(|_| {
                let begun = Instant::now();
                relay.prove().unwrap();
                begun.elapsed()
            })
            .collect();
        took.sort_unstable();
        took[HANDSHAKES * 99 / 100 - 1]
    };
    let p99 = thread::scope(|scope| {
        let (_over, over) = mpsc::channel::<()>();
        let relay = &relay;
        scope.spawn(move || {
            loop {
                let silent: Vec<_> = (0..SILENT).filter_map(|_| from("127.0.0.2", relay.control).ok()).collect();
                // Again before the relay has given them up.
                if over.recv_timeout(Duration::from_secs(2)) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
                drop(silent);
            }
        });
        relay.program.line_with("limit handshakes_per_source");
        (0..ROUNDS).map(|_| round()).find(|p99| *p99 < ALLOWED)
    });
    let cost = relay.cost(before);
    eprintln!("p99 {p99:?}, {} KiB", cost / 1024);
    assert!(p99.is_some(), "no round's p99 was below {ALLOWED:?}");
    assert!(cost < BOUND, "{cost} bytes");
}

#[test]
fn who_is_crowded_out_takes_no_more_room() {
    const ROOM: usize = 8;
    let _alone = alone();
    let relay = Relay::start(&format!("[limits]\nhandshakes = {ROOM}"));
    relay.serves();
    let before = relay.program.descriptors();
    let mut most = 0;
    let mut flood = Vec::new();
    for _ in 0..15 * ROOM {
        // TLS stands, and the client could be told why it has to go.
        flood.extend(relay.say_securely(&relay.client, "relay/1\n").ok());
        most = most.max(relay.program.descriptors());
    }
    // One who is on its way in, and one on its way out, for each of the rest.
    assert!(most < before + 3 * ROOM, "{before}, then {most}");
    relay.serves();
}

#[test]
fn hellos_that_never_end_fill_no_memory() {
    // A record of 16 KiB, the largest, with a ClientHello (RFC 8446, 5.1 and 4), but for its end.
    const RECORD: u16 = 16 * 1024;
    let [high, low] = RECORD.to_be_bytes();
    let mut bytes = vec![22, 3, 1, high, low, 1, 0, 63, 252];
    bytes.resize(usize::from(RECORD), 0);
    let _alone = alone();
    let relay = Relay::start("");
    relay.serves();
    let before = relay.program.peak_memory();
    let mut open = Vec::new();
    for source in ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6"] {
        for _ in 0..300 {
            let Ok(mut peer) = from(source, relay.control) else { continue };
            // Who was refused may learn it here.
            let _ = peer.write_all(&bytes);
            open.push(peer);
        }
    }
    relay.serves();
    let cost = relay.cost(before);
    eprintln!("{} KiB for {} connections", cost / 1024, open.len());
    // 1 024 of them wait, each with its hello, twice: for the session, and for the name in it.
    assert!(cost < 64 * MIB, "{cost} bytes");
}

/// The port that a client is told.
fn public(relay: &Relay, client: &mut TcpStream) -> SocketAddr {
    SocketAddr::new(relay.control.ip(), line(client).unwrap().parse().unwrap())
}

#[test]
fn guessed_ids_lead_nowhere() {
    const GUESSES: usize = 100_000;
    let _alone = alone();
    let relay = Relay::start("open = true");
    // A user waits, for as long as one may, and a pool has one member.
    let mut control = relay.say("event\nnew\n");
    let _waits = from("127.0.0.1", public(&relay, &mut control)).unwrap();
    line(&mut control).unwrap();
    let mut member = relay.say("pool\nnew\n");
    let pool = public(&relay, &mut member);
    line(&mut member).unwrap();
    let before = relay.program.peak_memory();
    let begun = Instant::now();
    let sources = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"];
    thread::scope(|scope| {
        for source in sources {
            let relay = &relay;
            scope.spawn(move || {
                for guess in 0..GUESSES / sources.len() {
                    let word = ["event", "pool"][guess % 2];
                    let id = u128::from_be_bytes(rand::random());
                    let mut peer = from(source, relay.control).unwrap();
                    peer.write_all(format!("{word}\n{id:032X}\n").as_bytes()).unwrap();
                    is_gone(&mut peer);
                }
            });
        }
    });
    let cost = relay.cost(before);
    eprintln!("{} KiB for {GUESSES} guesses in {:?}", cost / 1024, begun.elapsed());
    assert!(cost < BOUND, "{cost} bytes");
    // Nobody has joined it.
    chat(&mut from("127.0.0.1", pool).unwrap(), &mut member);
}

#[test]
fn users_who_only_come_fill_no_memory() {
    const USERS: usize = 2000;
    let _alone = alone();
    let relay = Relay::start("");
    let (mut control, public) = relay.event();
    let before = relay.program.peak_memory();
    // Nobody claims them: at most 128 wait, and the oldest of the source that has most make way.
    let mut flood: Vec<_> = (0..USERS).map(|_| from("127.0.0.2", public).unwrap()).collect();
    flood[0].write_all(b"x").unwrap();
    is_gone(&mut flood[0]);
    let cost = relay.cost(before);
    eprintln!("{} KiB", cost / 1024);
    assert!(cost < BOUND, "{cost} bytes");
    drop(flood);
    let mut user = from("127.0.0.3", public).unwrap();
    user.write_all(b"q").unwrap();
    // Its ticket is behind those of users who left meanwhile.
    loop {
        let mut claim = relay.claim(&mut control);
        if claim.write_all(b"a").is_ok() && claim.read(&mut [0]).is_ok_and(|read| read == 1) {
            break;
        }
    }
    user.read_exact(&mut [0]).unwrap();
}
