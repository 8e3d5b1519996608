//! A tunnel: how it is opened, and what serves it.

use std::time::Duration;

use relay_proto::handshake::Protocol;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::event::EventTunnel;
use crate::exchange::{Answered, Asked, ask};
use crate::multiplex::MultiplexTunnel;
use crate::origin::NoLine;
use crate::pool::{NamedPool, PoolTunnel};
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

    /// Delivers a user; if the relay `tells` where each is, once it has.
    pub(crate) async fn bring(&self, user: Connection, tells: bool) {
        match if tells { user.introduced().await } else { Ok(user) } {
            Ok(user) => self.deliver(user).await,
            Err(why) => self.tell(why),
        }
    }

    /// Tells why a user was not delivered.
    pub(crate) fn tell(&self, why: NoLine) {
        if let Some(error) = why.error(&self.reach.relay) {
            self.events.trouble(error);
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
    /// Dials the relay and asks it for a tunnel. Notes in `asked` when it turns out to be an old one.
    pub(crate) async fn open(reach: &Reach, asked: &mut Asked, members: usize, bbr: bool) -> Result<Self, Error> {
        if let Some(tunnel) = Self::dial(reach, asked, members, bbr).await? {
            return Ok(tunnel);
        }
        let bare = Asked { is_old: true, ..asked.clone() };
        let tunnel = Self::dial(reach, &bare, members, bbr).await?;
        // Now it has shown that it is there.
        asked.is_old = true;
        tunnel.ok_or_else(|| Error::Unanswered { relay: reach.relay.clone() })
    }

    /// `None` if the relay seems to be an old one, and may serve who asks for less.
    async fn dial(reach: &Reach, asked: &Asked, members: usize, bbr: bool) -> Result<Option<Self>, Error> {
        let (socket, peer) = reach.dial().await?;
        let answered = timeout(ANSWER_WAIT, ask(&socket, reach, asked))
            .await
            .map_err(|_| Error::Silent { relay: reach.relay.clone(), waited: ANSWER_WAIT })??;
        let Some(Answered { established, early, tells, ends }) = answered else { return Ok(None) };
        let kind = match established.pool {
            Some(id) => {
                let pool = NamedPool { id, peer, tells, ends };
                Kind::Pool(PoolTunnel::new(socket, early, pool, members))
            }
            None if asked.protocol == Protocol::Event => Kind::Event(EventTunnel::new(socket, early, peer, tells)),
            None => Kind::Multiplex(MultiplexTunnel::new(socket, early, bbr, tells)),
        };
        Ok(Some(Self { public: reach.relay.with_port(established.port), kind }))
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
