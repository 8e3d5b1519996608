//! A server in the test's own process, and peers whose every wait has an end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use relay::{Config, Limits, PortRange, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long anything on loopback may take before a test gives up on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A deadline that tests wait for.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// Waits for what must happen.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// Ports that no other test is given, above those of outgoing connections. So a port that was freed
/// stays free.
pub(crate) fn own_ports() -> PortRange {
    const FIRST: u16 = 61_000;
    const EACH: u16 = 10;
    const BLOCKS: u16 = (u16::MAX - FIRST) / EACH;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run at the same time have neighbouring ids; their blocks are apart.
    let start = u16::try_from(std::process::id() % 1000 * 53 % u32::from(BLOCKS)).unwrap();
    let first = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % BLOCKS * EACH;
    PortRange::FromTo(first, first + EACH - 1)
}

/// A running server. Dropping it resets whoever is connected.
pub(crate) struct Relay {
    pub(crate) control: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<io::Result<()>>,
}

impl Relay {
    pub(crate) async fn start(limits: Limits) -> Self {
        Self::configured(Config { ports: own_ports(), limits, ..Config::default() }).await
    }

    pub(crate) async fn configured(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let control = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(Server::run(listener, config, shutdown));
        Self { control, stop: Some(stop), task }
    }

    /// Tells the server to end; [`Relay::ended`] waits for it.
    pub(crate) fn stop(&mut self) {
        let _ = self.stop.take().expect("stopped once").send(());
    }

    pub(crate) async fn ended(mut self) {
        within("the server ends", &mut self.task).await.unwrap().unwrap();
    }

    /// Drops the server's future.
    pub(crate) fn cut(self) {
        self.task.abort();
    }

    pub(crate) async fn connect(&self) -> Peer {
        Peer::connect(self.control).await
    }

    /// A connection that has sent `bytes`.
    pub(crate) async fn say(&self, bytes: impl AsRef<[u8]>) -> Peer {
        let mut peer = self.connect().await;
        peer.send(bytes).await;
        peer
    }

    pub(crate) async fn event(&self) -> (Peer, u16) {
        let mut control = self.say("event\nnew\n").await;
        let port = control.line().await.parse().unwrap();
        (control, port)
    }

    /// The first member of a new pool, its port and its name.
    pub(crate) async fn pool(&self) -> (Peer, u16, String) {
        let mut member = self.say("pool\nnew\n").await;
        let port = member.line().await.parse().unwrap();
        let name = member.line().await;
        (member, port, name)
    }

    pub(crate) async fn join(&self, pool: &str) -> Peer {
        self.say(format!("pool\n{pool}\n")).await
    }

    /// The server still does its work: a whole event tunnel, from the request to the user's last byte.
    pub(crate) async fn serves(&self) {
        let (mut control, port) = self.event().await;
        let mut user = user(port).await;
        let mut service = self.say(format!("event\n{}\n", control.line().await)).await;
        chat(&mut user, &mut service).await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A user of a public port.
pub(crate) async fn user(port: u16) -> Peer {
    Peer::connect(SocketAddr::from(([127, 0, 0, 1], port))).await
}

/// A newcomer from that address of this machine is reset.
pub(crate) async fn is_reset(source: &str, to: SocketAddr) {
    // It may come before the connection is known to be one.
    if let Ok(mut peer) = Peer::connect_from(source, to).await {
        peer.was_reset().await;
    }
}

/// Both say something that the other one hears.
pub(crate) async fn chat(user: &mut Peer, service: &mut Peer) {
    user.send("question").await;
    service.expect("question").await;
    service.send("answer").await;
    user.expect("answer").await;
}

/// Waits until nobody listens on the port any more.
pub(crate) async fn freed(port: u16) {
    within("the port is freed", async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Peer(pub(crate) TcpStream);

impl Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// From another address of this machine.
    pub(crate) async fn connect_from(source: &str, address: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(source.parse().unwrap(), 0))?;
        Ok(Self(within("a connection", socket.connect(address)).await?))
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within("bytes leave", self.0.write_all(bytes.as_ref())).await.unwrap();
    }

    pub(crate) async fn finish(&mut self) {
        self.0.shutdown().await.unwrap();
    }

    pub(crate) fn abort(self) {
        relay_net::socket::Socket::from(self.0).abort();
    }

    pub(crate) async fn exactly(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        within("bytes arrive", self.0.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    pub(crate) async fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let got = self.exactly(bytes.as_ref().len()).await;
        assert!(got == bytes.as_ref(), "other bytes arrived");
    }

    /// The next line, byte for byte: what follows stays unread.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        loop {
            match self.exactly(1).await[0] {
                b'\n' => return line,
                byte => line.push(byte.into()),
            }
        }
    }

    /// The far side has finished, cleanly, without another byte.
    pub(crate) async fn eof(&mut self) {
        let rest = self.end().await.expect("a clean end");
        assert!(rest.is_empty(), "{} bytes arrived", rest.len());
    }

    /// The far side has reset the connection.
    pub(crate) async fn was_reset(&mut self) {
        let error = self.end().await.expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    /// The far side is gone, whether by a close or (as when it had not read everything) a reset.
    pub(crate) async fn gone(&mut self) {
        let end = self.end().await;
        assert!(end.as_ref().map_or(true, Vec::is_empty), "{end:?}");
    }

    /// Nothing has arrived, nor ended, after a while. (It can miss a fault, never see one that is not.)
    pub(crate) async fn quiet(&mut self) {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_millis(100), self.0.peek(&mut byte)).await;
        assert!(read.is_err(), "{read:?}");
    }

    async fn end(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        within("the end", self.0.read_to_end(&mut bytes)).await.map(|_| bytes)
    }
}
