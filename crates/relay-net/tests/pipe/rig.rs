//! What the tests share: a pipe with both its parties in hand.

use relay_net::pipe::{End, HALF_CLOSED_IDLE, Manner, Moved, Party, pipe_in_manner};
use relay_net::rate::Bucket;
use relay_net::socket::Socket;
use relay_net::tls;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use socket2::{Domain, SockRef, Type};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How long the slowest machine may take for what should take no time.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A pipe that runs, and the far ends of its sockets.
pub(crate) struct Rig {
    pub(crate) user: TcpStream,
    pub(crate) service: TcpStream,
    pub(crate) moved: Arc<Moved>,
    pub(crate) polls: Arc<AtomicUsize>,
    pub(crate) pipe: JoinHandle<End>,
}

impl Rig {
    /// So many bytes go each way at once, then both ends; all arrives.
    pub(crate) async fn exchange(self, up: usize, down: usize) -> Arc<Moved> {
        let (mut user_in, mut user_out) = self.user.into_split();
        let (mut service_in, mut service_out) = self.service.into_split();
        let (to_service, to_user) = (pattern(1, 0, up), pattern(2, 0, down));
        let (mut at_service, mut at_user) = (Vec::new(), Vec::new());
        let (a, b, c, d) = tokio::join!(
            async {
                user_out.write_all(&to_service).await?;
                user_out.shutdown().await
            },
            async {
                service_out.write_all(&to_user).await?;
                service_out.shutdown().await
            },
            user_in.read_to_end(&mut at_user),
            service_in.read_to_end(&mut at_service),
        );
        assert!(a.is_ok() && b.is_ok() && c.is_ok() && d.is_ok());
        assert!(at_service == to_service && at_user == to_user);
        assert_eq!(end(self.pipe).await, End::Done);
        self.moved
    }
}

/// What may differ from one rig to the next.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) idle: Duration,
    /// Size of the kernel's buffers on all sockets; 0 leaves them as they are.
    pub(crate) buffers: usize,
    /// Size of the pipe's own send buffers, if it is another.
    pub(crate) send: usize,
    pub(crate) early: [Vec<u8>; 2],
    pub(crate) manner: Manner,
    pub(crate) rate: Option<Arc<Bucket>>,
}

/// Every way to move bytes.
pub(crate) const MANNERS: [Manner; 3] = [Manner::Copied, Manner::Spliced, Manner::Suited];

impl Default for Setup {
    fn default() -> Self {
        Self {
            idle: HALF_CLOSED_IDLE,
            buffers: 0,
            send: 0,
            early: [Vec::new(), Vec::new()],
            manner: Manner::Suited,
            rate: None,
        }
    }
}

/// Small buffers, so that little is needed to fill them.
pub(crate) fn small() -> Setup {
    Setup { buffers: 8 * 1024, ..Setup::default() }
}

impl Setup {
    pub(crate) async fn start(self) -> Rig {
        let (user, near_user) = pair(self.buffers).await;
        let (service, near_service) = pair(self.buffers).await;
        for near in [&near_user, &near_service] {
            if self.send > 0 {
                SockRef::from(near).set_send_buffer_size(self.send).unwrap();
            }
        }
        let (moved, polls, pipe) = self.pipe(near_user.into(), near_service.into());
        Rig { user, service, moved, polls, pipe }
    }

    /// A pipe that runs between these.
    pub(crate) fn pipe(self, user: Socket, service: Socket) -> (Arc<Moved>, Arc<AtomicUsize>, JoinHandle<End>) {
        let moved = Arc::new(Moved::default());
        let polls = Arc::new(AtomicUsize::new(0));
        let (counted, count) = (moved.clone(), polls.clone());
        let [early_user, early_service] = self.early;
        let pipe = tokio::spawn(async move {
            let mut pipe = std::pin::pin!(pipe_in_manner(
                Party { socket: user, early: early_user },
                Party { socket: service, early: early_service },
                &counted,
                self.idle,
                self.rate,
                self.manner,
            ));
            std::future::poll_fn(|context| {
                count.fetch_add(1, Ordering::Relaxed);
                pipe.as_mut().poll(context)
            })
            .await
        });
        (moved, polls, pipe)
    }
}

static TLS: LazyLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![made.cert.der().clone()],
            PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server.into(), client.into())
});

/// A connection: its far and its near end, over TLS if `secure`.
pub(crate) async fn sockets(buffers: usize, secure: bool) -> (Socket, Socket) {
    let (far, near) = pair(buffers).await;
    if !secure {
        return (far.into(), near.into());
    }
    let (server, client) = TLS.clone();
    let name = ServerName::try_from("relay.example").unwrap();
    let (far, near) = tokio::join!(tls::connect(far, client, name), tls::accept(near, Vec::new(), server));
    (far.unwrap().into(), near.unwrap().into())
}

/// A connection: its far and its near end.
pub(crate) async fn pair(buffers: usize) -> (TcpStream, TcpStream) {
    let socket = || {
        let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if buffers > 0 {
            socket.set_recv_buffer_size(buffers).unwrap();
            socket.set_send_buffer_size(buffers).unwrap();
        }
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let listener = socket();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(1).unwrap();
    let listener = TcpListener::from_std(listener.into()).unwrap();
    let near = tokio::net::TcpSocket::from_std_stream(socket().into());
    let (near, far) = tokio::join!(near.connect(listener.local_addr().unwrap()), listener.accept());
    (far.unwrap().0, near.unwrap())
}

/// Closes with RST.
pub(crate) fn abort(socket: impl Into<Socket>) {
    socket.into().abort();
}

/// Reads up to the end: the bytes, and whether the end was a clean one or an error.
pub(crate) async fn read_all(socket: &mut TcpStream) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    let end = soon(socket.read_to_end(&mut bytes)).await.map(drop);
    (bytes, end)
}

/// Asserts that the connection ends by a reset; what comes before it does not matter.
pub(crate) async fn assert_reset(socket: &mut TcpStream) {
    let (_, end) = read_all(socket).await;
    assert_eq!(end.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
}

/// Writes until nobody takes any more for a while; returns how much that was.
pub(crate) async fn fill(socket: &mut TcpStream) -> usize {
    let mut filled = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(200), socket.write(&[b'f'; 4096])).await {
        filled += written.unwrap();
    }
    filled
}

/// What takes no time; panics if it takes too much.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.expect("too slow")
}

/// How the pipe ended.
pub(crate) async fn end(pipe: JoinHandle<End>) -> End {
    soon(pipe).await.unwrap()
}

/// Bytes that show when one of them is missing, doubled or out of place.
pub(crate) fn pattern(seed: u64, at: usize, length: usize) -> Vec<u8> {
    (at..at + length).map(|index| ((index as u64 ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}
