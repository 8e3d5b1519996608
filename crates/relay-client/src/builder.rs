//! The builder: what a listener is to be.

use ipnet::IpNet;
use relay_proto::handshake::Protocol;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::exchange::Asked;
use crate::keeper::Keeper;
use crate::reach::Reach;
use crate::report::EventSender;
use crate::stock::DEFAULT_MEMBERS;
use crate::tls::Tls;
use crate::tunnel::Users;
use crate::{Connection, Error, Events, Listener, Relay};

/// How many users wait to be accepted before the relay, too, is made to wait.
const BACKLOG: usize = 64;

/// What a listener is to be. Made by [`Listener::builder`] or [`Listener::to`].
#[derive(Debug)]
pub struct Builder {
    relay: Relay,
    tls: Option<Tls>,
    asked: Asked,
    retry_first: bool,
    members: usize,
    bbr: bool,
    events: EventSender,
}

impl Builder {
    pub(crate) fn new(relay: Relay) -> Self {
        Self {
            relay,
            tls: None,
            asked: Asked {
                protocol: Protocol::Multiplex,
                port: None,
                allow: Vec::new(),
                service: None,
                addresses: true,
                had: None,
                is_old: false,
            },
            retry_first: false,
            members: DEFAULT_MEMBERS,
            bbr: true,
            events: EventSender::new(),
        }
    }

    /// How users come; [`Protocol::Multiplex`] unless told otherwise.
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.asked.protocol = protocol;
        self
    }

    /// Speaks TLS as told here, instead of as the relay was written: to an authority of your own, or with a client
    /// certificate. The identity of an invite is proved all the same.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Demands that public port, which is not 0; any that is free unless told otherwise. While it is taken the first try fails, for
    /// good; later ones, when the tunnel stood before, are repeated. A relay of the original protocol is not used.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.asked.port = Some(port);
        self
    }

    /// A word for the service, the same at each start, by which the relay knows it again: an identity's service that
    /// is started anew within 10 minutes gets the public port that it had, and never that of another service. 1 to 64
    /// letters, digits, dots, dashes and underscores; a relay refuses another one.
    #[must_use]
    pub fn service(mut self, word: &str) -> Self {
        self.asked.service = Some(word.into());
        self
    }

    /// Has the relay let in only users from these networks, and fewer if its operator wants so; everyone when there
    /// are none. A relay that cannot do that is not used. More than the relay takes
    /// ([`MAX_NETWORKS`](relay_proto::handshake::MAX_NETWORKS)) are its to refuse.
    #[must_use]
    pub fn allow(mut self, networks: Vec<IpNet>) -> Self {
        self.asked.allow = networks;
        self
    }

    /// Whether the relay is asked to say where each user is, which [`Connection::user_addr`] then gives; it is unless told
    /// otherwise. An old relay cannot say it and is used all the same; in plain text it takes
    /// [`RELAY_1_WAIT`](crate::RELAY_1_WAIT) once to find that out.
    #[must_use]
    pub fn user_addresses(mut self, wanted: bool) -> Self {
        self.asked.addresses = wanted;
        self
    }

    /// Whether [`bind`](Self::bind) waits for a relay that cannot be reached yet, instead of failing.
    #[must_use]
    pub fn retry_first(mut self, retry: bool) -> Self {
        self.retry_first = retry;
        self
    }

    /// Whether the link of [`Protocol::Multiplex`] may change its congestion control to BBR, on a long path that
    /// keeps losing packets and where the system has it. It may unless told otherwise.
    #[must_use]
    pub fn bbr(mut self, may: bool) -> Self {
        self.bbr = may;
        self
    }

    /// How many idle members a pool keeps at least: as many users as may come at the same moment, after
    /// a silence, without waiting for a dial. At least 1; [`DEFAULT_MEMBERS`] unless told otherwise. With
    /// a single one, a user who sends nothing but an end looks like a relay that goes away.
    ///
    /// While users come faster the pool keeps more, up to [`MAX_MEMBERS`](crate::MAX_MEMBERS).
    #[must_use]
    pub fn members(mut self, members: usize) -> Self {
        self.members = members;
        self
    }

    /// The events from now on, those of [`bind`](Self::bind) included. May be called any number of times.
    pub fn events(&self) -> Events {
        self.events.events()
    }

    /// Opens the tunnel. Cancel safe: dropping the future leaves nothing behind.
    ///
    /// # Errors
    /// The first failure, unless [`retry_first`](Self::retry_first) is set: then only one that no retry
    /// can mend.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn bind(self) -> Result<Listener, Error> {
        let (accepted, incoming) = mpsc::channel(BACKLOG);
        let (asked, members, bbr, retry_first) = (self.asked.clone(), self.members, self.bbr, self.retry_first);
        let mut keeper = Keeper::new(asked, members, bbr, self.users(accepted)?);
        let tunnel = if retry_first { keeper.open_at_last().await? } else { keeper.open().await? };
        Ok(Listener::new(incoming, keeper, tunnel))
    }

    pub(crate) fn users(self, accepted: mpsc::Sender<Connection>) -> Result<Users, Error> {
        let reach = Reach::to(self.relay, self.tls)?;
        let (live, closing) = (TaskTracker::new(), CancellationToken::new());
        Ok(Users { reach, accepted, events: self.events, live, closing })
    }
}
