//! A tunnel: the exchange that opens it, and what serves it.

use std::io;
use std::time::Duration;

use relay_net::socket::watch_always_reading;
use relay_proto::handshake::{AnswerError, AnswerReader, Established, HandshakeError, Protocol, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::event::EventTunnel;
use crate::multiplex::MultiplexTunnel;
use crate::pool::PoolTunnel;
use crate::{Connection, Error, RelayAddr, dial};

/// How long the relay may take to answer, once it has taken the connection.
pub const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Where a tunnel delivers its users, and where it tells what went wrong with one of them.
#[derive(Clone, Debug)]
pub(crate) struct Users {
    pub(crate) relay: RelayAddr,
    pub(crate) accepted: mpsc::Sender<Connection>,
    pub(crate) events: crate::listener::EventSender,
    /// Every connection to a user holds a token of it.
    pub(crate) live: TaskTracker,
}

impl Users {
    /// Delivers a user, waiting while the listener's owner is behind; resets it when the owner is gone.
    pub(crate) async fn deliver(&self, user: Connection) {
        let _ = self.accepted.send(user).await;
    }

    /// Waits until the listener is closed.
    pub(crate) async fn closed(&self) {
        self.accepted.closed().await;
    }
}

/// A tunnel that stands.
pub(crate) struct Tunnel {
    pub(crate) public: RelayAddr,
    kind: Kind,
}

enum Kind {
    Multiplex(MultiplexTunnel),
    Pool(PoolTunnel),
    Event(EventTunnel),
}

impl Tunnel {
    /// Dials the relay and asks it for a tunnel. Sends the bare exchange of the original and nothing
    /// else: an old relay would end itself on more.
    pub(crate) async fn open(relay: &RelayAddr, protocol: Protocol, members: usize, bbr: bool) -> Result<Self, Error> {
        let mut socket = dial(relay.host(), relay.port()).await?;
        let io_error = |source| Error::Io { relay: relay.clone(), source };
        watch_always_reading(&socket).map_err(io_error)?;
        let peer = socket.peer_addr().map_err(io_error)?;
        let (answer, early) = timeout(ANSWER_WAIT, ask(&mut socket, relay, protocol))
            .await
            .map_err(|_| Error::Silent { relay: relay.clone(), waited: ANSWER_WAIT })??;
        let kind = match answer.pool {
            Some(pool) => Kind::Pool(PoolTunnel::new(socket, early, peer, pool, members)),
            None if protocol == Protocol::Event => Kind::Event(EventTunnel::new(socket, early, peer)),
            None => Kind::Multiplex(MultiplexTunnel::new(socket, early, bbr)),
        };
        Ok(Self { public: relay.with_port(answer.port), kind })
    }

    /// Delivers users until the tunnel is lost, and says how; or until the listener is closed: then it
    /// announces that and gives nothing. Live users are not touched.
    pub(crate) async fn serve(self, users: &Users) -> Option<Error> {
        let served = async {
            match self.kind {
                Kind::Multiplex(multiplex) => multiplex.serve(users).await,
                Kind::Pool(pool) => pool.serve(users).await,
                Kind::Event(event) => event.serve(users).await,
            }
        };
        let reason = served.await?;
        Some(Error::Lost { relay: users.relay.clone(), reason })
    }
}

/// Writes the request and reads the answer. Gives with it what the relay sent next.
async fn ask(socket: &mut TcpStream, relay: &RelayAddr, protocol: Protocol) -> Result<(Established, Vec<u8>), Error> {
    let request = match protocol {
        Protocol::Multiplex => Request::Multiplex,
        Protocol::Pool => Request::PoolNew,
        Protocol::Event => Request::EventNew,
    };
    let mut reader = AnswerReader::default();
    let mut buffer = [0; 4096];
    socket.write_all(request.to_string().as_bytes()).await.map_err(|error| no_answer(relay, error))?;
    loop {
        let read = socket.read(&mut buffer).await.map_err(|error| no_answer(relay, error))?;
        if read == 0 {
            return Err(Error::Unanswered { relay: relay.clone() });
        }
        let mut input = &buffer[..read];
        let answer = reader.established(protocol, &mut input).map_err(|error| {
            let source = match error {
                AnswerError::Misbehaved(source) => source,
                // Only who begins with `relay/1` is told why not.
                AnswerError::Refused(refusal) => HandshakeError::Unknown(refusal.code().as_str().into()),
            };
            Error::Misbehaved { relay: relay.clone(), source }
        })?;
        if let Some(answer) = answer {
            return Ok((answer, input.to_vec()));
        }
    }
}

/// A relay that closes with our request unread resets the connection: still a close without an answer.
fn no_answer(relay: &RelayAddr, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            Error::Unanswered { relay: relay.clone() }
        }
        _ => Error::Io { relay: relay.clone(), source: error },
    }
}
