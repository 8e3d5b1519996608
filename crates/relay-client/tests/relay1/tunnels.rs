//! Tunnels over TLS: their users, and the connections that they come on.

use std::time::Duration;

use relay_client::{Builder, Connection, Event, Listener, MAX_REFUSED, Protocol, REFUSED_WITHIN};
use relay_net::mux::{Config, Link, Role, Side};
use relay_net::pipe::Moved;
use relay_net::socket::Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::stage::{PATIENCE, Peer, Stage, event_of, within};

/// Binds a tunnel whose relay answers with `answer`.
async fn bound(stage: &Stage, builder: Builder, request: &str, answer: &str) -> (Listener, Peer) {
    let play = async {
        let client = stage.secure().await;
        client.hears("relay/1\n").await;
        client.says("relay/1\n").await;
        client.hears(request).await;
        client.says(answer).await;
        client
    };
    let (listener, client) = stage.tried(builder, play).await;
    (listener.unwrap(), client)
}

/// The next connection, which must resume a session.
async fn dial_back(stage: &Stage) -> Peer {
    let stream = stage.shake_hands().await.unwrap();
    assert!(stream.is_resumed());
    Peer(stream.into())
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

/// Serves a user as an echo would.
fn echo(user: Connection) {
    tokio::spawn(async move {
        let (near, mut far) = sockets().await;
        tokio::spawn(async move {
            let (mut from, mut to) = far.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        });
        user.pipe(near.into(), &Moved::default(), PATIENCE).await;
    });
}

#[tokio::test]
async fn users_are_claimed_over_resumed_sessions_by_their_ticket_alone() {
    let stage = Stage::new().await;
    let builder = stage.builder().protocol(Protocol::Event);
    let (mut listener, control) = bound(&stage, builder, "event\nnew\n", "7001\nONE\n").await;
    for ticket in ["ONE", "TWO", "THREE"] {
        let client = dial_back(&stage).await;
        client.hears(&format!("event\n{ticket}\n")).await;
        echo(within("a user", listener.accept()).await.unwrap());
        client.says("hello").await;
        client.hears("hello").await;
        // The user's end, and then the service's.
        client.0.shutdown_write().unwrap();
        client.is_closed().await;
        control.says(if ticket == "ONE" { "TWO\n" } else { "THREE\n" }).await;
    }
}

#[tokio::test]
async fn users_who_come_at_once_are_claimed_over_resumed_sessions() {
    /// More than the 8 sessions that rustls would keep.
    const USERS: usize = 12;
    let stage = Stage::new().await;
    let builder = stage.builder().protocol(Protocol::Event);
    let (mut listener, control) = bound(&stage, builder, "event\nnew\n", "7001\n").await;
    // Each leaves one more session than it takes.
    for user in 0..USERS {
        control.says(&format!("FIRST{user}\n")).await;
        let client = dial_back(&stage).await;
        client.hears(&format!("event\nFIRST{user}\n")).await;
        echo(within("a user", listener.accept()).await.unwrap());
        client.says("hello").await;
        client.hears("hello").await;
    }
    let tickets: Vec<_> = (0..USERS).map(|user| format!("THEN{user}\n")).collect();
    control.says(&tickets.concat()).await;
    for _ in 0..USERS {
        dial_back(&stage).await;
    }
}

#[tokio::test]
async fn members_join_over_resumed_sessions_by_the_pools_name_alone() {
    let stage = Stage::new().await;
    let builder = stage.builder().protocol(Protocol::Pool).members(2);
    let (mut listener, first) = bound(&stage, builder, "pool\nnew\n", "7001\nNAME\nhello").await;
    echo(within("a user", listener.accept()).await.unwrap());
    first.hears("hello").await;
    let member = dial_back(&stage).await;
    member.hears("pool\nNAME\n").await;
    member.says("hi").await;
    echo(within("a user", listener.accept()).await.unwrap());
    member.hears("hi").await;
}

#[tokio::test]
async fn a_link_over_tls_carries_users() {
    let stage = Stage::new().await;
    let (mut listener, client) = bound(&stage, stage.builder(), "multiplex\n", "7001\n").await;
    let link = Link::start(Role::Relay, client.0, Vec::new(), Config::default());
    let (user, mut far) = sockets().await;
    let serve = async {
        echo(within("a user", listener.accept()).await.unwrap());
        far.write_all(b"hello").await.unwrap();
        far.shutdown().await.unwrap();
        let mut echoed = String::new();
        within("the echo", far.read_to_string(&mut echoed)).await.unwrap();
        assert_eq!(echoed, "hello");
    };
    let relay = async {
        let stream = link.open().await.unwrap();
        stream.pipe(user.into(), Side::User, &Moved::default(), PATIENCE).await
    };
    tokio::join!(serve, relay);
}

#[tokio::test]
async fn idle_members_notice_that_their_relay_is_gone() {
    for clean in [true, false] {
        let stage = Stage::new().await;
        let builder = stage.builder().protocol(Protocol::Pool).members(1);
        let (_listener, first) = bound(&stage, builder, "pool\nnew\n", "7001\nNAME\n").await;
        tokio::time::sleep(REFUSED_WITHIN + Duration::from_millis(300)).await;
        if clean {
            first.0.shutdown_write().unwrap();
        }
        drop(first);
        // Whether the relay still knows the pool shows when members join again.
        for _ in 0..MAX_REFUSED {
            stage.secure().await.hears("pool\nNAME\n").await;
        }
        stage.secure().await.hears("relay/1\n").await;
    }
}

#[tokio::test]
async fn a_control_connection_that_is_cut_off_loses_the_tunnel() {
    let stage = Stage::new().await;
    let builder = stage.builder().protocol(Protocol::Event);
    let mut events = builder.events();
    let (_listener, control) = bound(&stage, builder, "event\nnew\n", "7001\n").await;
    assert!(matches!(event_of(&mut events).await, Event::Established { .. }));
    drop(control);
    assert!(matches!(event_of(&mut events).await, Event::Lost { .. }));
    stage.secure().await.hears("relay/1\n").await;
}

#[tokio::test]
async fn a_connection_that_is_dropped_is_an_abort_for_its_user() {
    let stage = Stage::new().await;
    let builder = stage.builder().protocol(Protocol::Event);
    let (mut listener, _control) = bound(&stage, builder, "event\nnew\n", "7001\nONE\n").await;
    let client = dial_back(&stage).await;
    client.hears("event\nONE\n").await;
    drop(within("a user", listener.accept()).await.unwrap());
    let Socket::Tls(_) = &client.0 else { panic!("not over TLS") };
    let error = within("a reset", client.0.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}
