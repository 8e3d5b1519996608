//! One user of the tunnel.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use relay_net::mux::{Side, Stream};
use relay_net::pipe::{End, Moved, Party, pipe};
use relay_net::socket::Socket;
use relay_proto::proxy::Header;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::dialled::Dialled;
use crate::linger::leave;
use crate::origin::{self, NoLine};

/// A user, as the relay handed it over: tokio's [`AsyncRead`] and [`AsyncWrite`], whichever protocol carries it.
///
/// The user's end-of-file is end-of-file here, and the other way goes on. A user who aborts, and a relay that is lost,
/// give [`ConnectionReset`](io::ErrorKind::ConnectionReset).
///
/// [`shutdown`](tokio::io::AsyncWriteExt::shutdown) sends our end behind all that was written, and completes when the
/// kernel has both. **To drop the connection after that harms nothing that was written**: in the background, what the
/// user still sends is taken and dropped for up to 30 s, so that no reset overtakes what the user has yet to read. A
/// connection of its own (pool, event) is kept until the relay has acknowledged everything, however long that
/// takes, and then until the user has been silent for 5 s; a stream (multiplex) until the user has been silent for
/// 5 minutes, as nothing tells how much the relay still holds for a user who reads slowly. Until then it counts as
/// live in [`Handle::finish`](crate::Handle::finish).
///
/// To drop it without a `shutdown` that has completed resets the user's connection: the user sees an abort, never a
/// clean end. So does a drop outside a tokio runtime, while something is left to do.
pub struct Connection {
    /// `None` only in the methods that consume it.
    carrier: Option<Carrier>,
    origin: Header,
    /// Our end and all before it is with the kernel.
    is_shut: bool,
    /// Lets [`Handle::finish`](crate::Handle::finish) wait for this user.
    live: Option<TaskTrackerToken>,
}

/// What brings a user's bytes.
pub(crate) enum Carrier {
    Stream(Stream),
    Dialled(Dialled),
}

impl Connection {
    pub(crate) fn from_stream(stream: Stream, live: TaskTrackerToken) -> Self {
        Self::new(Carrier::Stream(stream), live)
    }

    /// `early` was read from the socket already.
    pub(crate) fn from_socket(socket: Socket, early: Vec<u8>, live: TaskTrackerToken) -> Self {
        Self::new(Carrier::Dialled(Dialled::new(socket, early)), live)
    }

    fn new(carrier: Carrier, live: TaskTrackerToken) -> Self {
        Self { carrier: Some(carrier), origin: Header::Unknown, is_shut: false, live: Some(live) }
    }

    /// Takes the line that says where the user is, ahead of all its bytes. Dropping the future resets the user, with
    /// the connection.
    pub(crate) async fn introduced(mut self) -> Result<Self, NoLine> {
        self.origin = match &mut self.carrier {
            Some(Carrier::Stream(stream)) => origin::from_stream(stream).await?,
            Some(Carrier::Dialled(dialled)) => dialled.origin().await?,
            None => Header::Unknown,
        };
        Ok(self)
    }

    /// Where the user is. `None` if the relay does not tell (an old one, or [`user_addresses`] is off) or does not know:
    /// never the relay's own address, nor that of a load balancer. Whoever owns the relay can say what it likes.
    ///
    /// [`user_addresses`]: crate::Builder::user_addresses
    pub fn user_addr(&self) -> Option<SocketAddr> {
        match self.origin {
            Header::Proxied { user, .. } => Some(user),
            Header::Unknown => None,
        }
    }

    /// The address that the user connected to: the relay's public port, or that of a load balancer before it. `None`
    /// whenever [`user_addr`](Self::user_addr) is.
    pub fn public_addr(&self) -> Option<SocketAddr> {
        match self.origin {
            Header::Proxied { public, .. } => Some(public),
            Header::Unknown => None,
        }
    }

    /// Pipes between the user and `service` until both directions have ended, or one side has been
    /// aborted, or one side has finished and the other is silent for `idle`. Counts bytes in `moved`
    /// as they go. What was read before is not given again, and what was written goes first. Dropping the future
    /// resets both.
    // Hidden as its types are those of the data path, which promises nothing to others than the forwarder.
    #[doc(hidden)]
    pub async fn pipe(mut self, service: Socket, moved: &Moved, idle: Duration) -> End {
        match self.carrier.take() {
            Some(Carrier::Stream(stream)) => stream.pipe(service, Side::Service, moved, idle).await,
            Some(Carrier::Dialled(dialled)) => {
                let user = dialled.into_party().await;
                user.socket.bound_unread_of_member();
                pipe(user, Party { socket: service, early: Vec::new() }, moved, idle).await
            }
            None => End::Done,
        }
    }

    /// Resets the user's connection, whatever it still has to read.
    pub fn reset(mut self) {
        if let Some(carrier) = self.carrier.take() {
            carrier.reset();
        }
    }

    /// Waits until the user's connection has been aborted, or the relay is gone: then nobody is left to
    /// serve. A user that has only finished sending is still there. Cancel safe.
    pub async fn ended(&self) {
        match &self.carrier {
            Some(Carrier::Stream(stream)) => stream.was_reset().await,
            Some(Carrier::Dialled(dialled)) => dialled.socket.aborted().await,
            None => {}
        }
    }

    fn carrier(self: Pin<&mut Self>) -> io::Result<&mut Carrier> {
        self.get_mut().carrier.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Carrier {
    pub(crate) fn reset(self) {
        match self {
            Self::Stream(stream) => stream.reset(),
            Self::Dialled(dialled) => dialled.socket.reset_on_close(),
        }
    }
}

/// The same call for either carrier.
macro_rules! either {
    ($connection:expr, $method:ident($($argument:expr),*)) => {
        match $connection.carrier()? {
            Carrier::Stream(stream) => Pin::new(stream).$method($($argument),*),
            Carrier::Dialled(dialled) => dialled.$method($($argument),*),
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_read(context, buffer))
    }
}

/// What a write has taken is on its way also if nobody flushes: [`flush`](tokio::io::AsyncWriteExt::flush) only waits
/// until the kernel has it.
impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, poll_write_vectored(context, parts))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.carrier {
            Some(Carrier::Stream(stream)) => stream.is_write_vectored(),
            Some(Carrier::Dialled(dialled)) => dialled.is_write_vectored(),
            None => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(either!(self.as_mut(), poll_shutdown(context)))?;
        self.is_shut = true;
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Either carrier resets itself when it is dropped before its end was sent.
        if let (Some(carrier), Some(live)) = (self.carrier.take().filter(|_| self.is_shut), self.live.take()) {
            leave(carrier, live);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What programs that take a connection from somebody ask of it.
    #[test]
    fn a_connection_may_go_to_any_task_and_need_not_be_pinned() {
        fn is<T: AsyncRead + AsyncWrite + Send + Sync + Unpin + fmt::Debug + 'static>() {}
        is::<Connection>();
    }
}
