//! The listener against relays that the tests play themselves, byte by byte.

#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is a failed test")]

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use relay_client::{
    Builder, Connection, Error, Event, Events, Listener, MAX_REFUSED, Protocol, REFUSED_WITHIN, RelayAddr,
};
use relay_net::pipe::Moved;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PATIENCE: Duration = Duration::from_secs(20);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// A relay that the test plays.
struct Stage {
    control: TcpListener,
}

impl Stage {
    async fn new() -> Self {
        Self { control: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    fn address(&self) -> RelayAddr {
        self.control.local_addr().unwrap().to_string().parse().unwrap()
    }

    /// The next connection, which must begin with these bytes.
    async fn hears(&self, bytes: &str) -> TcpStream {
        let (mut client, _) = within(bytes, self.control.accept()).await.unwrap();
        hears(&mut client, bytes).await;
        client
    }
}

async fn hears(client: &mut TcpStream, bytes: &str) {
    let mut heard = vec![0; bytes.len()];
    within(bytes, client.read_exact(&mut heard)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), bytes);
}

async fn says(client: &mut TcpStream, bytes: &str) {
    client.write_all(bytes.as_bytes()).await.unwrap();
}

/// The connection ends, cleanly or not, without another byte.
async fn is_closed(client: &mut TcpStream) {
    let mut rest = Vec::new();
    if within("the end", client.read_to_end(&mut rest)).await.is_ok() {
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}

/// Serves a user as an echo would.
fn echo(user: Connection) {
    tokio::spawn(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let (mut from, mut to) = far.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        });
        user.pipe(near.into(), &Moved::default(), PATIENCE).await;
    });
}

/// A listener that wants no more of its relay than the original could do.
fn bare(relay: RelayAddr) -> Builder {
    Listener::builder(relay).user_addresses(false)
}

async fn event_of(events: &mut Events) -> Event {
    within("an event", events.next()).await.unwrap()
}

async fn established(events: &mut Events) -> RelayAddr {
    match event_of(events).await {
        Event::Established { address } => address,
        other => panic!("{other:?}"),
    }
}

/// Binds a tunnel of a protocol whose relay answers with `answer`.
async fn bound(
    stage: &Stage,
    protocol: Protocol,
    members: usize,
    request: &str,
    answer: &str,
) -> (Listener, TcpStream) {
    let bind = bare(stage.address()).protocol(protocol).members(members).bind();
    let relay = async {
        let mut client = stage.hears(request).await;
        says(&mut client, answer).await;
        client
    };
    let (listener, client) = tokio::join!(bind, relay);
    (listener.unwrap(), client)
}

#[tokio::test]
async fn bind_gives_the_first_failure() {
    let nobody = Stage::new().await.address();
    let error = bare(nobody.clone()).bind().await.unwrap_err();
    assert!(matches!(error, Error::Dial(_)) && error.is_temporary());
    assert!(error.to_string().starts_with(&format!("cannot connect to {nobody}: ")), "{error}");
}

#[tokio::test]
async fn a_close_without_an_answer_asks_for_an_invite() {
    let stage = Stage::new().await;
    let relay = stage.address();
    for clean in [true, false] {
        let close = async {
            // Dropped with the request unread, the connection is reset.
            if clean { drop(stage.hears("multiplex\n").await) } else { drop(stage.control.accept().await.unwrap()) }
        };
        let (error, ()) = tokio::join!(bare(relay.clone()).bind(), close);
        let error = error.unwrap_err();
        assert!(error.is_temporary());
        assert_eq!(
            error.to_string(),
            format!(
                "{relay} closed without an answer; it may serve only invited clients: ask its operator for an invite"
            )
        );
    }
}

#[tokio::test]
async fn what_is_no_relay_is_told_so_escaped() {
    let stage = Stage::new().await;
    let answer = async {
        let mut client = stage.hears("multiplex\n").await;
        says(&mut client, "HTTP/1.1 400 \x1b[31mBad Request\r\n\r\n").await;
        client
    };
    let (error, _client) = tokio::join!(bare(stage.address()).bind(), answer);
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Misbehaved { .. }) && error.is_temporary());
    assert!(error.to_string().contains("\\u{1b}[31mBad") && error.to_string().ends_with("is it a relay?"), "{error}");
}

#[tokio::test]
async fn a_relay_that_stays_silent_is_given_up() {
    let stage = Stage::new().await;
    let silent = async {
        let client = stage.hears("multiplex\n").await;
        // From here on nothing moves but the clock.
        tokio::time::pause();
        client
    };
    let (error, _client) = tokio::join!(bare(stage.address()).bind(), silent);
    assert!(matches!(error.unwrap_err(), Error::Silent { .. }));
}

#[tokio::test]
async fn each_cause_is_told_once_not_at_each_try() {
    let stage = Stage::new().await;
    let builder = bare(stage.address()).protocol(Protocol::Event).retry_first(true);
    let mut events = builder.events();
    let bind = tokio::spawn(builder.bind());
    drop(stage.hears("event\nnew\n").await);
    says(&mut stage.hears("event\nnew\n").await, "x\n").await;
    drop(stage.hears("event\nnew\n").await);
    let mut client = stage.hears("event\nnew\n").await;
    says(&mut client, "7001\n").await;
    let listener = within("bind", bind).await.unwrap().unwrap();
    assert_eq!(listener.public_address(), "127.0.0.1:7001".parse().unwrap());
    assert!(
        matches!(event_of(&mut events).await, Event::Retrying { cause } if matches!(*cause, Error::Unanswered { .. }))
    );
    assert!(
        matches!(event_of(&mut events).await, Event::Retrying { cause } if matches!(*cause, Error::Misbehaved { .. }))
    );
    assert_eq!(established(&mut events).await, listener.public_address());

    // The tunnel stood: the same cause is news again.
    drop(client);
    assert!(matches!(event_of(&mut events).await, Event::Lost { .. }));
    drop(stage.hears("event\nnew\n").await);
    assert!(matches!(event_of(&mut events).await, Event::Retrying { .. }));
    let mut client = stage.hears("event\nnew\n").await;
    says(&mut client, "7002\n").await;
    assert_eq!(established(&mut events).await.to_string(), "127.0.0.1:7002");
    within("the new address", async {
        while listener.public_address().port() != 7002 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn users_are_claimed_however_their_tickets_arrive() {
    let stage = Stage::new().await;
    // The first ticket comes with the port, in one segment.
    let (mut listener, mut control) = bound(&stage, Protocol::Event, 1, "event\nnew\n", "7001\nAAAAAAAAAA\nBBBB").await;
    for ticket in ["AAAAAAAAAA", "BBBBBBBBBB"] {
        let mut dialled = stage.hears(&format!("event\n{ticket}\n")).await;
        echo(within("a user", listener.accept()).await.unwrap());
        says(&mut dialled, "hello").await;
        hears(&mut dialled, "hello").await;
        dialled.shutdown().await.unwrap();
        is_closed(&mut dialled).await;
        says(&mut control, "BBBBBB\r\n").await;
    }
}

#[tokio::test]
async fn many_tickets_at_once_are_all_claimed() {
    let stage = Stage::new().await;
    let (mut listener, mut control) = bound(&stage, Protocol::Event, 1, "event\nnew\n", "7001\n").await;
    let serve = async {
        for _ in 0..300 {
            echo(listener.accept().await.unwrap());
        }
    };
    let play = async {
        let tickets: Vec<_> = (0..300).map(|at| format!("TICKET{at}\n")).collect();
        says(&mut control, &tickets.concat()).await;
        let mut dialled = Vec::new();
        for _ in 0..300 {
            let mut client = stage.hears("event\nTICKET").await;
            says(&mut client, "!").await;
            dialled.push(client);
        }
        for mut client in dialled {
            let mut rest = Vec::new();
            client.shutdown().await.unwrap();
            within("the echo", client.read_to_end(&mut rest)).await.unwrap();
            assert_eq!(rest.last(), Some(&b'!'));
        }
    };
    within("all users", async { tokio::join!(serve, play) }).await;
}

#[tokio::test]
async fn a_ticket_that_is_none_costs_the_tunnel_only() {
    let stage = Stage::new().await;
    let builder = bare(stage.address()).protocol(Protocol::Event);
    let mut events = builder.events();
    let (bind, mut control) = tokio::join!(builder.bind(), async {
        let mut control = stage.hears("event\nnew\n").await;
        says(&mut control, "7001\n").await;
        control
    });
    let _listener = bind.unwrap();
    established(&mut events).await;
    says(&mut control, "two words\n").await;
    match event_of(&mut events).await {
        Event::Lost { cause } => assert!(cause.to_string().contains("an id"), "{cause}"),
        other => panic!("{other:?}"),
    }
    says(&mut stage.hears("event\nnew\n").await, "7001\n").await;
    established(&mut events).await;
}

#[tokio::test]
async fn a_pool_is_refilled_as_its_members_are_taken() {
    let stage = Stage::new().await;
    // The first member is taken by bytes that come with the answer.
    let (mut listener, mut first) = bound(&stage, Protocol::Pool, 3, "pool\nnew\n", "7001\nNAME\nhello").await;
    echo(within("a user", listener.accept()).await.unwrap());
    hears(&mut first, "hello").await;
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(stage.hears("pool\nNAME\n").await);
    }
    for mut member in members {
        says(&mut member, "hi").await;
        let replacement = stage.hears("pool\nNAME\n").await;
        echo(within("a user", listener.accept()).await.unwrap());
        hears(&mut member, "hi").await;
        member.shutdown().await.unwrap();
        is_closed(&mut member).await;
        drop(replacement);
    }
}

/// Closes members as they join until a new pool is asked for, and gives that; how many it closed.
async fn refuses_members(stage: &Stage) -> u32 {
    let mut refused = 0;
    loop {
        let mut client = stage.hears("pool\n").await;
        let mut word = [0; 3];
        within("a word", client.read_exact(&mut word)).await.unwrap();
        if &word == b"new" {
            hears(&mut client, "\n").await;
            says(&mut client, "7002\nOTHER\n").await;
            drop(stage.hears("pool\nOTHER\n").await);
            return refused;
        }
        hears(&mut client, "E\n").await;
        refused += 1;
    }
}

#[tokio::test]
async fn members_refused_in_a_row_start_a_new_pool() {
    let stage = Stage::new().await;
    let (listener, first) = bound(&stage, Protocol::Pool, 2, "pool\nnew\n", "7001\nNAME\n").await;
    assert_eq!(refuses_members(&stage).await, MAX_REFUSED);
    assert_eq!(listener.public_address().port(), 7002);
    drop(first);
}

#[tokio::test]
async fn an_end_on_one_idle_member_is_a_users_and_on_all_the_relays() {
    let stage = Stage::new().await;
    let (mut listener, mut first) = bound(&stage, Protocol::Pool, 3, "pool\nnew\n", "7001\nNAME\n").await;
    let second = stage.hears("pool\nNAME\n").await;
    let third = stage.hears("pool\nNAME\n").await;
    tokio::time::sleep(REFUSED_WITHIN + Duration::from_millis(500)).await;
    first.shutdown().await.unwrap();
    // The user's end reaches the service, and what that still has to say reaches the user.
    let user = within("a user", listener.accept()).await.unwrap();
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(service.local_addr().unwrap()).await.unwrap();
    let (mut far, _) = service.accept().await.unwrap();
    tokio::spawn(async move { user.pipe(near.into(), &Moved::default(), PATIENCE).await });
    is_closed(&mut far).await;
    says(&mut far, "bye").await;
    hears(&mut first, "bye").await;

    let fourth = stage.hears("pool\nNAME\n").await;
    tokio::time::sleep(REFUSED_WITHIN + Duration::from_millis(500)).await;
    drop((second, third, fourth));
    // All have ended: whether the relay still knows the pool shows when they join again.
    assert!(refuses_members(&stage).await >= MAX_REFUSED);
}

#[tokio::test]
async fn a_dropped_listener_leaves_its_users_and_takes_no_more() {
    let stage = Stage::new().await;
    for (protocol, request, answer) in
        [(Protocol::Event, "event\nnew\n", "7001\nTICKET\n"), (Protocol::Pool, "pool\nnew\n", "7001\nNAME\n!")]
    {
        let (mut listener, mut control) = bound(&stage, protocol, 1, request, answer).await;
        let user = within("a user", listener.accept()).await.unwrap();
        let mut other = stage.hears(if protocol == Protocol::Pool { "pool\nNAME\n" } else { "event\nTICKET\n" }).await;
        let (idle, carrying) =
            if protocol == Protocol::Pool { (&mut other, &mut control) } else { (&mut control, &mut other) };
        drop(listener);
        is_closed(idle).await;
        echo(user);
        says(carrying, "still here").await;
        if protocol == Protocol::Pool {
            hears(carrying, "!").await;
        }
        hears(carrying, "still here").await;
    }
}

#[tokio::test]
async fn close_waits_for_the_last_user() {
    let stage = Stage::new().await;
    let (mut listener, mut control) = bound(&stage, Protocol::Event, 1, "event\nnew\n", "7001\nTICKET\n").await;
    let mut dialled = stage.hears("event\nTICKET\n").await;
    echo(within("a user", listener.accept()).await.unwrap());
    let close = tokio::spawn(listener.close());
    is_closed(&mut control).await;
    says(&mut dialled, "last words").await;
    hears(&mut dialled, "last words").await;
    assert!(!close.is_finished());
    dialled.shutdown().await.unwrap();
    is_closed(&mut dialled).await;
    within("close", close).await.unwrap();
}

#[tokio::test]
async fn a_connection_tells_that_its_user_is_gone_and_resets_when_dropped() {
    let stage = Stage::new().await;
    let (mut listener, _control) = bound(&stage, Protocol::Event, 1, "event\nnew\n", "7001\nA\nB\n").await;
    let gone = stage.hears("event\n").await;
    let first = within("a user", listener.accept()).await.unwrap();
    let mut other = stage.hears("event\n").await;
    let second = within("a user", listener.accept()).await.unwrap();
    // Which of both is whose is not told.
    gone.set_zero_linger().unwrap();
    drop(gone);
    let (first, second) = (Arc::new(first), Arc::new(second));
    let kept = within("the reset", async {
        tokio::select! {
            () = first.ended() => second.clone(),
            () = second.ended() => first.clone(),
        }
    })
    .await;
    // Finishing to send is not leaving.
    hears_rest_of_claim(&mut other).await;
    other.shutdown().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(100), kept.ended()).await.is_err());
    drop((first, second, kept));
    let error = within("a reset", other.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

async fn hears_rest_of_claim(client: &mut TcpStream) {
    within("the ticket", client.read_u16()).await.unwrap();
}

#[test]
fn listeners_and_connections_may_move_between_threads() {
    fn send<T: Send + 'static>() {}
    send::<Listener>();
    send::<Connection>();
    send::<Events>();
    send::<Error>();
}
