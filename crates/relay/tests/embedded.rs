//! A relay and a listener in a program of one's own.

#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is a failed test")]

use std::future::Future;
use std::io;
use std::time::Duration;

use relay::testing::Relay;
use relay_client::{Connection, Error, Event, Events, Handle, Listener, Protocol, RelayAddr};
use relay_net::pipe::Moved;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PATIENCE: Duration = Duration::from_secs(30);

const PROTOCOLS: [Protocol; 3] = [Protocol::Multiplex, Protocol::Pool, Protocol::Event];

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

async fn bound(relay: &str, protocol: Protocol) -> Listener {
    within("a tunnel", Listener::builder(relay).unwrap().protocol(protocol).bind()).await.unwrap()
}

/// A user who has said something, with which a member of a pool is taken.
async fn user(at: &RelayAddr) -> TcpStream {
    let mut user = within("a connection", TcpStream::connect(at.to_string())).await.unwrap();
    user.write_all(b"hello").await.unwrap();
    user
}

/// Serves a user as an echo would, to its end.
async fn echo(user: Connection) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    tokio::spawn(async move {
        let (mut from, mut to) = far.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
    });
    user.pipe(near.into(), &Moved::default(), PATIENCE).await;
}

/// The user hears the echo of its "hello", and of what it says next.
async fn is_served(user: &mut TcpStream) {
    let mut heard = [0; 5];
    within("the echo", user.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"hello");
}

/// Nobody listens at the public port any more, soon.
async fn freed(at: &RelayAddr) {
    within("the port is freed", async {
        while TcpStream::connect(at.to_string()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn next(events: &mut Events) -> Event {
    within("an event", events.next()).await.unwrap()
}

#[tokio::test]
async fn users_come_by_every_protocol_with_an_invite_and_without() {
    let relay = Relay::start().unwrap();
    for protocol in PROTOCOLS {
        for url in [relay.url(), relay.invite("laptop")] {
            let mut listener = bound(&url, protocol).await;
            let mut user = user(&listener.public_address()).await;
            tokio::spawn(echo(within("a user", listener.accept()).await.unwrap()));
            is_served(&mut user).await;
        }
    }
}

/// Closes a listener that has a user, in one way or another; he is served to his end all the same.
async fn ends(protocol: Protocol, close: impl AsyncFnOnce(Listener) -> Option<Listener>) {
    let relay = Relay::start().unwrap();
    let mut listener = bound(&relay.url(), protocol).await;
    let (address, handle) = (listener.public_address(), listener.handle());
    let mut user = user(&address).await;
    let served = tokio::spawn(echo(within("a user", listener.accept()).await.unwrap()));
    is_served(&mut user).await;

    let left = close(listener).await;
    within("an end", handle.closed()).await.unwrap();
    freed(&address).await;
    if let Some(mut listener) = left {
        assert!(matches!(within("an end", listener.accept()).await, Err(Error::Closed)));
    }
    user.write_all(b"hello").await.unwrap();
    is_served(&mut user).await;
    let finish = tokio::spawn(async move { handle.finish().await });
    tokio::task::yield_now().await;
    assert!(!finish.is_finished());
    user.shutdown().await.unwrap();
    assert_eq!(within("the end", user.read(&mut [0])).await.unwrap(), 0);
    within("the last user", served).await.unwrap();
    within("the last user", finish).await.unwrap();
}

#[tokio::test]
async fn a_dropped_listener_frees_its_port_and_leaves_its_users() {
    for protocol in PROTOCOLS {
        ends(protocol, async |listener| {
            drop(listener);
            None
        })
        .await;
    }
}

#[tokio::test]
async fn a_closed_listener_frees_its_port_and_leaves_its_users() {
    for protocol in PROTOCOLS {
        ends(protocol, async |listener| {
            let handle = listener.handle();
            // One that is given up has closed it as well; so has one that comes later.
            tokio::select! {
                biased;
                () = handle.close() => {}
                () = std::future::ready(()) => {}
            }
            within("close", async { tokio::join!(handle.close(), handle.close()) }).await;
            Some(listener)
        })
        .await;
    }
}

async fn lost_and_back(relay: &mut Relay, events: &mut Events, handle: &Handle) {
    let before = handle.public_address();
    relay.restart().await.unwrap();
    assert!(matches!(next(events).await, Event::Lost { .. }));
    let back = loop {
        match next(events).await {
            Event::Established { address, before: Some(was), .. } if was == before => break address,
            Event::Retrying { .. } | Event::Trouble { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    within("the address is known", async {
        while handle.public_address() != back {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_restart_of_the_relay_is_told_and_costs_only_time() {
    for protocol in PROTOCOLS {
        let mut relay = Relay::start().unwrap();
        let builder = Listener::builder(&relay.invite("laptop")).unwrap().protocol(protocol).service("web");
        let mut first = builder.events();
        let mut listener = within("a tunnel", builder.bind()).await.unwrap();
        assert!(matches!(next(&mut first).await, Event::Established { before: None, .. }));
        let handle = listener.handle();
        let mut events = handle.events();
        let port = listener.public_address();
        lost_and_back(&mut relay, &mut events, &handle).await;
        assert_eq!(handle.public_address(), port);
        let mut user = user(&port).await;
        tokio::spawn(echo(within("a user", listener.accept()).await.unwrap()));
        is_served(&mut user).await;
    }
}

#[tokio::test]
async fn a_final_answer_is_told_to_all_who_ask() {
    let mut relay = Relay::start().unwrap();
    let mut listener = bound(&relay.invite("laptop"), Protocol::Event).await;
    let handle = listener.handle();
    let mut events = handle.events();
    let asked = tokio::spawn(async move { handle.closed().await });
    relay.revoke("laptop");
    relay.restart().await.unwrap();
    let error = within("the end", listener.accept()).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }) && !error.is_temporary(), "{error}");
    assert_eq!(within("the reason", asked).await.unwrap().unwrap_err().to_string(), error.to_string());
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::ConnectionRefused);
    assert!(matches!(listener.accept().await, Err(Error::Closed)));
    while within("the end of events", events.next()).await.is_some() {}
    let handle = listener.handle();
    assert!(within("no more events", handle.events().next()).await.is_none());
    assert!(handle.closed().await.is_err());
    within("close", handle.close()).await;
}

#[tokio::test]
async fn a_text_that_names_no_relay_is_the_callers_fault() {
    let error = Listener::builder("relay://laptop@host").unwrap_err();
    assert!(matches!(error, Error::Relay(_)) && !error.is_temporary());
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::InvalidInput);
    let error = Listener::builder("http://host").unwrap_err();
    assert!(error.to_string().starts_with("the relay is an invite, tls://HOST[:PORT] or HOST[:PORT]"), "{error}");
}

#[test]
fn handles_may_be_anywhere() {
    fn free<T: Clone + Send + Sync + 'static>() {}
    free::<Handle>();
    free::<Error>();
}
