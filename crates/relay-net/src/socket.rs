//! A party's socket, TCP, TLS or Unix, with what a pipe asks of it; and how relay listens and accepts.

mod listen;
mod near;
mod poll;
mod tcp;

pub use listen::{accept, canonical, listen, listen_alone};
pub use tcp::{connect, connect_to_speak, expect_clients, watch_always_reading, watch_carrying, watch_closely};
pub(crate) use tcp::{try_read_out, try_write_ahead};

#[cfg(target_os = "linux")]
use crate::sys;
use crate::tls::TlsStream;
use socket2::SockRef;
use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// A connected stream socket of a user, a service or a member, or that of a link.
#[derive(Debug)]
pub enum Socket {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over TCP, under TLS.
    Tls(Box<TlsStream>),
    /// On this machine, by path.
    #[cfg(unix)]
    Unix(UnixStream),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<TlsStream> for Socket {
    fn from(stream: TlsStream) -> Self {
        Self::Tls(stream.into())
    }
}

#[cfg(unix)]
impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

/// The same expression for any kind of stream.
macro_rules! either {
    ($socket:expr, $stream:ident => $do:expr) => {
        match $socket {
            Socket::Tcp($stream) => $do,
            Socket::Tls($stream) => $do,
            #[cfg(unix)]
            Socket::Unix($stream) => $do,
        }
    };
}

/// The same expression for any kind of the system's sockets, which for TLS is the one beneath.
macro_rules! beneath {
    ($socket:expr, $stream:ident => $do:expr) => {
        match $socket {
            Socket::Tcp($stream) => $do,
            Socket::Tls(stream) => {
                let $stream = stream.tcp();
                $do
            }
            #[cfg(unix)]
            Socket::Unix($stream) => $do,
        }
    };
}

impl Socket {
    /// The TCP connection, TLS over it or not: for its options and addresses. `None` for a Unix socket.
    #[cfg_attr(not(unix), allow(clippy::unnecessary_wraps, reason = "there are others elsewhere"))]
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.tcp()),
            #[cfg(unix)]
            Self::Unix(_) => None,
        }
    }

    /// The TCP connection, if its bytes are the payload itself: only these may be spliced.
    pub(crate) fn bare_tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            _ => None,
        }
    }

    /// The TLS session, if there is one.
    pub fn tls(&self) -> Option<&TlsStream> {
        match self {
            Self::Tls(stream) => Some(stream),
            _ => None,
        }
    }

    /// The same socket, registered with the current runtime; a TLS session goes on where it was.
    ///
    /// # Errors
    /// The runtime takes no more sockets.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn again(self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(TcpStream::from_std(stream.into_std()?)?),
            Self::Tls(stream) => stream.again()?.into(),
            #[cfg(unix)]
            Self::Unix(stream) => Self::Unix(UnixStream::from_std(stream.into_std()?)?),
        })
    }

    /// Waits until reading is worth a try. Cancel safe.
    pub async fn readable(&self) -> io::Result<()> {
        either!(self, stream => stream.readable().await)
    }

    /// Waits until writing is worth a try. Cancel safe.
    pub async fn writable(&self) -> io::Result<()> {
        either!(self, stream => stream.writable().await)
    }

    /// Wakes the task of `context` once reading is worth a try, unless it is already. Only the last task is woken.
    pub(crate) fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_read_ready(context))
    }

    /// The same for writing.
    pub(crate) fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_write_ready(context))
    }

    /// Waits for any of `interest`. Cancel safe.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        either!(self, stream => stream.ready(interest).await)
    }

    /// Waits until the connection has failed, by a reset above all. Cancel safe.
    pub async fn aborted(&self) {
        // What cannot be waited for has failed too.
        let _ = self.ready(Interest::ERROR).await;
    }

    /// Reads what has arrived, at least a byte; `Ok(0)` is the peer's end-of-file. Cancel safe.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.readable().await?;
            match self.try_read(buffer) {
                Err(error) if is_temporary(&error) => {}
                result => return result,
            }
        }
    }

    /// Writes all of `bytes`, until the kernel has taken them. Not cancel safe: a part may have been sent.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if is_temporary(&error) => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        self.taken().await
    }

    /// Reads what has arrived: `Ok(0)` is the peer's end-of-file, `WouldBlock` that nothing is there yet. Over TLS an
    /// end-of-file is the peer's `close_notify`, and a connection that ends without it has been reset.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        either!(self, stream => stream.try_read(buffer))
    }

    /// As [`try_read`](Self::try_read), and cheaper, if that may take a short read for one that found nothing more.
    pub(crate) fn try_read_out(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => try_read_out(stream, buffer),
            _ => self.try_read(buffer),
        }
    }

    /// Writes what the kernel takes; `WouldBlock` when that is nothing. Over TLS some of it may be left to
    /// [`flush`](Self::flush).
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        either!(self, stream => stream.try_write(bytes))
    }

    /// Sends end-of-file behind all that was written. Does not wait; reading goes on. Over TLS it may be left to
    /// [`flush`](Self::flush).
    pub fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Tls(stream) => stream.shutdown_write(),
            _ => beneath!(self, stream => SockRef::from(stream).shutdown(Shutdown::Write)),
        }
    }

    /// Ends both directions, whatever they still had to carry. Over TLS the peer is told, unless ciphertext waits.
    pub(crate) fn shutdown(&self) {
        if let Self::Tls(stream) = self {
            // It ends one way or the other.
            let _ = stream.shutdown_write();
        }
        let _ = beneath!(self, stream => SockRef::from(stream).shutdown(Shutdown::Both));
    }

    /// Whether the kernel has yet to take something that was written: then somebody has to wait until it is
    /// [`writable`](Self::writable), and [`flush`](Self::flush). Only over TLS.
    pub fn is_unflushed(&self) -> bool {
        self.tls().is_some_and(|stream| stream.unflushed() > 0)
    }

    /// Gives the kernel what it takes of what was written before. Does not wait; gives whether nothing is left.
    ///
    /// # Errors
    /// That nothing can be sent any more, also when that was found earlier.
    pub fn flush(&self) -> io::Result<bool> {
        self.tls().map_or(Ok(true), TlsStream::flush)
    }

    /// Waits until the kernel has taken all that was written. Cancel safe.
    pub async fn taken(&self) -> io::Result<()> {
        while !self.flush()? {
            self.writable().await?;
        }
        Ok(())
    }

    /// Takes the error that the kernel keeps for this socket, such as a reset that no read or write has
    /// met yet. Whoever takes it is the only one to see it: reads may report a plain end-of-file after.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        beneath!(self, stream => stream.take_error())
    }

    /// Bytes written that the peer has not acknowledged, over TLS those of the ciphertext; an end-of-file on its way
    /// counts as one, and a Unix socket's count includes the kernel's overhead. What the kernel has is 0 where it
    /// cannot be asked (only Linux can).
    pub fn unsent(&self) -> usize {
        let unflushed = self.tls().map_or(0, TlsStream::unflushed);
        #[cfg(target_os = "linux")]
        {
            unflushed + beneath!(self, stream => sys::unsent(std::os::fd::AsFd::as_fd(stream)))
        }
        #[cfg(not(target_os = "linux"))]
        {
            unflushed
        }
    }

    /// Waits until the peer has acknowledged all that was written before [`shutdown_write`]; an error is
    /// that it never will. Returns at once where [`unsent`] cannot be asked. Cancel safe.
    ///
    /// To close without this wait can lose bytes: Linux gives a closed socket's peer up when its window has
    /// stayed shut for some six minutes, though it be alive and answer every probe (tried: at 330 s nothing
    /// was lost, at 400 s all that it had not taken). Unix sockets have no such limit.
    ///
    /// [`shutdown_write`]: Self::shutdown_write
    /// [`unsent`]: Self::unsent
    pub async fn flushed(&self) -> io::Result<()> {
        /// The first look again; each is twice as far from the one before.
        const SOON: Duration = Duration::from_millis(20);
        const LATE: Duration = Duration::from_secs(5);
        self.taken().await?;
        let mut pause = SOON;
        // Only the end-of-file is left at 1; the kernel keeps trying that by itself.
        while self.tcp().is_some() && self.unsent() > 1 {
            if let Ok(ready) = tokio::time::timeout(pause, self.ready(Interest::ERROR)).await {
                ready?;
                return Err(self.failure());
            }
            pause = (2 * pause).min(LATE);
        }
        Ok(())
    }

    /// The error of a socket that reported one.
    pub(crate) fn failure(&self) -> io::Error {
        match self.take_error() {
            Ok(Some(error)) | Err(error) => error,
            Ok(None) => io::ErrorKind::ConnectionReset.into(),
        }
    }

    /// Whether the peer's end-of-file or an error has arrived, also behind unread bytes. Where the kernel
    /// cannot be asked this (only Linux can), unread bytes hide it. Over TLS it is TCP's end-of-file, or a `close_notify`
    /// that was read already.
    pub fn read_closed(&self) -> bool {
        if self.tls().is_some_and(TlsStream::is_read_to_the_end) {
            return true;
        }
        #[cfg(target_os = "linux")]
        {
            beneath!(self, stream => sys::read_closed(std::os::fd::AsFd::as_fd(stream)))
        }
        #[cfg(not(target_os = "linux"))]
        {
            let mut byte = [std::mem::MaybeUninit::uninit()];
            match beneath!(self, stream => SockRef::from(stream).peek(&mut byte)) {
                Ok(read) => read == 0,
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Closes at once and tells the peer so by RST; what the kernel still holds for it is dropped. Unix
    /// sockets have no reset: there the peer sees an end-of-file, or an error if bytes it sent were not read.
    pub fn abort(self) {
        self.reset_on_close();
    }

    /// Makes whatever closes this socket from now on an [`abort`](Self::abort), the death of the process too.
    pub fn reset_on_close(&self) {
        self.set_linger(Some(Duration::ZERO));
    }

    /// Takes [`reset_on_close`](Self::reset_on_close) back: the kernel delivers what it holds, then end-of-file.
    pub fn deliver_on_close(&self) {
        self.set_linger(None);
    }

    fn set_linger(&self, linger: Option<Duration>) {
        if let Some(stream) = self.tcp() {
            // Fails only on a connection that is gone, of which the peer cannot be told anything.
            let _ = SockRef::from(stream).set_linger(linger);
        }
    }

    /// As [`watch_always_reading`], for TCP with TLS or without; a peer on this machine needs no watching.
    pub fn watch_always_reading(&self) -> io::Result<()> {
        self.tcp().map_or(Ok(()), watch_always_reading)
    }

    /// As [`watch_closely`], likewise.
    pub fn watch_closely(&self) -> io::Result<()> {
        self.tcp().map_or(Ok(()), watch_closely)
    }

    /// As [`watch_carrying`], likewise.
    pub fn watch_carrying(&self) -> io::Result<()> {
        self.tcp().map_or(Ok(()), watch_carrying)
    }
}

/// Whether to wait and try again is all that the error asks for.
fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::{Duration, Socket, listen};
    use tokio::net::TcpStream;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn the_watch_of_a_link_is_taken_back_for_users() {
        use super::{SockRef, watch_always_reading, watch_carrying};
        let (near, _far) = pair().await;
        watch_always_reading(&near).unwrap();
        let socket = SockRef::from(&near);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(25)));
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(10));
        watch_carrying(&near).unwrap();
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_mins(1));
    }

    #[tokio::test]
    async fn a_close_may_reset_and_may_not() {
        for (resets, takes_back) in [(false, false), (true, false), (true, true)] {
            let (near, far) = pair().await;
            let near = Socket::from(near);
            if resets {
                near.reset_on_close();
            }
            if takes_back {
                near.deliver_on_close();
            }
            drop(near);
            let far = Socket::from(far);
            far.readable().await.unwrap();
            assert_eq!(far.try_read(&mut [0]).is_err(), resets && !takes_back);
        }
    }

    #[tokio::test]
    async fn flushed_is_an_error_once_the_peer_is_gone() {
        let (near, far) = pair().await;
        let near = Socket::from(near);
        near.writable().await.unwrap();
        while near.try_write(&[0; 4096]).is_ok() {}
        near.shutdown_write().unwrap();
        let (flushed, ()) = tokio::join!(near.flushed(), async { Socket::from(far).abort() });
        // Where the kernel cannot be asked what it holds, there is nothing to wait for.
        assert_eq!(flushed.is_err(), cfg!(target_os = "linux"));
    }

    #[tokio::test]
    #[cfg(unix)]
    async fn unix_sockets_answer_all_the_same() {
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        let (near, far) = (Socket::from(near), Socket::from(far));
        assert!(!near.read_closed());
        far.writable().await.unwrap();
        assert_eq!(far.try_write(b"last").unwrap(), 4);
        far.abort();
        assert!(near.read_closed() || !cfg!(target_os = "linux"));
        near.flushed().await.unwrap();
        near.readable().await.unwrap();
        let mut bytes = [0; 8];
        assert_eq!(near.try_read(&mut bytes).unwrap(), 4);
        assert_eq!(near.try_read(&mut bytes).unwrap(), 0);
        assert!(near.read_closed());
    }

    #[tokio::test]
    async fn tls_sockets_answer_all_the_same() {
        let (near, far) = pair().await;
        let (near, far) = crate::tls::tests::over(near, far).await;
        let (near, far) = (Socket::from(near), Socket::from(far));
        near.watch_always_reading().unwrap();
        near.watch_carrying().unwrap();
        assert!(near.tcp().is_some() && near.tls().is_some() && near.bare_tcp().is_none());
        far.write_all(b"last").await.unwrap();
        let mut bytes = [0; 8];
        assert_eq!(near.read(&mut bytes).await.unwrap(), 4);
        assert!(!near.read_closed());
        far.shutdown_write().unwrap();
        assert_eq!(near.read(&mut bytes).await.unwrap(), 0);
        assert!(near.read_closed());
        near.writable().await.unwrap();
        while near.try_write(&[0; 4096]).is_ok() {}
        assert!(near.is_unflushed() && near.unsent() > 0);
        near.shutdown_write().unwrap();
        let (flushed, read) = tokio::join!(near.flushed(), async {
            let (mut read, mut buffer) = (0, vec![0; 65536]);
            loop {
                match far.read(&mut buffer).await.unwrap() {
                    0 => return read,
                    some => read += some,
                }
            }
        });
        flushed.unwrap();
        assert!(read > 0 && !near.is_unflushed());
    }

    #[tokio::test]
    async fn an_abort_under_tls_is_one_of_tcp() {
        let (near, far) = pair().await;
        let (near, far) = crate::tls::tests::over(near, far).await;
        Socket::from(near).abort();
        tokio::time::timeout(Duration::from_secs(30), Socket::from(far).aborted()).await.unwrap();
    }

    #[tokio::test]
    async fn bytes_that_a_tls_socket_holds_are_not_flushed_to_a_peer_that_is_gone() {
        let (near, far) = pair().await;
        let (near, far) = crate::tls::tests::over(near, far).await;
        let (near, far) = (Socket::from(near), Socket::from(far));
        near.writable().await.unwrap();
        while near.try_write(&[0; 4096]).is_ok() {}
        assert!(near.is_unflushed());
        let (flushed, ()) = tokio::join!(near.flushed(), async { far.abort() });
        flushed.unwrap_err();
    }
}
