//! A tunnel: how it is opened, and what serves it.

use std::time::Duration;

use relay_proto::handshake::Protocol;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::event::EventTunnel;
use crate::exchange::{Asked, ask};
use crate::multiplex::MultiplexTunnel;
use crate::pool::PoolTunnel;
use crate::reach::Reach;
use crate::report::EventSender;
use crate::{Connection, Error, RelayAddr};

/// How long the relay may take to answer, once it has taken the connection; and before that for TLS, if it is spoken.
pub const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Where a tunnel delivers its users, and where it tells what went wrong with one of them.
#[derive(Clone, Debug)]
pub(crate) struct Users {
    pub(crate) reach: Reach,
    pub(crate) accepted: mpsc::Sender<Connection>,
    pub(crate) events: EventSender,
    /// Every connection to a user holds a token of it.
    pub(crate) live: TaskTracker,
    /// No more users are wanted.
    pub(crate) closing: CancellationToken,
}

impl Users {
    /// Delivers a user, waiting while the listener's owner is behind; resets it when no more are wanted.
    pub(crate) async fn deliver(&self, user: Connection) {
        tokio::select! {
            biased;
            () = self.closed() => {}
            _ = self.accepted.send(user) => {}
        }
    }

    /// Waits until the listener is closed.
    pub(crate) async fn closed(&self) {
        self.closing.cancelled().await;
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
    /// Dials the relay and asks it for a tunnel.
    pub(crate) async fn open(reach: &Reach, asked: &Asked, members: usize, bbr: bool) -> Result<Self, Error> {
        let (socket, peer) = reach.dial().await?;
        let (answer, early) = timeout(ANSWER_WAIT, ask(&socket, reach, asked))
            .await
            .map_err(|_| Error::Silent { relay: reach.relay.clone(), waited: ANSWER_WAIT })??;
        let kind = match answer.pool {
            Some(pool) => Kind::Pool(PoolTunnel::new(socket, early, peer, pool, members)),
            None if asked.protocol == Protocol::Event => Kind::Event(EventTunnel::new(socket, early, peer)),
            None => Kind::Multiplex(MultiplexTunnel::new(socket, early, bbr)),
        };
        Ok(Self { public: reach.relay.with_port(answer.port), kind })
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
        Some(Error::Lost { relay: users.reach.relay.clone(), reason })
    }
}
