//! The forwarder beside our own server, in one process: what goes wrong costs no more than it must.

#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is a failed test")]

mod proxy;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relay::{Config, Limits, PortRange, Server, forward};
use relay_client::{DEFAULT_MEMBERS, Error, Protocol, REFUSED_WITHIN, RelayAddr};
use relay_net::socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

const PATIENCE: Duration = Duration::from_secs(30);

const PROTOCOLS: [Protocol; 3] = [Protocol::Multiplex, Protocol::Pool, Protocol::Event];

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// Two ports, for a relay and its only tunnel, that no other test and no outgoing connection is given.
fn own_port() -> u16 {
    const FIRST: u16 = 5_000;
    const EACH: u16 = 4;
    const BLOCKS: u16 = 1_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % u32::from(BLOCKS)).unwrap();
    for _ in 0..BLOCKS {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % BLOCKS * EACH;
        if (0..EACH).all(|above| std::net::TcpListener::bind(("127.0.0.1", port + above)).is_ok()) {
            return port;
        }
    }
    panic!("no free port");
}

/// A relay on a port that it can be started on again; everybody is reset when it is dropped.
struct Relay(JoinHandle<io::Result<()>>);

impl Relay {
    fn start(port: u16) -> Self {
        Self::limited(port, Limits::default())
    }

    fn limited(port: u16, limits: Limits) -> Self {
        let listener = socket::listen(([127, 0, 0, 1], port).into()).unwrap();
        let config = Config {
            ports: PortRange::FromTo(port + 1, port + 3),
            public_address: [127, 0, 0, 1].into(),
            limits,
            ..Config::default()
        };
        Self(tokio::spawn(Server::run(listener, config, std::future::pending())))
    }

    async fn cut(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Forwarder {
    announced: mpsc::UnboundedReceiver<RelayAddr>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), relay_client::Error>>,
}

impl Forwarder {
    fn start(service: &str, port: u16, protocol: Protocol) -> Self {
        Self::configured(config(service, port, protocol))
    }

    fn configured(config: forward::Config) -> Self {
        let (announce, announced) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let announce = move |address: &RelayAddr| announce.send(address.clone()).unwrap();
        let task = tokio::spawn(forward::run(config, announce, async { drop(stopped.await) }));
        Self { announced, stop: Some(stop), task }
    }

    async fn established(&mut self) -> SocketAddr {
        within("a tunnel", self.announced.recv()).await.unwrap().to_string().parse().unwrap()
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    async fn ended(self) {
        within("the forwarder ends", self.task).await.unwrap().unwrap();
    }
}

fn config(service: &str, port: u16, protocol: Protocol) -> forward::Config {
    forward::Config::new(service.parse().unwrap(), format!("127.0.0.1:{port}").parse().unwrap(), protocol)
}

/// An echo service on that address.
async fn echo(at: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (mut user, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut from, mut to) = user.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    (address, task)
}

fn any() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

async fn user(at: SocketAddr) -> TcpStream {
    within("a connection", TcpStream::connect(at)).await.unwrap()
}

/// Sends and hears the echo of it.
async fn chat(user: &mut TcpStream, text: &str) {
    user.write_all(text.as_bytes()).await.unwrap();
    let mut heard = vec![0; text.len()];
    within("the echo", user.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, text.as_bytes());
}

/// A whole user: some bytes there and back, a half-close, a clean end.
async fn is_served(at: SocketAddr) {
    let mut user = user(at).await;
    chat(&mut user, "hello").await;
    user.shutdown().await.unwrap();
    let mut rest = Vec::new();
    within("the end", user.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
}

async fn is_reset(mut user: TcpStream) {
    // The reset may come before the byte is sent, and is told only once, or after it was answered.
    let ended = match user.write_all(b"x").await {
        Ok(()) => within("a reset", user.read_to_end(&mut Vec::new())).await.map(drop),
        Err(error) => Err(error),
    };
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_service_that_is_down_costs_one_user_one_connection() {
    for protocol in PROTOCOLS {
        let port = own_port();
        let _relay = Relay::start(port);
        let (service, task) = echo(any()).await;
        task.abort();
        let _ = task.await;
        let mut forwarder = Forwarder::start(&service.to_string(), port, protocol);
        let public = forwarder.established().await;
        for _ in 0..3 {
            is_reset(user(public).await).await;
        }
        let (_, _service) = echo(service).await;
        is_served(public).await;
        assert!(forwarder.announced.try_recv().is_err(), "the tunnel stood all the time");
        assert!(!forwarder.task.is_finished());
    }
}

#[tokio::test]
async fn a_failed_dial_leaves_other_users_alone() {
    for protocol in PROTOCOLS {
        let port = own_port();
        let _relay = Relay::start(port);
        let listener = TcpListener::bind(any()).await.unwrap();
        let service = listener.local_addr().unwrap().to_string();
        let mut forwarder = Forwarder::start(&service, port, protocol);
        let public = forwarder.established().await;
        let mut live = user(public).await;
        live.write_all(b"a").await.unwrap();
        let (mut served, _) = within("a dial", listener.accept()).await.unwrap();
        drop(listener);
        is_reset(user(public).await).await;
        assert_eq!(served.read_u8().await.unwrap(), b'a');
        served.write_all(b"b").await.unwrap();
        assert_eq!(within("the answer", live.read_u8()).await.unwrap(), b'b');
    }
}

/// A rush makes the forwarder want more members than this relay takes.
#[tokio::test]
async fn a_pool_outlives_a_rush_at_a_relay_that_takes_no_more_members() {
    let port = own_port();
    let _relay = Relay::limited(port, Limits { idle_members: DEFAULT_MEMBERS, ..Limits::default() });
    let (service, _service) = echo(any()).await;
    let mut forwarder = Forwarder::start(&service.to_string(), port, Protocol::Pool);
    let public = forwarder.established().await;
    for _ in 0..5 {
        let mut users = JoinSet::new();
        for _ in 0..200 {
            users.spawn(is_served(public));
        }
        users.join_all().await;
    }
    let lost = tokio::time::timeout(REFUSED_WITHIN, forwarder.announced.recv());
    assert!(lost.await.is_err(), "a pool was lost");
    is_served(public).await;
}

#[tokio::test]
async fn a_relay_that_is_not_there_yet_is_waited_for() {
    for protocol in PROTOCOLS {
        let port = own_port();
        let (service, _service) = echo(any()).await;
        // A listener that answers nobody shows that a try has failed before the relay starts.
        let early = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let mut forwarder = Forwarder::start(&service.to_string(), port, protocol);
        drop(within("a try", early.accept()).await.unwrap());
        drop(early);
        let _relay = Relay::start(port);
        is_served(forwarder.established().await).await;
    }
}

#[tokio::test]
async fn a_relay_that_restarts_is_come_back_to() {
    for protocol in PROTOCOLS {
        let port = own_port();
        let (service, _service) = echo(any()).await;
        let mut relay = Relay::start(port);
        let mut forwarder = Forwarder::start(&service.to_string(), port, protocol);
        let public = forwarder.established().await;
        for _ in 0..2 {
            let mut live = user(public).await;
            chat(&mut live, "before").await;
            relay.cut().await;
            is_reset(live).await;
            relay = Relay::start(port);
            within("the tunnel is back", async {
                // The port is the same, so it is not announced again: users show when it is back.
                while TcpStream::connect(public).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
            is_served(public).await;
        }
        assert!(forwarder.announced.try_recv().is_err(), "the address had not changed");
    }
}

#[tokio::test]
async fn a_new_address_is_announced() {
    for protocol in PROTOCOLS {
        let port = own_port();
        let (service, _service) = echo(any()).await;
        let relay = Relay::start(port);
        let mut forwarder = Forwarder::start(&service.to_string(), port, protocol);
        let first = forwarder.established().await;
        relay.cut().await;
        let _taken = TcpListener::bind(first).await.unwrap();
        let _relay = Relay::start(port);
        let second = forwarder.established().await;
        assert_ne!(first, second);
        is_served(second).await;
    }
}

#[tokio::test]
async fn draining_lets_live_users_finish_and_takes_no_new_ones() {
    for protocol in PROTOCOLS {
        let port = own_port();
        let _relay = Relay::start(port);
        let (service, _service) = echo(any()).await;
        let mut forwarder = Forwarder::start(&service.to_string(), port, protocol);
        let public = forwarder.established().await;
        let mut live = user(public).await;
        chat(&mut live, "before").await;
        forwarder.stop();
        if protocol != Protocol::Pool {
            // The relay closes the port as soon as it is told. A pool's it keeps while a member is in use.
            within("the port is freed", async {
                while TcpListener::bind(public).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
            .await;
        }
        chat(&mut live, "after").await;
        assert!(!forwarder.task.is_finished());
        live.shutdown().await.unwrap();
        assert_eq!(within("the end", live.read(&mut [0])).await.unwrap(), 0);
        forwarder.ended().await;
    }
}

#[tokio::test]
async fn draining_ends_at_once_without_users_and_resets_those_who_stay() {
    for protocol in PROTOCOLS {
        let port = own_port();
        let _relay = Relay::start(port);
        let (service, _service) = echo(any()).await;
        let mut forwarder = Forwarder::start(&service.to_string(), port, protocol);
        let public = forwarder.established().await;
        is_served(public).await;
        forwarder.stop();
        tokio::time::timeout(Duration::from_secs(10), forwarder.ended()).await.expect("not the whole time to drain");

        let port = own_port();
        let _relay = Relay::start(port);
        let mut config = config(&service.to_string(), port, protocol);
        config.drain = Duration::from_millis(100);
        let mut forwarder = Forwarder::configured(config);
        let mut live = user(forwarder.established().await).await;
        chat(&mut live, "before").await;
        forwarder.stop();
        is_reset(live).await;
        forwarder.ended().await;
    }
}

#[tokio::test]
async fn users_beyond_the_limit_are_reset() {
    for protocol in PROTOCOLS {
        let port = own_port();
        let _relay = Relay::start(port);
        let (service, _service) = echo(any()).await;
        let mut config = config(&service.to_string(), port, protocol);
        config.max_users = 2;
        let mut forwarder = Forwarder::configured(config);
        let public = forwarder.established().await;
        let (mut first, mut second) = (user(public).await, user(public).await);
        chat(&mut first, "first").await;
        chat(&mut second, "second").await;
        is_reset(user(public).await).await;
        chat(&mut first, "still here").await;
        drop((first, second));
        within("room again", async {
            loop {
                let mut user = user(public).await;
                let _ = user.write_all(b"x").await;
                if user.read_u8().await.is_ok() {
                    break;
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_user_who_leaves_ends_the_dial_for_him() {
    // A service whose backlog is full: the kernel leaves dials to it unanswered.
    let service = tokio::net::TcpSocket::new_v4().unwrap();
    service.bind(any()).unwrap();
    let service = service.listen(1).unwrap();
    let address = service.local_addr().unwrap();
    let mut filling = Vec::new();
    while let Ok(dialled) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        filling.push(dialled.unwrap());
    }
    for protocol in [Protocol::Multiplex, Protocol::Event] {
        let port = own_port();
        let _relay = Relay::start(port);
        let mut config = config(&address.to_string(), port, protocol);
        config.drain = PATIENCE * 2;
        config.max_users = 1;
        let mut forwarder = Forwarder::configured(config);
        let public = forwarder.established().await;
        let leaving = user(public).await;
        // Who is one too many shows that the one before is dialled for.
        is_reset(user(public).await).await;
        // Draining, the forwarder waits for the dial as long as the user does.
        forwarder.stop();
        assert!(tokio::time::timeout(Duration::from_millis(200), &mut forwarder.task).await.is_err());
        leaving.set_zero_linger().unwrap();
        drop(leaving);
        tokio::time::timeout(Duration::from_secs(5), forwarder.ended()).await.expect("not the whole dial");
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_service_may_be_a_unix_socket() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("service-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut user, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut from, mut to) = user.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = to.shutdown().await;
            });
        }
    });
    for protocol in PROTOCOLS {
        let port = own_port();
        let _relay = Relay::start(port);
        let mut forwarder = Forwarder::start(&format!("unix:{}", path.display()), port, protocol);
        let public = forwarder.established().await;
        is_served(public).await;
        let many = (0..100).map(|_| tokio::spawn(is_served(public)));
        for user in many.collect::<Vec<_>>() {
            user.await.unwrap();
        }
    }
    std::fs::remove_file(&path).unwrap();
    // As with any service that is down.
    let error = relay::service::Service::Unix(path).dial().await.unwrap_err().to_string();
    assert!(error.starts_with("cannot connect to unix:"), "{error}");
}

#[tokio::test]
async fn many_users_at_once_are_served() {
    for protocol in PROTOCOLS {
        let port = own_port();
        let _relay = Relay::start(port);
        let (service, _service) = echo(any()).await;
        let mut forwarder = Forwarder::start(&service.to_string(), port, protocol);
        let public = forwarder.established().await;
        let all_here = Arc::new(tokio::sync::Barrier::new(200));
        let many = (0..200).map(|_| {
            let all_here = all_here.clone();
            tokio::spawn(async move {
                let mut user = user(public).await;
                chat(&mut user, "here").await;
                all_here.wait().await;
                chat(&mut user, "all are").await;
            })
        });
        for user in many.collect::<Vec<_>>() {
            within("every user", user).await.unwrap();
        }
    }
}

async fn hears(mut client: TcpStream, lines: &str) -> TcpStream {
    let mut heard = vec![0; lines.len()];
    within(lines, client.read_exact(&mut heard)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), lines);
    client
}

/// The next client of a relay that the test plays, which must say these lines and is answered.
async fn asked(control: &TcpListener, lines: &str, answer: &str) -> TcpStream {
    let (client, _) = within(lines, control.accept()).await.unwrap();
    let mut client = hears(client, lines).await;
    client.write_all(answer.as_bytes()).await.unwrap();
    client
}

#[tokio::test]
async fn a_final_answer_ends_it_and_lets_live_users_finish() {
    let control = TcpListener::bind(any()).await.unwrap();
    let (service, _service) = echo(any()).await;
    let config = config(&service.to_string(), control.local_addr().unwrap().port(), Protocol::Event);
    let mut forwarder = Forwarder::configured(forward::Config { port: Some(7009), ..config });
    let link = asked(&control, "relay/1\n", "relay/1 port\n").await;
    let mut link = hears(link, "event port=7009\nnew\n").await;
    link.write_all(b"7009\nTICKET\n").await.unwrap();
    let mut user = asked(&control, "event\nTICKET\n", "").await;
    chat(&mut user, "hello").await;
    drop(link);
    let _refused = asked(&control, "relay/1\n", "error port-not-allowed to you\n").await;
    chat(&mut user, "still here").await;
    assert!(!forwarder.task.is_finished());
    user.shutdown().await.unwrap();
    let error = within("the end", &mut forwarder.task).await.unwrap().unwrap_err();
    assert!(
        matches!(error, Error::Refused { .. }) && error.to_string().contains("port-not-allowed, to you"),
        "{error}"
    );
}

#[tokio::test]
async fn a_relay_that_cannot_keep_users_out_is_not_used() {
    let control = TcpListener::bind(any()).await.unwrap();
    let config = config("9", control.local_addr().unwrap().port(), Protocol::Multiplex);
    let allow = vec!["10.0.0.0/8".parse().unwrap()];
    let mut forwarder = Forwarder::configured(forward::Config { allow, ..config });
    let _client = asked(&control, "relay/1\n", "relay/1 auth port\n").await;
    let error = within("the end", &mut forwarder.task).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::TooOld { .. }) && forwarder.announced.try_recv().is_err(), "{error}");
}

/// What is logged, by the tests' one thread.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

impl io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn that_everyone_is_let_in_is_said_once() {
    let logs = Logs::default();
    let writer = logs.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let narrowed = " allow=10.0.0.0/8 allow=2001:db8::/32";
    for (options, times) in [("", 1), (" allow=10.0.0.0/8 allow=0.0.0.0/0", 1), (narrowed, 0)] {
        logs.0.lock().unwrap().clear();
        let control = TcpListener::bind(any()).await.unwrap();
        let relay = control.local_addr().unwrap().port();
        let allow = options.split(" allow=").skip(1).map(|network| network.parse().unwrap()).collect();
        let config = forward::Config { allow, ..config("9", relay, Protocol::Event) };
        let mut forwarder = Forwarder::configured(config);
        for public in [7001, 7002] {
            let mut link = if options.is_empty() {
                asked(&control, "event\nnew\n", "").await
            } else {
                let greeted = asked(&control, "relay/1\n", "relay/1 allow\n").await;
                hears(greeted, &format!("event{options}\nnew\n")).await
            };
            link.write_all(format!("{public}\n").as_bytes()).await.unwrap();
            assert_eq!(forwarder.established().await.port(), public);
        }
        forwarder.stop();
        forwarder.ended().await;
        let logs = String::from_utf8(logs.0.lock().unwrap().clone()).unwrap();
        let warning = "anyone who reaches 127.0.0.1:7001 reaches localhost:9, which takes them for local connections; \
                       narrow with --allow";
        assert_eq!((logs.matches(warning).count(), logs.matches("anyone").count()), (times, times), "{logs}");
    }
}
