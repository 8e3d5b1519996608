//! Servers that take the listener, and what becomes of them when relays and listeners end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::{Router, routing::get};
use relay::testing::Relay;
use relay_client::{Error, Handle, Listener, Protocol, UserAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(30);

const PROTOCOLS: [Protocol; 3] = [Protocol::Multiplex, Protocol::Pool, Protocol::Event];

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

async fn bound(relay: &str, protocol: Protocol) -> Listener {
    within("a tunnel", Listener::builder(relay).unwrap().protocol(protocol).bind()).await.unwrap()
}

async fn user(of: &Handle) -> TcpStream {
    within("a connection", TcpStream::connect(of.public_address().to_string())).await.unwrap()
}

/// Sends a request; the connection is to be kept.
async fn ask(user: &mut TcpStream, path: &str) -> std::io::Result<()> {
    user.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await
}

/// The body of the next answer.
async fn answer(user: &mut TcpStream) -> std::io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(user.read_u8().await?.into());
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    user.read_exact(&mut body).await?;
    Ok(String::from_utf8(body).unwrap())
}

async fn asked(user: &mut TcpStream, path: &str) -> std::io::Result<String> {
    ask(user, path).await?;
    answer(user).await
}

/// A web server which answers `/` at once and `/slow` when told to, and ends when its listener has.
struct Web {
    handle: Handle,
    /// That somebody has asked for what is slow, and that he is to be answered.
    asked: Arc<Notify>,
    go: Arc<Notify>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Web {
    fn start(listener: Listener) -> Self {
        let handle = listener.handle();
        let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (note, wait, closed) = (asked.clone(), go.clone(), handle.clone());
        let slow = async move || {
            note.notify_one();
            wait.notified().await;
            "at last"
        };
        let app = Router::new().route("/", get(async || "hello")).route("/slow", get(slow));
        let served = axum::serve(listener, app).with_graceful_shutdown(async move { drop(closed.closed().await) });
        Self { handle, asked, go, server: tokio::spawn(served.into_future()) }
    }

    async fn ended(self) {
        within("the server ends", self.server).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn axum_has_the_users_address_in_either_form() {
    let relay = Relay::start().unwrap();
    for protocol in PROTOCOLS {
        for known in [true, false] {
            let builder = || Listener::builder(&relay.url()).unwrap().protocol(protocol).user_addresses(known);
            let own = within("a tunnel", builder().bind()).await.unwrap();
            let tap = within("a tunnel", builder().bind()).await.unwrap();
            let handles = [own.handle(), tap.handle()];

            let show = async |ConnectInfo(UserAddr(user)): ConnectInfo<UserAddr>| format!("{user:?}");
            let app = Router::new().route("/", get(show)).into_make_service_with_connect_info::<UserAddr>();
            let first = tokio::spawn(axum::serve(own, app).into_future());
            let show = async |ConnectInfo(user): ConnectInfo<SocketAddr>| user.to_string();
            let app = Router::new().route("/", get(show)).into_make_service_with_connect_info::<SocketAddr>();
            let second = tokio::spawn(axum::serve(tap.into_axum(), app).into_future());

            let mut heard = Vec::new();
            for handle in &handles {
                let mut user = user(handle).await;
                let body = within("an answer", asked(&mut user, "/")).await.unwrap();
                heard.push((body, user.local_addr().unwrap()));
            }
            let [(own, own_addr), (tap, tap_addr)] = <[_; 2]>::try_from(heard).unwrap();
            if known {
                assert_eq!((own, tap), (format!("Some({own_addr})"), tap_addr.to_string()));
            } else {
                assert_eq!((&*own, &*tap), ("None", "0.0.0.0:0"));
            }
            first.abort();
            second.abort();
        }
    }
}

#[tokio::test]
async fn axum_knows_where_it_is_reached() {
    let relay = Relay::start().unwrap();
    let listener = bound(&relay.url(), Protocol::Multiplex).await;
    let public = listener.public_address().to_string();
    assert_eq!(axum::serve::Listener::local_addr(&listener).unwrap().to_string(), public);
    let named = format!("localhost:{}", relay.address().port());
    let listener = bound(&named, Protocol::Multiplex).await;
    let error = axum::serve::Listener::local_addr(&listener).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrNotAvailable);
}

#[tokio::test]
async fn a_relay_restarts_under_a_web_server_that_knows_nothing_of_it() {
    for protocol in PROTOCOLS {
        let mut relay = Relay::start().unwrap();
        let web = Web::start(bound(&relay.invite("web"), protocol).await);
        let mut kept = Vec::new();
        for _ in 0..5 {
            let mut user = user(&web.handle).await;
            assert_eq!(within("an answer", asked(&mut user, "/")).await.unwrap(), "hello");
            kept.push(user);
        }
        let mut events = web.handle.events();
        relay.restart().await.unwrap();
        for mut user in kept {
            let end = within("the end", user.read(&mut [0])).await;
            assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        }
        while !matches!(within("an event", events.next()).await.unwrap(), relay_client::Event::Established { .. }) {}
        let mut user = user(&web.handle).await;
        for _ in 0..3 {
            assert_eq!(within("an answer", asked(&mut user, "/")).await.unwrap(), "hello");
        }
        web.handle.close().await;
        web.ended().await;
    }
}

#[tokio::test]
async fn a_close_lets_requests_finish_and_ends_the_server() {
    let relay = Relay::start().unwrap();
    for protocol in PROTOCOLS {
        let web = Web::start(bound(&relay.url(), protocol).await);
        let (mut busy, mut idle) = (user(&web.handle).await, user(&web.handle).await);
        assert_eq!(within("an answer", asked(&mut idle, "/")).await.unwrap(), "hello");
        ask(&mut busy, "/slow").await.unwrap();
        within("the request", web.asked.notified()).await;
        web.handle.close().await;
        // Who waits for nothing is told to go; who waits for an answer gets it.
        assert_eq!(within("the end", idle.read(&mut [0])).await.unwrap(), 0);
        assert!(!web.server.is_finished());
        web.go.notify_one();
        assert_eq!(within("an answer", answer(&mut busy)).await.unwrap(), "at last");
        assert_eq!(within("the end", busy.read(&mut [0])).await.unwrap(), 0);
        web.ended().await;
    }
}

#[tokio::test]
async fn a_final_answer_of_the_relay_ends_the_server_with_its_reason() {
    let mut relay = Relay::start().unwrap();
    let web = Web::start(bound(&relay.invite("web"), Protocol::Multiplex).await);
    let handle = web.handle.clone();
    relay.revoke("web");
    relay.restart().await.unwrap();
    web.ended().await;
    let error = within("the reason", handle.closed()).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
}

#[tokio::test]
async fn a_stream_of_users_waits_through_a_restart_and_ends_with_the_reason() {
    use tokio_stream::StreamExt;

    let mut relay = Relay::start().unwrap();
    let mut listener = bound(&relay.invite("web"), Protocol::Multiplex).await;
    let handle = listener.handle();
    let mut events = handle.events();
    relay.restart().await.unwrap();
    while !matches!(within("an event", events.next()).await.unwrap(), relay_client::Event::Established { .. }) {}
    let one = user(&handle).await;
    let taken = within("a user", listener.next()).await.unwrap().unwrap();
    assert_eq!(taken.user_addr(), Some(one.local_addr().unwrap()));

    relay.revoke("web");
    relay.restart().await.unwrap();
    assert!(matches!(within("the reason", listener.next()).await, Some(Err(Error::Refused { .. }))));
    assert!(within("the end", listener.next()).await.is_none());

    let mut listener = bound(&relay.url(), Protocol::Multiplex).await;
    listener.handle().close().await;
    assert!(within("the end", listener.next()).await.is_none());
}

/// Two providers are built in, of which rustls can take neither by itself.
#[tokio::test]
async fn tls_does_not_depend_on_what_else_is_built_in() {
    assert!(std::panic::catch_unwind(rustls::ClientConfig::builder).is_err(), "rustls can choose");
    let relay = Relay::start().unwrap();
    let mut listener = bound(&relay.invite("laptop"), Protocol::Event).await;
    let mut user = user(&listener.handle()).await;
    let mut taken = within("a user", listener.accept()).await.unwrap();
    taken.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    within("bytes", user.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"hello");
}
