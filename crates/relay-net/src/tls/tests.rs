//! Sessions against each other over loopback, and against peers that break the rules.

mod faults;

use std::pin::pin;
use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use rustls::unbuffered::ConnectionState;
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::session::WRITE_MOST;
use super::*;

pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("too slow")
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

fn name() -> ServerName<'static> {
    ServerName::try_from("relay.example").unwrap()
}

/// A certificate for itself, its key, and roots that trust it.
struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
}

impl Identity {
    fn new() -> Self {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        Self { certificate: cert.der().clone(), key, roots: roots.into() }
    }

    fn server(&self, clients: Option<&Self>) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(clients.roots.clone(), provider).build().unwrap(),
            ),
        };
        builder.with_single_cert(vec![self.certificate.clone()], self.key.clone_key()).unwrap()
    }

    fn client(&self, own: Option<&Self>) -> ClientConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_root_certificates(self.roots.clone());
        match own {
            None => builder.with_no_client_auth(),
            Some(own) => builder.with_client_auth_cert(vec![own.certificate.clone()], own.key.clone_key()).unwrap(),
        }
    }
}

static RELAY: LazyLock<Identity> = LazyLock::new(Identity::new);

/// The two ends of a session over these: a client's and a server's.
pub(crate) async fn over(near: TcpStream, far: TcpStream) -> (TlsStream, TlsStream) {
    let (near, far) = with(near, far, RELAY.client(None), RELAY.server(None)).await;
    (near.unwrap(), far.unwrap())
}

type Shaken = Result<TlsStream, TlsError>;

async fn with(near: TcpStream, far: TcpStream, client: ClientConfig, server: ServerConfig) -> (Shaken, Shaken) {
    soon(async { tokio::join!(connect(near, client.into(), name()), accept(far, Vec::new(), server.into())) }).await
}

async fn pair() -> (TlsStream, TlsStream) {
    let (near, far) = tcp_pair().await;
    over(near, far).await
}

/// With so little room in the kernel that little has to be written to fill it.
async fn small_pair() -> (TlsStream, TlsStream) {
    let (near, far) = tcp_pair().await;
    for socket in [&near, &far] {
        SockRef::from(socket).set_send_buffer_size(8 * 1024).unwrap();
        SockRef::from(socket).set_recv_buffer_size(8 * 1024).unwrap();
    }
    over(near, far).await
}

async fn read(stream: &TlsStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        soon(stream.readable()).await?;
        match stream.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// Reads to the end, so many bytes at once.
async fn read_all(stream: &TlsStream, sizes: &[usize]) -> io::Result<Vec<u8>> {
    let mut got = Vec::new();
    let mut buffer = vec![0; *sizes.iter().max().unwrap()];
    for &size in sizes.iter().cycle() {
        match read(stream, &mut buffer[..size]).await? {
            0 => break,
            read => got.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(got)
}

async fn flush(stream: &TlsStream) -> io::Result<()> {
    while !stream.flush()? {
        soon(stream.writable()).await?;
    }
    Ok(())
}

/// Writes all, in pieces of such sizes, and then the end.
async fn write_all(stream: &TlsStream, mut bytes: &[u8], sizes: &[usize]) -> io::Result<()> {
    for &size in sizes.iter().cycle() {
        if bytes.is_empty() {
            break;
        }
        match stream.try_write(&bytes[..size.min(bytes.len())]) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => soon(stream.writable()).await?,
            Err(error) => return Err(error),
        }
    }
    stream.shutdown_write()?;
    flush(stream).await
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// Bytes that the session keeps, or keeps room for.
fn memory(stream: &TlsStream) -> usize {
    stream.session().memory()
}

/// Passes bytes on, at most so many at once, until one side has gone.
async fn trickle(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, most: usize) {
    let mut buffer = vec![0; most];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    let _ = to.shutdown().await;
}

/// Two ends of a TCP connection that gets at most so many bytes across at once.
async fn slow_pair(most: usize) -> (TcpStream, TcpStream) {
    let ((near, left), (right, far)) = tokio::join!(tcp_pair(), tcp_pair());
    right.set_nodelay(true).unwrap();
    left.set_nodelay(true).unwrap();
    let (left_in, left_out) = left.into_split();
    let (right_in, right_out) = right.into_split();
    tokio::spawn(trickle(left_in, right_out, most));
    tokio::spawn(trickle(right_in, left_out, most));
    (near, far)
}

#[tokio::test]
async fn each_direction_carries_bytes_and_ends_by_itself() {
    let (near, far) = pair().await;
    for (from, to, last) in [(&near, &far, true), (&far, &near, true)] {
        assert_eq!(from.try_write(b"hello").unwrap(), 5);
        let mut buffer = [0; 16];
        assert_eq!(read(to, &mut buffer).await.unwrap(), 5);
        assert_eq!(&buffer[..5], b"hello");
        if last {
            from.shutdown_write().unwrap();
            from.shutdown_write().unwrap();
            assert_eq!(from.unflushed(), 0);
            assert_eq!(from.try_write(b"late").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
            assert_eq!(read(to, &mut buffer).await.unwrap(), 0);
            assert_eq!(read(to, &mut buffer).await.unwrap(), 0);
        }
    }
}

#[tokio::test]
async fn a_handshake_may_come_byte_by_byte() {
    for most in [1, 2, 7, 100] {
        let (near, far) = slow_pair(most).await;
        let (near, far) = over(near, far).await;
        near.try_write(b"hello").unwrap();
        assert_eq!(read(&far, &mut [0; 16]).await.unwrap(), 5);
    }
}

#[tokio::test]
async fn any_part_of_the_hello_may_have_been_read_before() {
    let hello = {
        let (near, mut far) = tcp_pair().await;
        let client = tokio::spawn(connect(near, RELAY.client(None).into(), name()));
        let mut hello = vec![0; 1];
        far.read_exact(&mut hello).await.unwrap();
        client.abort();
        let _ = client.await;
        far.read_to_end(&mut hello).await.unwrap();
        hello.len()
    };
    for length in 0..=hello {
        let (near, mut far) = tcp_pair().await;
        let (near, far) = soon(async {
            tokio::join!(connect(near, RELAY.client(None).into(), name()), async {
                let mut early = vec![0; length];
                far.read_exact(&mut early).await.unwrap();
                accept(far, early, RELAY.server(None).into()).await
            })
        })
        .await;
        assert_eq!(far.unwrap().server_name().as_deref(), Some("relay.example"), "{length} of {hello}");
        near.unwrap();
    }
}

#[tokio::test]
async fn a_session_says_who_is_at_its_other_end() {
    let laptop = Identity::new();
    let (mut server, mut client) = (RELAY.server(Some(&laptop)), RELAY.client(Some(&laptop)));
    server.alpn_protocols = vec![b"relay/1".to_vec()];
    client.alpn_protocols = vec![b"other".to_vec(), b"relay/1".to_vec()];
    let (near, far) = tcp_pair().await;
    let (near, far) = with(near, far, client, server).await;
    let (near, far) = (near.unwrap(), far.unwrap());
    assert_eq!(near.peer_certificates(), std::slice::from_ref(&RELAY.certificate));
    assert_eq!(far.peer_certificates(), std::slice::from_ref(&laptop.certificate));
    assert_eq!((near.server_name(), far.server_name().as_deref()), (None, Some("relay.example")));
    assert_eq!((near.alpn().unwrap(), far.alpn().unwrap()), (b"relay/1".to_vec(), b"relay/1".to_vec()));

    let (near, far) = pair().await;
    assert_eq!((near.alpn(), far.alpn(), far.peer_certificates()), (None, None, vec![]));
}

#[tokio::test]
async fn the_next_session_is_a_resumed_one() {
    let (client, server) = (Arc::new(RELAY.client(None)), Arc::new(RELAY.server(None)));
    for resumed in [false, true, true] {
        let (near, far) = tcp_pair().await;
        let (near, far) = soon(async {
            tokio::join!(connect(near, client.clone(), name()), accept(far, Vec::new(), server.clone()))
        })
        .await;
        let (near, far) = (near.unwrap(), far.unwrap());
        assert_eq!((near.is_resumed(), far.is_resumed()), (resumed, resumed));
        assert_eq!(near.peer_certificates(), std::slice::from_ref(&RELAY.certificate));
        assert_eq!(far.server_name().as_deref(), Some("relay.example"));
        // The tickets come before it.
        far.try_write(b"x").unwrap();
        assert_eq!(read(&near, &mut [0]).await.unwrap(), 1);
    }
}

#[tokio::test]
async fn plaintext_that_waits_is_readable() {
    let (near, far) = pair().await;
    near.try_write(&pattern(20_000)).unwrap();
    let mut got = Vec::new();
    let mut byte = [0];
    while got.len() < 20_000 {
        soon(far.readable()).await.unwrap();
        assert!(soon(far.ready(Interest::READABLE | Interest::ERROR)).await.unwrap().is_readable());
        match far.try_read(&mut byte) {
            Ok(1) => got.push(byte[0]),
            Ok(_) => panic!("an end"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
    assert!(got == pattern(20_000));
    assert!(!far.session().has_news());
    assert_eq!(far.try_read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let mut readable = pin!(far.readable());
    assert!(std::future::poll_fn(|context| Poll::Ready(readable.as_mut().poll(context))).await.is_pending());
}

#[tokio::test]
async fn what_the_kernel_does_not_take_is_bounded_and_comes_with_a_flush() {
    let (near, far) = small_pair().await;
    let sent = pattern(4 * 1024 * 1024);
    let mut written = 0;
    loop {
        match near.try_write(&sent[written..]) {
            Ok(taken) => written += taken,
            Err(error) => break assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        assert!(near.unflushed() <= WRITE_MOST + 5 * 22 && memory(&near) <= WRITE_MOST + 5 * 22);
    }
    assert!(near.unflushed() > 0 && written < sent.len() && !near.flush().unwrap());
    near.shutdown_write().unwrap();
    let (flushed, got) = tokio::join!(flush(&near), read_all(&far, &[997]));
    flushed.unwrap();
    assert!(got.unwrap() == sent[..written]);
    assert_eq!((near.unflushed(), memory(&near)), (0, 0));
}

#[tokio::test]
async fn an_idle_session_holds_no_buffers() {
    let (near, far) = pair().await;
    for (from, to) in [(&near, &far), (&far, &near)] {
        let mut left: usize = 10 * WRITE_MOST;
        let bytes = pattern(WRITE_MOST);
        let mut buffer = [0; 5000];
        tokio::join!(
            async {
                for _ in 0..10 {
                    assert_eq!(from.try_write(&bytes).unwrap(), WRITE_MOST);
                    flush(from).await.unwrap();
                }
            },
            async {
                while left > 0 {
                    left -= read(to, &mut buffer).await.unwrap();
                }
            }
        );
    }
    assert_eq!((memory(&near), memory(&far)), (0, 0));
}

/// Has the keys of what `stream` sends changed, and asks for the same of the other side.
fn change_keys(stream: &TlsStream) {
    let mut session = stream.session();
    match &mut session.side {
        Side::Client(client) => match client.process_tls_records(&mut []).state.unwrap() {
            ConnectionState::WriteTraffic(traffic) => traffic.refresh_traffic_keys().unwrap(),
            other => panic!("{other:?}"),
        },
        Side::Server(server) => match server.process_tls_records(&mut []).state.unwrap() {
            ConnectionState::WriteTraffic(traffic) => traffic.refresh_traffic_keys().unwrap(),
            other => panic!("{other:?}"),
        },
    }
}

#[tokio::test]
async fn keys_may_change_on_the_way() {
    let (near, far) = pair().await;
    let mut buffer = [0; 100];
    for round in 0..20u8 {
        for (from, to) in [(&near, &far), (&far, &near)] {
            change_keys(from);
            from.try_write(&[round; 10]).unwrap();
            assert_eq!(read(to, &mut buffer).await.unwrap(), 10);
            assert_eq!(buffer[..10], [round; 10]);
        }
    }
}

#[test]
fn a_session_moves_to_another_runtime_with_all_that_waits() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let (near, far) = first.block_on(async {
        let (near, far) = small_pair().await;
        near.try_write(b"hello").unwrap();
        assert_eq!(read(&far, &mut [0]).await.unwrap(), 1);
        // Of this, most waits.
        assert_eq!(far.try_write(&pattern(WRITE_MOST)).unwrap(), WRITE_MOST);
        assert!(far.unflushed() > 0);
        (near, far)
    });
    std::thread::spawn(move || {
        runtime().block_on(async {
            let (near, far) = (near.again().unwrap(), far.again().unwrap());
            let mut rest = [0; 8];
            assert_eq!(read(&far, &mut rest).await.unwrap(), 4);
            assert_eq!(&rest[..4], b"ello");
            far.shutdown_write().unwrap();
            let (flushed, got) = tokio::join!(flush(&far), read_all(&near, &[10_000]));
            flushed.unwrap();
            assert!(got.unwrap() == pattern(WRITE_MOST));
        });
    })
    .join()
    .unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_bytes_come_however_they_are_cut(
        lengths in [0..2_000_000usize, 0..300_000usize],
        writes in prop::collection::vec(prop_oneof![1..100usize, 1..40_000usize, 1..200_000usize], 1..8),
        reads in prop::collection::vec(prop_oneof![3 => 1000..5000usize, 2 => 1..100_000usize], 1..8),
        most in prop_oneof![Just(None), (500..70_000usize).prop_map(Some)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (near, far) = match most {
                Some(most) => slow_pair(most).await,
                None => tcp_pair().await,
            };
            let (near, far) = over(near, far).await;
            let [up, down] = lengths.map(pattern);
            let (a, b, at_far, at_near) = tokio::join!(
                write_all(&near, &up, &writes),
                write_all(&far, &down, &writes),
                read_all(&far, &reads),
                read_all(&near, &reads),
            );
            a.unwrap();
            b.unwrap();
            assert!(at_far.unwrap() == up && at_near.unwrap() == down);
            assert_eq!((memory(&near), memory(&far)), (0, 0));
        });
    }
}
