//! The listener, and a handle to it for those who do not accept.

use std::task::{Context, Poll};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::keeper::{Keeper, State};
use crate::report::WeakEventSender;
use crate::tunnel::Tunnel;
use crate::{Builder, Connection, Error, Events, Relay, RelayAddr};

/// Takes the users of a tunnel, which it keeps up.
///
/// Dropping it takes no new users and frees the public port (in [`Protocol::Pool`](crate::Protocol::Pool), for which old
/// relays have no word, those do so half a minute after the last user has left); those who wait to be accepted are
/// reset, accepted connections live on.
#[derive(Debug)]
pub struct Listener {
    incoming: mpsc::Receiver<Connection>,
    handle: Handle,
    /// Whether it was told why no more users come.
    told: bool,
    _closing: DropGuard,
}

impl Listener {
    /// A listener for a tunnel at the relay of an invite, or at `tls://HOST[:PORT]`, or in plain text at the open
    /// relay `HOST[:PORT]`. Neither is ever tried in place of another. The port is 7000 when none is given.
    ///
    /// # Errors
    /// [`Error::Relay`]: the text is none of these.
    pub fn builder(relay: &str) -> Result<Builder, Error> {
        relay.parse().map(Self::to).map_err(Error::Relay)
    }

    /// The same, for a relay that was parsed before.
    pub fn to(relay: Relay) -> Builder {
        Builder::new(relay)
    }

    pub(crate) fn new(incoming: mpsc::Receiver<Connection>, keeper: Keeper, tunnel: Tunnel) -> Self {
        let (state, watched) = watch::channel(State { public: tunnel.public.clone(), ended: None });
        let users = &keeper.users;
        let handle = Handle {
            state: watched,
            closing: users.closing.clone(),
            live: users.live.clone(),
            events: users.events.weak(),
        };
        let closing = handle.closing.clone().drop_guard();
        tokio::spawn(keeper.run(tunnel, state));
        Self { incoming, handle, told: false, _closing: closing }
    }

    /// Where users connect: the relay's host as it was given, and the public port. While the tunnel is
    /// down, where it was last.
    pub fn public_address(&self) -> RelayAddr {
        self.handle.public_address()
    }

    /// A handle, which stays when the listener has gone to a server that takes it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// The next user. Waits while the tunnel is down. Cancel safe: no user is lost.
    ///
    /// # Errors
    /// The tunnel is down and no retry can help: the relay's answer was final. After that, and once the listener was
    /// [closed](Handle::close) and those are taken who had come before, it is [`Error::Closed`].
    pub async fn accept(&mut self) -> Result<Connection, Error> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// The same, for those who write futures by hand.
    ///
    /// # Errors
    /// As of [`accept`](Self::accept).
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<Connection, Error>> {
        self.incoming.poll_recv(cx).map(|user| user.ok_or_else(|| self.failure().unwrap_or(Error::Closed)))
    }

    /// Why no more users come, if that is not for the caller to know; once.
    fn failure(&mut self) -> Option<Error> {
        let told = std::mem::replace(&mut self.told, true);
        if told { None } else { self.handle.state.borrow().ended.clone()?.err() }
    }
}

/// What can be asked of a listener without having it. Clones are the same one; none of them keeps the listener open.
#[derive(Clone, Debug)]
pub struct Handle {
    state: watch::Receiver<State>,
    closing: CancellationToken,
    live: TaskTracker,
    events: WeakEventSender,
}

impl Handle {
    /// Where users connect now; while the tunnel is down, where they did last.
    pub fn public_address(&self) -> RelayAddr {
        self.state.borrow().public.clone()
    }

    /// The events from now on.
    pub fn events(&self) -> Events {
        self.events.events()
    }

    /// Takes no new users and frees the public port, as dropping the listener does. Completes when the relay is being
    /// told so. Those who had come before can still be accepted, and accepted connections live on.
    ///
    /// May be called any number of times. Dropping the future undoes nothing.
    pub async fn close(&self) {
        self.closing.cancel();
        // Why no longer matters.
        let _ = self.closed().await;
    }

    /// [Closes](Self::close), and waits until every user's connection was dropped and its last bytes are with the
    /// kernel. Users who wait to be accepted count until the listener is dropped.
    ///
    /// Dropping the future undoes nothing: connections live on, without anyone waiting.
    pub async fn finish(&self) {
        self.close().await;
        self.live.close();
        self.live.wait().await;
    }

    /// Completes when the listener takes no more users: it was closed or dropped. Cancel safe.
    ///
    /// # Errors
    /// Nobody has closed it: no retry can bring the tunnel back. It is the error that
    /// [`accept`](Listener::accept) gives.
    pub async fn closed(&self) -> Result<(), Error> {
        let mut state = self.state.clone();
        match state.wait_for(|state| state.ended.is_some()).await {
            Ok(state) => state.ended.clone().unwrap_or(Ok(())),
            // Its runtime has ended, and the tunnel with it.
            Err(_) => Ok(()),
        }
    }
}
