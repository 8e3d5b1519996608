//! The listener: a tunnel that is kept up.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use relay_proto::handshake::Protocol;
use relay_proto::invite::Invite;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use crate::exchange::Asked;
use crate::reach::Reach;
use crate::stock::DEFAULT_MEMBERS;
use crate::tls::{Tls, TlsSetupError};
use crate::tunnel::{Tunnel, Users};
use crate::{Backoff, Connection, Error, RelayAddr};

/// How many users wait to be accepted before the relay, too, is made to wait.
const BACKLOG: usize = 64;

/// How many events are kept for those who are slow to take them.
const EVENTS_KEPT: usize = 64;

/// A tunnel that stood this long shows that the relay is well: tries start over with short waits.
const STABLE: Duration = Duration::from_secs(2);

/// How many causes are remembered as said.
const CAUSES_KEPT: usize = 64;

/// What happened to a tunnel.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The tunnel stands, for the first time or again; perhaps at another address than before.
    Established {
        /// Where users connect.
        address: RelayAddr,
    },
    /// The tunnel is gone. Users that have connections of their own are not touched.
    Lost {
        /// How.
        cause: Arc<Error>,
    },
    /// A try to establish the tunnel failed for a cause that has not been told since it last stood, or
    /// since the first try. Tries go on.
    Retrying {
        /// What failed.
        cause: Arc<Error>,
    },
    /// The tunnel stands, but one more connection to the relay could not be had: an announced user is
    /// lost, or the pool is one member short for the moment.
    Trouble {
        /// What failed.
        cause: Arc<Error>,
    },
}

/// The events of one listener, in order. Taken from [`Builder::events`].
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    /// The next event; `None` once the listener and its builder are gone. Who falls more than 64 events
    /// behind misses the oldest. Cancel safe.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.0.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct EventSender(broadcast::Sender<Event>);

impl EventSender {
    /// Nobody needs to listen.
    fn send(&self, event: Event) {
        let _ = self.0.send(event);
    }

    pub(crate) fn trouble(&self, cause: Error) {
        self.send(Event::Trouble { cause: Arc::new(cause) });
    }
}

/// What a listener is to be. Made by [`Listener::builder`].
#[derive(Debug)]
pub struct Builder {
    reach: Reach,
    asked: Asked,
    retry_first: bool,
    members: usize,
    bbr: bool,
    events: EventSender,
}

impl Builder {
    /// How users come; [`Protocol::Multiplex`] unless told otherwise.
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.asked.protocol = protocol;
        self
    }

    /// Speaks TLS to the relay and, if `tls` has an identity, proves it. Without, all is plain text and nothing is
    /// proved. Neither is ever tried in place of the other.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.reach.tls = Some(tls);
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

    /// The events from now on. May be called any number of times.
    pub fn events(&self) -> Events {
        Events(self.events.0.subscribe())
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
        let live = TaskTracker::new();
        let Self { asked, members, bbr, retry_first, .. } = &self;
        let (asked, members, bbr, retry_first) = (asked.clone(), *members, *bbr, *retry_first);
        let users = self.users(accepted, live.clone());
        let mut keeper = Keeper { asked, members, bbr, users, backoff: Backoff::new() };
        let tunnel = if retry_first { keeper.open_at_last().await? } else { keeper.open().await? };
        let (public, watched) = watch::channel(tunnel.public.clone());
        let (failed, failure) = oneshot::channel();
        let keeper = tokio::spawn(async move {
            if let Err(error) = keeper.keep_up(tunnel, public).await {
                // A listener that is gone does not need to know.
                let _ = failed.send(error);
            }
        });
        Ok(Listener { incoming, failure, public: watched, keeper, live })
    }

    pub(crate) fn users(self, accepted: mpsc::Sender<Connection>, live: TaskTracker) -> Users {
        Users { reach: self.reach, accepted, events: self.events, live }
    }
}

/// Takes the users of a tunnel, which it keeps up.
///
/// Dropping it takes no new users and frees the public port; accepted connections live on.
#[derive(Debug)]
pub struct Listener {
    incoming: mpsc::Receiver<Connection>,
    /// Why no more users will come.
    failure: oneshot::Receiver<Error>,
    public: watch::Receiver<RelayAddr>,
    keeper: JoinHandle<()>,
    live: TaskTracker,
}

impl Listener {
    /// A listener for a tunnel at the relay of an invite, [over TLS](Tls::invited).
    ///
    /// # Errors
    /// As of [`Tls::invited`].
    pub fn invited(invite: &Invite) -> Result<Builder, TlsSetupError> {
        Ok(Self::builder(invite.relay.clone()).tls(Tls::invited(invite)?))
    }

    /// A listener for a tunnel at that relay; in plain text, until [`Builder::tls`] is given.
    pub fn builder(relay: RelayAddr) -> Builder {
        Builder {
            reach: Reach { relay, tls: None },
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
            events: EventSender(broadcast::Sender::new(EVENTS_KEPT)),
        }
    }

    /// Where users connect: the relay's host as it was given, and the public port. While the tunnel is
    /// down, where it was last.
    pub fn public_address(&self) -> RelayAddr {
        self.public.borrow().clone()
    }

    /// The next user. Waits while the tunnel is down. Cancel safe: no user is lost.
    ///
    /// # Errors
    /// The tunnel is down and no retry can help: the relay's answer was final. After that it is [`Error::Closed`].
    pub async fn accept(&mut self) -> Result<Connection, Error> {
        match self.incoming.recv().await {
            Some(user) => Ok(user),
            None => Err(self.failure.try_recv().unwrap_or(Error::Closed)),
        }
    }

    /// Takes no new users and waits until the last live one has finished. Dropping the future does not
    /// undo it: accepted connections live on, without anyone waiting.
    pub async fn close(self) {
        let Self { incoming, keeper, live, .. } = self;
        drop(incoming);
        // The keeper sees that, announces it to the relay and ends; it cannot be cancelled.
        let _ = keeper.await;
        live.close();
        live.wait().await;
    }
}

/// Keeps the tunnel up, as long as the listener wants users.
struct Keeper {
    asked: Asked,
    members: usize,
    bbr: bool,
    users: Users,
    backoff: Backoff,
}

impl Keeper {
    /// Ends when the listener is closed, or on an error that is final.
    async fn keep_up(&mut self, mut tunnel: Tunnel, public: watch::Sender<RelayAddr>) -> Result<(), Error> {
        loop {
            let since = Instant::now();
            let Some(lost) = tunnel.serve(&self.users).await else { return Ok(()) };
            self.users.events.send(Event::Lost { cause: Arc::new(lost) });
            // A relay that takes us only to drop us again is not come back to in a hurry.
            if since.elapsed() >= STABLE {
                self.backoff.reset();
            }
            let accepted = self.users.accepted.clone();
            tunnel = tokio::select! {
                () = accepted.closed() => return Ok(()),
                opened = async {
                    // All who lost the same relay come back spread out.
                    self.pause().await;
                    self.open_at_last().await
                } => opened?,
            };
            public.send_replace(tunnel.public.clone());
        }
    }

    async fn open(&mut self) -> Result<Tunnel, Error> {
        let tunnel = Tunnel::open(&self.users.reach, &mut self.asked, self.members, self.bbr).await?;
        self.asked.had = Some(tunnel.public.port());
        self.users.events.send(Event::Established { address: tunnel.public.clone() });
        Ok(tunnel)
    }

    /// Tries until it works. Tells each cause once, not at each try.
    async fn open_at_last(&mut self) -> Result<Tunnel, Error> {
        let mut said = HashSet::new();
        loop {
            let cause = match self.open().await {
                Err(cause) if cause.is_temporary() => cause,
                done => return done,
            };
            // A cause may carry what a peer sent: they could all differ.
            if said.len() < CAUSES_KEPT && said.insert(cause.to_string()) {
                self.users.events.send(Event::Retrying { cause: Arc::new(cause) });
            }
            self.pause().await;
        }
    }

    async fn pause(&mut self) {
        let wait = self.backoff.next(&mut rand::rng());
        sleep(wait).await;
    }
}
