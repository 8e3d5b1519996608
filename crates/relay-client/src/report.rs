//! What is told of a tunnel.

use relay_proto::address::RelayAddr;
use tokio::sync::broadcast;

use crate::Error;

/// How many events are kept for those who are slow to take them.
const EVENTS_KEPT: usize = 64;

/// What happened to a tunnel.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The tunnel stands, for the first time or again.
    #[non_exhaustive]
    Established {
        /// Where users connect.
        address: RelayAddr,
        /// Where they connected before the tunnel was lost: another address than `address` if that has changed,
        /// `None` the first time.
        before: Option<RelayAddr>,
    },
    /// The tunnel is gone. Users that have connections of their own are not touched.
    #[non_exhaustive]
    Lost {
        /// How.
        cause: Error,
    },
    /// A try to establish the tunnel failed for a cause that has not been told since it last stood, or
    /// since the first try. Tries go on.
    #[non_exhaustive]
    Retrying {
        /// What failed.
        cause: Error,
    },
    /// The tunnel stands, but one more connection to the relay could not be had: an announced user is
    /// lost, or the pool is one member short for the moment.
    #[non_exhaustive]
    Trouble {
        /// What failed.
        cause: Error,
    },
}

/// The events of one listener, in order. Taken from [`Builder::events`](crate::Builder::events) or
/// [`Handle::events`](crate::Handle::events).
#[derive(Debug)]
pub struct Events(broadcast::Receiver<Event>);

impl Events {
    /// The next event; `None` once the listener has ended and what was under way for it, too. Who falls more than 64
    /// events behind misses the oldest. Cancel safe.
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

/// Where events are told. They end with the last of its clones.
#[derive(Clone, Debug)]
pub(crate) struct EventSender(broadcast::Sender<Event>);

impl EventSender {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(EVENTS_KEPT))
    }

    pub(crate) fn events(&self) -> Events {
        Events(self.0.subscribe())
    }

    /// Nobody needs to listen.
    pub(crate) fn tell(&self, event: Event) {
        let _ = self.0.send(event);
    }

    pub(crate) fn trouble(&self, cause: Error) {
        self.tell(Event::Trouble { cause });
    }

    pub(crate) fn weak(&self) -> WeakEventSender {
        WeakEventSender(self.0.downgrade())
    }
}

/// The same, without keeping the events from ending.
#[derive(Clone, Debug)]
pub(crate) struct WeakEventSender(broadcast::WeakSender<Event>);

impl WeakEventSender {
    /// The events from now on; none if they have ended.
    pub(crate) fn events(&self) -> Events {
        match self.0.upgrade() {
            Some(sender) => Events(sender.subscribe()),
            None => EventSender::new().events(),
        }
    }
}
