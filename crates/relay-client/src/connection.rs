//! One user of the tunnel.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use relay_net::mux::{Side, Stream};
use relay_net::pipe::{End, Moved, Party, pipe};
use relay_net::socket::Socket;
use relay_proto::proxy::Header;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::origin::{self, NoLine};

/// A user, as the relay handed it over. Dropping it resets the user's connection: the user sees an
/// abort, never a clean end.
pub struct Connection {
    /// `None` only while one of the consuming methods runs.
    carrier: Option<Carrier>,
    origin: Header,
    /// Lets [`Listener::close`](crate::Listener::close) wait for this user.
    _live: TaskTrackerToken,
}

enum Carrier {
    Stream(Stream),
    /// With bytes that were read from it already.
    Socket(Socket, Vec<u8>),
}

impl Connection {
    pub(crate) fn from_stream(stream: Stream, live: TaskTrackerToken) -> Self {
        Self { carrier: Some(Carrier::Stream(stream)), origin: Header::Unknown, _live: live }
    }

    pub(crate) fn from_socket(socket: Socket, early: Vec<u8>, live: TaskTrackerToken) -> Self {
        Self { carrier: Some(Carrier::Socket(socket, early)), origin: Header::Unknown, _live: live }
    }

    /// Takes the line that says where the user is, ahead of all its bytes. Dropping the future resets the user, with
    /// the connection.
    pub(crate) async fn introduced(mut self) -> Result<Self, NoLine> {
        self.origin = match &mut self.carrier {
            Some(Carrier::Stream(stream)) => origin::from_stream(stream).await?,
            Some(Carrier::Socket(socket, early)) => origin::from_socket(socket, early).await?,
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
    /// as they go. Dropping the future resets both.
    pub async fn pipe(mut self, service: Socket, moved: &Moved, idle: Duration) -> End {
        match self.carrier.take() {
            Some(Carrier::Stream(stream)) => stream.pipe(service, Side::Service, moved, idle).await,
            Some(Carrier::Socket(socket, early)) => {
                pipe(Party { socket, early }, Party { socket: service, early: Vec::new() }, moved, idle).await
            }
            None => End::Done,
        }
    }

    /// Resets the user's connection. The same as dropping it, said aloud.
    pub fn reset(self) {}

    /// Waits until the user's connection has been aborted, or the relay is gone: then nobody is left to
    /// serve. A user that has only finished sending is still there. Cancel safe.
    pub async fn ended(&self) {
        match &self.carrier {
            Some(Carrier::Stream(stream)) => stream.was_reset().await,
            Some(Carrier::Socket(socket, _)) => socket.aborted().await,
            None => {}
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        match self.carrier.take() {
            Some(Carrier::Socket(socket, _)) => socket.abort(),
            // A stream resets itself when dropped.
            Some(Carrier::Stream(_)) | None => {}
        }
    }
}
