//! A tunnel whose users are announced on a control connection and claimed by dialling back.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use relay_net::socket::Socket;
use relay_proto::handshake::{Id, LineReader, Request};
use tokio::sync::Semaphore;

use crate::reach::next_bytes;
use crate::tunnel::Users;
use crate::{Connection, Lost};

/// How many users are dialled for at once. Beyond it, announcements wait unread: with dials that end
/// within [`DIAL_WAIT`](crate::DIAL_WAIT), none waits longer.
pub const MAX_DIAL_BACKS: usize = 1024;

pub(crate) struct EventTunnel {
    control: Control,
    /// The relay itself, whatever other addresses its name has.
    peer: SocketAddr,
    /// It says where users are.
    tells: bool,
}

impl EventTunnel {
    pub(crate) fn new(socket: Socket, early: Vec<u8>, peer: SocketAddr, tells: bool) -> Self {
        Self { control: Control { socket, lines: LineReader::default(), unread: early }, peer, tells }
    }

    pub(crate) async fn serve(mut self, users: &Users) -> Option<Lost> {
        let dial_backs = Arc::new(Semaphore::new(MAX_DIAL_BACKS));
        let announced = async {
            loop {
                let ticket = self.control.next().await?;
                // Fails only when the semaphore is closed, which nobody does.
                let permit = dial_backs.clone().acquire_owned().await;
                let (users, peer, tells) = (users.clone(), self.peer, self.tells);
                tokio::spawn(async move {
                    tokio::select! {
                        () = claim(ticket, peer, tells, &users) => {}
                        () = users.closed() => {}
                    }
                    drop(permit);
                });
            }
        };
        tokio::select! {
            Err::<Infallible, _>(lost) = announced => Some(lost),
            () = users.closed() => None,
        }
    }
}

/// Dials back for one user. A ticket that has expired, or whose user has left, shows as a connection
/// that the relay closes.
async fn claim(ticket: Id, peer: SocketAddr, tells: bool, users: &Users) {
    match users.reach.dial_back(peer, &Request::EventClaim(ticket, None)).await {
        Ok(socket) => users.bring(Connection::from_socket(socket, Vec::new(), users.live.token()), tells).await,
        Err(cause) => users.events.trouble(cause),
    }
}

/// The connection on which tickets arrive.
struct Control {
    socket: Socket,
    lines: LineReader,
    unread: Vec<u8>,
}

impl Control {
    /// The next ticket. Cancel safe.
    async fn next(&mut self) -> Result<Id, Lost> {
        loop {
            let mut input = &self.unread[..];
            let line = self.lines.read(&mut input).map_err(Lost::Misbehaved)?;
            let used = self.unread.len() - input.len();
            self.unread.drain(..used);
            if let Some(line) = line {
                return Id::parse(&line).map_err(Lost::Misbehaved);
            }
            let bytes = next_bytes(&self.socket).await.map_err(Lost::Io)?;
            if bytes.is_empty() {
                return Err(Lost::Closed);
            }
            self.unread.extend_from_slice(&bytes);
        }
    }
}
