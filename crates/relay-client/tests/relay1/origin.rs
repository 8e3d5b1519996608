//! Where users are, as a relay tells it that the test plays.

use std::net::SocketAddr;

use relay_client::{ADDRESS_WAIT, Builder, Connection, Error, Event, Listener, Protocol, RELAY_1_WAIT};
use relay_net::mux::{Config, Link, Role, Side};
use relay_net::pipe::{Beginning, Moved};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::stage::{PATIENCE, Peer, Stage, event_of, within};

const LINE: &str = "PROXY TCP4 203.0.113.7 198.51.100.1 40112 1235\r\n";

fn ends(user: &Connection) -> (Option<SocketAddr>, Option<SocketAddr>) {
    (user.user_addr(), user.public_addr())
}

fn those_of_line() -> (Option<SocketAddr>, Option<SocketAddr>) {
    (Some("203.0.113.7:40112".parse().unwrap()), Some("198.51.100.1:1235".parse().unwrap()))
}

/// A tunnel whose relay tells where users are.
async fn bound(stage: &Stage, builder: Builder, request: &str, answer: &str) -> (Listener, Peer) {
    let play = async {
        let client = stage.secure().await;
        client.hears("relay/1\n").await;
        client.says("relay/1 proxy\n").await;
        client.hears(request).await;
        client.says(answer).await;
        client
    };
    let (listener, client) = stage.tried(builder, play).await;
    (listener.unwrap(), client)
}

async fn claimed(stage: &Stage, ticket: &str) -> Peer {
    let client = stage.secure().await;
    client.hears(&format!("event\n{ticket}\n")).await;
    client
}

/// The user's next bytes are these.
async fn gives(user: Connection, bytes: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    let mut heard = vec![0; bytes.len()];
    let moved = Moved::default();
    tokio::select! {
        end = user.pipe(near.into(), &moved, PATIENCE) => panic!("{end}"),
        read = within(bytes, far.read_exact(&mut heard)) => assert_eq!(read.unwrap(), bytes.len()),
    }
    assert_eq!(heard, bytes.as_bytes());
}

#[tokio::test]
async fn a_claimed_user_is_delivered_with_its_address_and_its_first_bytes() {
    let stage = Stage::new().await;
    let builder = stage.builder().protocol(Protocol::Event);
    let (mut listener, control) = bound(&stage, builder, "event proxy=v1\nnew\n", "7001\n").await;
    for (line, wanted) in [(LINE, those_of_line()), ("PROXY UNKNOWN\r\n", (None, None))] {
        for split in [false, true] {
            control.says("TICKET\n").await;
            let client = claimed(&stage, "TICKET").await;
            let bytes = format!("{line}hello");
            let pieces = if split { bytes.split_inclusive(|_| true).collect() } else { vec![&bytes[..]] };
            for piece in pieces {
                client.says(piece).await;
            }
            let user = within("a user", listener.accept()).await.unwrap();
            assert_eq!(ends(&user), wanted);
            gives(user, "hello").await;
        }
    }
}

#[tokio::test]
async fn a_member_is_a_users_with_the_line() {
    let stage = Stage::new().await;
    let builder = stage.builder().protocol(Protocol::Pool).members(2);
    let (mut listener, first) = bound(&stage, builder, "pool proxy=v1\nnew\n", "7001\nNAME\nPROXY ").await;
    first.says(&format!("{}hello", &LINE[6..])).await;
    let user = within("a user", listener.accept()).await.unwrap();
    assert_eq!(ends(&user), those_of_line());
    gives(user, "hello").await;
    // The user need not say anything.
    let member = stage.secure().await;
    member.hears("pool\nNAME\n").await;
    member.says(LINE).await;
    assert_eq!(ends(&within("a user", listener.accept()).await.unwrap()), those_of_line());
}

#[tokio::test]
async fn a_stream_begins_with_the_line() {
    let stage = Stage::new().await;
    let (mut listener, client) = bound(&stage, stage.builder(), "multiplex proxy=v1\n", "7001\n").await;
    let link = Link::start(Role::Relay, client.0, Vec::new(), Config::default());
    // One that the relay says nothing of holds up nobody.
    let _silent = link.open().await.unwrap();
    let near = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut user = TcpStream::connect(near.local_addr().unwrap()).await.unwrap();
    user.write_all(b"hello").await.unwrap();
    let user_here = near.accept().await.unwrap().0;
    let stream = link.open_with(Beginning { ahead: LINE.into(), refuses: None }).await.unwrap();
    tokio::spawn(async move { stream.pipe(user_here.into(), Side::User, &Moved::default(), PATIENCE).await });
    let connection = within("a user", listener.accept()).await.unwrap();
    assert_eq!(ends(&connection), those_of_line());
    gives(connection, "hello").await;
}

#[tokio::test]
async fn who_is_not_told_of_is_reset_and_holds_up_nobody() {
    let stage = Stage::new().await;
    let builder = stage.builder().protocol(Protocol::Event);
    let mut events = builder.events();
    let (mut listener, control) = bound(&stage, builder, "event proxy=v1\nnew\n", "7001\nA\n").await;
    assert!(matches!(event_of(&mut events).await, Event::Established { .. }));
    let silent = claimed(&stage, "A").await;
    control.says("B\n").await;
    let other = claimed(&stage, "B").await;
    other.says(LINE).await;
    within("a user", listener.accept()).await.unwrap();

    // What is no line is told at once.
    control.says("C\n").await;
    let bad = claimed(&stage, "C").await;
    bad.says("hello").await;
    let Event::Trouble { cause } = event_of(&mut events).await else { panic!("not told") };
    assert!(matches!(*cause, Error::Misbehaved { .. }), "{cause}");
    assert!(cause.to_string().ends_with(" did not begin with a PROXY header; is it a relay?"), "{cause}");
    bad.is_closed().await;

    // A user who has left is nobody's fault.
    control.says("D\n").await;
    claimed(&stage, "D").await.0.shutdown_write().unwrap();

    tokio::time::pause();
    let Event::Trouble { cause } = event_of(&mut events).await else { panic!("not told") };
    assert!(matches!(*cause, Error::NoAddress { waited: ADDRESS_WAIT, .. }), "{cause}");
    silent.is_closed().await;
}

#[tokio::test]
async fn a_relay_that_cannot_tell_is_not_asked_to() {
    let stage = Stage::new().await;
    let play = async {
        let client = stage.plain().await;
        client.hears("relay/1\n").await;
        client.says("relay/1 auth port\n").await;
        client.hears("event\nnew\n").await;
        client.says("7001\nONE\n").await;
        let user = stage.plain().await;
        user.hears("event\nONE\n").await;
        (client, user)
    };
    let (listener, _relay) = stage.tried(Listener::builder(stage.address()).protocol(Protocol::Event), play).await;
    let mut listener = listener.unwrap();
    assert_eq!(ends(&within("a user", listener.accept()).await.unwrap()), (None, None));
}

#[tokio::test]
async fn an_old_relay_is_asked_as_of_old_and_remembered() {
    for closes in [true, false] {
        let stage = Stage::new().await;
        let opened = async || {
            let client = stage.plain().await;
            client.hears("event\nnew\n").await;
            client.says("7001\n").await;
            client
        };
        let play = async {
            let client = stage.plain().await;
            client.hears("relay/1\n").await;
            if closes {
                drop(client);
            } else {
                tokio::time::pause();
                let begun = tokio::time::Instant::now();
                client.is_closed().await;
                assert!(begun.elapsed() < RELAY_1_WAIT * 2);
                tokio::time::resume();
            }
            opened().await
        };
        let (listener, client) = stage.tried(Listener::builder(stage.address()).protocol(Protocol::Event), play).await;
        let _listener = listener.unwrap();
        drop(client);
        opened().await;
    }
}

#[tokio::test]
async fn who_wants_no_addresses_asks_as_of_old() {
    let stage = Stage::new().await;
    let builder = Listener::builder(stage.address()).user_addresses(false);
    let play = async {
        let client = stage.plain().await;
        client.hears("multiplex\n").await;
        client.says("7001\n").await;
        client
    };
    let (listener, _client) = stage.tried(builder, play).await;
    listener.unwrap();
}
