//! The `yamux` crate of libp2p on the other end of our links.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, Mode, Stream};

use crate::support::{self, MIB, User};

/// A service behind the relay on `port`: each stream is piped to the test's own one.
pub(crate) fn service(runtime: &Runtime, port: u16) -> SocketAddr {
    let local = support::serve();
    runtime.block_on(async {
        let link = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        link.set_nodelay(true).unwrap();
        let mut link = BufReader::new(link);
        link.write_all(b"multiplex\n").await.unwrap();
        let mut reply = String::new();
        link.read_line(&mut reply).await.unwrap();
        let mut session = Connection::new(link.compat(), Config::default(), Mode::Server);
        tokio::spawn(async move {
            while let Some(stream) = std::future::poll_fn(|context| session.poll_next_inbound(context)).await {
                let stream = stream.unwrap();
                tokio::spawn(async move { pipe(stream, TcpStream::connect(local).await.unwrap()).await });
            }
        });
        SocketAddr::from(([127, 0, 0, 1], reply.trim().parse().unwrap()))
    })
}

/// A relay for one forwarder after the other, with its control port.
pub(crate) fn relay(runtime: &Runtime) -> u16 {
    runtime.block_on(async {
        let control = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = control.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (link, _) = control.accept().await.unwrap();
                link.set_nodelay(true).unwrap();
                let mut link = BufReader::new(link);
                let mut request = String::new();
                link.read_line(&mut request).await.unwrap();
                assert_eq!(request, "multiplex\n");
                let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let reply = format!("{}\n", public.local_addr().unwrap().port());
                link.write_all(reply.as_bytes()).await.unwrap();
                let session = Connection::new(link.compat(), Config::default(), Mode::Client);
                tokio::spawn(tunnel(session, public));
            }
        });
        port
    })
}

type Session = Connection<tokio_util::compat::Compat<BufReader<TcpStream>>>;

/// Opens a stream for each user until the session ends.
async fn tunnel(mut session: Session, public: TcpListener) {
    let (opened, mut users) = mpsc::channel(1);
    let public = Arc::new(public);
    tokio::spawn(async move {
        while let Ok((user, _)) = public.accept().await {
            if opened.send(user).await.is_err() {
                break;
            }
        }
    });
    let mut user = None;
    std::future::poll_fn(|context| {
        loop {
            if user.is_none() {
                user = match users.poll_recv(context) {
                    Poll::Ready(Some(user)) => Some(user),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => None,
                };
            }
            if user.is_some()
                && let Poll::Ready(stream) = session.poll_new_outbound(context)
            {
                tokio::spawn(pipe(stream.unwrap(), user.take().unwrap()));
                continue;
            }
            // The session moves only while it is asked for inbound streams.
            return session.poll_next_inbound(context).map(|stream| assert!(stream.is_none()));
        }
    })
    .await;
}

/// Both directions, half-close carried each way. The end of one side by a reset is the end of both.
async fn pipe(stream: Stream, socket: TcpStream) {
    let (from_stream, to_stream) = tokio::io::split(stream.compat());
    let (from_socket, to_socket) = tokio::io::split(socket);
    let _ = tokio::try_join!(copy(from_stream, to_socket), copy(from_socket, to_stream));
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
    }
}

fn exercise(at: SocketAddr) {
    let user = User::of(at);
    user.echo(100 * MIB);
    user.many(300);
    user.half_close();
    user.half_close_echo();
    user.service_ends_first();
}

#[test]
fn service_behind_our_relay() {
    let runtime = Runtime::new().unwrap();
    let (_relay, port) = support::relay();
    exercise(service(&runtime, port));
}

#[test]
fn our_forwarder_with_a_relay() {
    let runtime = Runtime::new().unwrap();
    let (_forwarder, at) = support::forwarder(support::serve(), relay(&runtime), "multiplex");
    exercise(at);
}
