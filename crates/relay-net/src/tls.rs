//! A TCP connection under TLS, by rustls, that is used as tokio's `TcpStream` is: wait until it is ready, then try.
//!
//! An idle session holds no buffers, a busy one those bytes that wait for somebody. The end of what a peer sends is
//! its `close_notify` (RFC 8446, 6.1): a connection that ends without it was cut off, and that is an error.

mod error;
mod session;
#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;

pub use error::TlsError;
use session::{Session, Side};

/// A connection whose TLS handshake is complete. Dropped without [`shutdown_write`](Self::shutdown_write) it is cut
/// off, and the peer sees that.
pub struct TlsStream {
    tcp: TcpStream,
    /// Locked for moments, never across an await; its system calls do not block.
    session: Mutex<Session>,
}

impl std::fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

/// Does the server's part of the handshake. `early` was read from the connection already. It waits as long as the
/// client does; to drop it closes the connection.
///
/// # Errors
/// Whoever is at fault; the client was sent the alert that says so, if TLS has one and the kernel took it.
pub async fn accept(tcp: TcpStream, early: Vec<u8>, config: Arc<ServerConfig>) -> Result<TlsStream, TlsError> {
    let server = UnbufferedServerConnection::new(config)?;
    TlsStream::shake_hands(tcp, early, Side::Server(server)).await
}

/// Does the client's part of the handshake with the server of that name. It waits as long as the server does; to drop
/// it closes the connection.
///
/// # Errors
/// Whoever is at fault; the server was sent the alert that says so, if TLS has one and the kernel took it. What the server has against our certificate, or
/// its absence, shows only in the first read: in TLS 1.3 a client is done before the server has seen it.
pub async fn connect(
    tcp: TcpStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<TlsStream, TlsError> {
    let client = UnbufferedClientConnection::new(config, name)?;
    TlsStream::shake_hands(tcp, Vec::new(), Side::Client(client)).await
}

impl TlsStream {
    async fn shake_hands(tcp: TcpStream, early: Vec<u8>, side: Side) -> Result<Self, TlsError> {
        let stream = Self { tcp, session: Mutex::new(Session::new(side)) };
        stream.session().begin(&stream.tcp, early);
        loop {
            let (shaking_hands, flushed) = {
                let mut session = stream.session();
                if let Some(error) = session.failure() {
                    return Err(error);
                }
                (session.side.common().is_handshaking(), session.flush(&stream.tcp)?)
            };
            if !flushed {
                stream.tcp.writable().await?;
            } else if shaking_hands {
                stream.tcp.readable().await?;
                match stream.session().receive(&stream.tcp, &mut []) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
                    _ => {}
                }
            } else {
                return Ok(stream);
            }
        }
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        // No code panics while it holds the lock.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The TCP connection beneath: for its options and addresses, not for its bytes.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The certificates that the peer presented, its own first; also of a resumed session. None if it had none.
    pub fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        self.session().side.common().peer_certificates().unwrap_or_default().to_vec()
    }

    /// The name by which the client asked for us (SNI, RFC 6066); `None` at the client, and if it gave none.
    pub fn server_name(&self) -> Option<String> {
        self.session().server_name.clone()
    }

    /// The protocol that both sides agreed on (ALPN, RFC 7301).
    pub fn alpn(&self) -> Option<Vec<u8>> {
        self.session().side.common().alpn_protocol().map(<[u8]>::to_vec)
    }

    /// Whether an earlier session was resumed, so that no certificate was sent or checked.
    pub fn is_resumed(&self) -> bool {
        self.session().side.common().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Waits until reading is worth a try. Cancel safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.ready(Interest::READABLE).await.map(drop)
    }

    /// Waits until writing or [`flush`](Self::flush) is worth a try. Cancel safe.
    pub async fn writable(&self) -> io::Result<()> {
        self.tcp.writable().await
    }

    /// Waits for any of `interest`; an error is one of TCP. Cancel safe.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        if interest.is_readable() && self.session().has_news() {
            return Ok(Ready::READABLE);
        }
        self.tcp.ready(interest).await
    }

    /// Wakes the task of `context` once reading is worth a try, unless it is already. Only the last task is woken.
    pub fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.session().has_news() {
            return Poll::Ready(Ok(()));
        }
        self.tcp.poll_read_ready(context)
    }

    /// Wakes the task of `context` once writing is worth a try, unless it is already. Only the last task is woken.
    pub fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_write_ready(context)
    }

    /// Reads what has arrived: `Ok(0)` is the peer's `close_notify`, `WouldBlock` that nothing is there yet, though
    /// perhaps a part of a record.
    ///
    /// # Errors
    /// `ConnectionReset` for a connection that ended without `close_notify`; `InvalidData`, with a [`TlsError`] inside,
    /// for what is not TLS, was changed on its way, or is the peer's alert. Each comes behind the bytes before it, and
    /// with every read from then on.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.session().read(&self.tcp, buffer)
    }

    /// Writes at most 64 KiB of `bytes`, if no ciphertext of before waits to be sent; else, and while that is so, it is
    /// `WouldBlock`. What the kernel does not take of it waits in turn: whoever writes has to wait until it is
    /// [`writable`](Self::writable) and [`flush`](Self::flush), as long as it is [`unflushed`](Self::unflushed).
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.session().write(&self.tcp, bytes)
    }

    /// Sends `close_notify` behind all that was written, and then TCP's end-of-file. Does not wait: until that is
    /// flushed it is [`unflushed`](Self::unflushed). Reading goes on.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.session().finish(&self.tcp)
    }

    /// Ciphertext that the kernel has yet to take, in bytes; an end-of-file that waits behind it counts as one. Never
    /// more than 64 KiB, and 22 bytes for each record.
    pub fn unflushed(&self) -> usize {
        self.session().unflushed()
    }

    /// Sends what the kernel takes of what waits. Does not wait; gives whether nothing is left.
    ///
    /// # Errors
    /// That nothing can be sent any more, also when that was found earlier, and every time from then on.
    pub fn flush(&self) -> io::Result<bool> {
        self.session().flush(&self.tcp)
    }

    /// Whether the peer's `close_notify` has been read, perhaps with bytes before it yet to be, or the session failed.
    pub(crate) fn is_read_to_the_end(&self) -> bool {
        self.session().is_read_to_the_end()
    }

    /// The same connection, registered with the current runtime.
    ///
    /// # Errors
    /// The runtime takes no more sockets.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn again(self) -> io::Result<Self> {
        Ok(Self { tcp: TcpStream::from_std(self.tcp.into_std()?)?, session: self.session })
    }
}
