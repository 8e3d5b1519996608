//! A user on a connection of its own: what a pool's member or an event's claim carries.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use relay_net::pipe::Party;
use relay_net::socket::Socket;
use relay_proto::proxy::Header;
use tokio::io::ReadBuf;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, yield_now};

use crate::origin::{self, NoLine};

/// A connection that resets when it is closed, by the death of the process too, unless it has sent its end-of-file.
pub(crate) struct Dialled {
    /// Shared with whoever flushes it.
    pub(crate) socket: Arc<Socket>,
    /// What was read from it already.
    early: VecDeque<u8>,
    /// How it failed: the kernel tells only once, and to reads after that it looks like an end.
    failed: Option<io::ErrorKind>,
    /// The kernel has our end. To send it once more fails as soon as the peer's has come too.
    ended: bool,
    flusher: Flusher,
}

impl Dialled {
    pub(crate) fn new(socket: Socket, early: Vec<u8>) -> Self {
        socket.reset_on_close();
        Self { socket: socket.into(), early: early.into(), failed: None, ended: false, flusher: Flusher::default() }
    }

    /// The same for a pipe, which flushes by itself.
    pub(crate) async fn into_party(self) -> Party {
        let Self { mut socket, early, flusher, .. } = self;
        drop(flusher);
        loop {
            match Arc::try_unwrap(socket) {
                Ok(socket) => return Party { socket, early: early.into() },
                // Whoever flushes has been told to end.
                Err(shared) => socket = shared,
            }
            yield_now().await;
        }
    }

    /// Reads the line that says where the user is, and nothing behind it.
    pub(crate) async fn origin(&mut self) -> Result<Header, NoLine> {
        let mut unread = std::mem::take(&mut self.early).into();
        let origin = origin::from_socket(&self.socket, &mut unread).await;
        self.early = unread.into();
        origin
    }

    pub(crate) fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let most = self.early.len().min(buffer.remaining());
            // There are as many.
            let _ = self.early.read_exact(buffer.initialize_unfilled_to(most));
            buffer.advance(most);
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = ready!(self.socket.poll_read(context, buffer));
        self.note(&read);
        match self.failed {
            Some(kind) if buffer.filled().len() == before && buffer.remaining() > 0 => Poll::Ready(Err(kind.into())),
            _ => Poll::Ready(read),
        }
    }

    pub(crate) fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.socket.poll_write(context, bytes));
        self.wrote(written)
    }

    pub(crate) fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.socket.poll_write_vectored(context, parts));
        self.wrote(written)
    }

    fn wrote(&mut self, written: io::Result<usize>) -> Poll<io::Result<usize>> {
        let written = written.map_err(|error| match error.kind() {
            // The user aborted, which somebody has met before, or behind its end.
            io::ErrorKind::BrokenPipe if !self.ended => io::ErrorKind::ConnectionReset.into(),
            _ => error,
        });
        self.note(&written);
        // Nobody else may ever come back for it.
        if self.socket.is_unflushed() {
            self.flusher.start(&self.socket);
        }
        Poll::Ready(written)
    }

    /// Over TLS every piece would be a record, or a copy.
    pub(crate) fn is_write_vectored(&self) -> bool {
        self.socket.tls().is_none()
    }

    pub(crate) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(self.socket.poll_flush(context));
        self.note(&flushed);
        Poll::Ready(flushed)
    }

    pub(crate) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let shut = ready!(self.socket.poll_shutdown(context));
        self.note(&shut);
        if shut.is_ok() {
            self.ended = true;
            self.socket.deliver_on_close();
        }
        Poll::Ready(shut)
    }

    fn note<T>(&mut self, result: &io::Result<T>) {
        match result {
            // That we have ended does not end what the user sends.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => self.failed = Some(error.kind()),
            _ => {}
        }
    }
}

/// Gives the kernel ciphertext that it did not take at once, while its writer does something else. Dropped, it ends.
#[derive(Default)]
struct Flusher(Option<AbortHandle>);

impl Flusher {
    fn start(&mut self, socket: &Arc<Socket>) {
        let Ok(runtime) = Handle::try_current() else { return };
        let socket = socket.clone();
        let flushes = runtime.spawn(async move {
            // A failure shows to whoever writes or reads next.
            let _ = socket.taken().await;
        });
        // The one before may have seen that nothing was left, and be about to end.
        self.end();
        self.0 = Some(flushes.abort_handle());
    }

    fn end(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use relay_net::tls;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;

    async fn within<T>(future: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(30), future).await.expect("nothing happened")
    }

    /// A carrier for which the kernel holds little, and its far end.
    async fn over_tls() -> (Dialled, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let far = listener.accept().await.unwrap().0;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let own = rcgen::generate_simple_self_signed(vec!["relay.test".into()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
        let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
        let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let server = server.with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key).unwrap();
        let name = ServerName::try_from("relay.test").unwrap();
        let (near, far) = within(async {
            tokio::join!(tls::connect(near, client.into(), name), tls::accept(far, vec![], server.into()))
        })
        .await;
        (Dialled::new(near.unwrap().into(), vec![]), far.unwrap().into())
    }

    /// Writes until the kernel takes no more and something is left unflushed; gives how much was written.
    async fn fill(dialled: &mut Dialled) -> usize {
        let (bytes, mut written) = (vec![5; 50_000], 0);
        while !dialled.socket.is_unflushed() {
            written += within(poll_fn(|context| dialled.poll_write(context, &bytes))).await.unwrap();
        }
        written
    }

    async fn read(far: &Socket, most: usize) -> usize {
        let (mut read, mut buffer) = (0, vec![0; 65536]);
        while read < most {
            match within(far.read(&mut buffer)).await {
                Ok(some @ 1..) => read += some,
                _ => break,
            }
        }
        read
    }

    #[tokio::test]
    async fn what_was_written_leaves_although_its_writer_does_something_else() {
        let (mut dialled, far) = over_tls().await;
        let written = fill(&mut dialled).await;
        assert_eq!(read(&far, written).await, written);
        // And again, by another task than before.
        let written = fill(&mut dialled).await;
        assert_eq!(read(&far, written).await, written);
    }

    #[tokio::test]
    async fn a_drop_does_not_wait_for_those_who_flush() {
        let (mut dialled, far) = over_tls().await;
        fill(&mut dialled).await;
        drop(dialled);
        within(far.aborted()).await;
    }

    #[tokio::test]
    async fn a_pipe_gets_the_socket_from_those_who_flush() {
        let (mut dialled, far) = over_tls().await;
        let written = fill(&mut dialled).await;
        let party = within(dialled.into_party()).await;
        assert!(party.socket.is_unflushed());
        let (taken, read) = tokio::join!(within(party.socket.taken()), read(&far, written));
        taken.unwrap();
        assert_eq!(read, written);
    }

    #[tokio::test]
    async fn flush_and_shutdown_wait_for_the_kernel() {
        for ends in [false, true] {
            let (mut dialled, far) = over_tls().await;
            let written = fill(&mut dialled).await;
            let mut waits =
                Box::pin(poll_fn(
                    |context| {
                        if ends { dialled.poll_shutdown(context) } else { dialled.poll_flush(context) }
                    },
                ));
            assert!(timeout(Duration::from_millis(50), &mut waits).await.is_err(), "the kernel cannot have it");
            let (waited, read) = tokio::join!(within(&mut waits), read(&far, written));
            waited.unwrap();
            drop(waits);
            assert_eq!((read, dialled.socket.is_unflushed()), (written, false));
            if ends {
                assert_eq!(within(far.read(&mut [0])).await.unwrap(), 0);
            }
        }
    }

    async fn pair() -> (Dialled, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Dialled::new(near.into(), vec![]), listener.accept().await.unwrap().0.into())
    }

    #[tokio::test]
    async fn to_end_once_more_does_no_harm_when_the_user_has_ended_too() {
        for (mut dialled, far) in [pair().await, over_tls().await] {
            far.shutdown_write().unwrap();
            for _ in 0..2 {
                within(poll_fn(|context| dialled.poll_shutdown(context))).await.unwrap();
                assert_eq!(read(&far, 1).await, 0);
                within(far.flushed()).await.unwrap();
            }
            let mut space = [0; 4];
            let mut buffer = ReadBuf::new(&mut space);
            within(poll_fn(|context| dialled.poll_read(context, &mut buffer))).await.unwrap();
            assert!(buffer.filled().is_empty());
            let written = within(poll_fn(|context| dialled.poll_write(context, b"x"))).await;
            assert_eq!(written.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        }
    }

    #[tokio::test]
    async fn to_write_to_a_user_who_has_aborted_is_a_reset_however_often() {
        for ends in [false, true] {
            for (mut dialled, far) in [pair().await, over_tls().await] {
                if ends {
                    far.shutdown_write().unwrap();
                    let mut buffer = [0; 4];
                    let mut buffer = ReadBuf::new(&mut buffer);
                    within(poll_fn(|context| dialled.poll_read(context, &mut buffer))).await.unwrap();
                }
                far.abort();
                within(dialled.socket.aborted()).await;
                for _ in 0..3 {
                    let written = within(poll_fn(|context| dialled.poll_write(context, b"x"))).await;
                    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
                }
            }
        }
    }

    #[tokio::test]
    async fn what_was_read_before_comes_first_and_a_failure_does_not_go_away() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let far = Socket::from(listener.accept().await.unwrap().0);
        far.write_all(b"rest").await.unwrap();
        near.readable().await.unwrap();
        let mut dialled = Dialled::new(near.into(), b"early ".into());
        let mut got = Vec::new();
        while got.len() < 10 {
            let mut space = [0; 4];
            let mut buffer = ReadBuf::new(&mut space);
            within(poll_fn(|context| dialled.poll_read(context, &mut buffer))).await.unwrap();
            got.extend_from_slice(buffer.filled());
        }
        assert_eq!(got, b"early rest");
        far.abort();
        // The one that meets the error is the only one whom the kernel tells.
        within(dialled.socket.aborted()).await;
        within(poll_fn(|context| dialled.poll_write(context, b"x"))).await.unwrap_err();
        for _ in 0..2 {
            let mut space = [0; 4];
            let mut buffer = ReadBuf::new(&mut space);
            let read = within(poll_fn(|context| dialled.poll_read(context, &mut buffer))).await;
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
    }
}
