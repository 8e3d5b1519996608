//! The listener: a tunnel that is kept up.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use relay_proto::handshake::Protocol;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use crate::stock::DEFAULT_MEMBERS;
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
    relay: RelayAddr,
    protocol: Protocol,
    retry_first: bool,
    members: usize,
    bbr: bool,
    events: EventSender,
}

impl Builder {
    /// How users come; [`Protocol::Multiplex`] unless told otherwise.
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
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
        let (protocol, members, bbr, retry_first) = (self.protocol, self.members, self.bbr, self.retry_first);
        let users = self.users(accepted, live.clone());
        let mut keeper = Keeper { protocol, members, bbr, users, backoff: Backoff::new() };
        let tunnel = if retry_first { keeper.open_at_last().await? } else { keeper.open().await? };
        let (public, watched) = watch::channel(tunnel.public.clone());
        let keeper = tokio::spawn(keeper.keep_up(tunnel, public));
        Ok(Listener { incoming, public: watched, keeper, live })
    }

    pub(crate) fn users(self, accepted: mpsc::Sender<Connection>, live: TaskTracker) -> Users {
        Users { relay: self.relay, accepted, events: self.events, live }
    }
}

/// Takes the users of a tunnel, which it keeps up.
///
/// Dropping it takes no new users and frees the public port; accepted connections live on.
#[derive(Debug)]
pub struct Listener {
    incoming: mpsc::Receiver<Connection>,
    public: watch::Receiver<RelayAddr>,
    keeper: JoinHandle<()>,
    live: TaskTracker,
}

impl Listener {
    /// A listener for a tunnel at that relay.
    pub fn builder(relay: RelayAddr) -> Builder {
        Builder {
            relay,
            protocol: Protocol::Multiplex,
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
    /// The tunnel is down and no retry can help; none of today's errors is of that kind.
    pub async fn accept(&mut self) -> Result<Connection, Error> {
        self.incoming.recv().await.ok_or(Error::Closed)
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
    protocol: Protocol,
    members: usize,
    bbr: bool,
    users: Users,
    backoff: Backoff,
}

impl Keeper {
    async fn keep_up(mut self, mut tunnel: Tunnel, public: watch::Sender<RelayAddr>) {
        loop {
            let since = Instant::now();
            let Some(lost) = tunnel.serve(&self.users).await else { return };
            self.users.events.send(Event::Lost { cause: Arc::new(lost) });
            // A relay that takes us only to drop us again is not come back to in a hurry.
            if since.elapsed() >= STABLE {
                self.backoff.reset();
            }
            let accepted = self.users.accepted.clone();
            let opened = tokio::select! {
                () = accepted.closed() => return,
                opened = async {
                    // All who lost the same relay come back spread out.
                    self.pause().await;
                    self.open_at_last().await
                } => opened,
            };
            match opened {
                Ok(opened) => tunnel = opened,
                Err(_) => return,
            }
            public.send_replace(tunnel.public.clone());
        }
    }

    async fn open(&self) -> Result<Tunnel, Error> {
        let tunnel = Tunnel::open(&self.users.relay, self.protocol, self.members, self.bbr).await?;
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
