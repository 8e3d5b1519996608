//! Keeps a tunnel up, as long as its listener wants users.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::exchange::Asked;
use crate::tunnel::{Tunnel, Users};
use crate::{Error, Event, RelayAddr};

/// A tunnel that stood this long shows that the relay is well: tries start over with short waits.
const STABLE: Duration = Duration::from_secs(2);

/// How many causes are remembered as said.
const CAUSES_KEPT: usize = 64;

pub(crate) struct Keeper {
    asked: Asked,
    members: usize,
    bbr: bool,
    pub(crate) users: Users,
    backoff: Backoff,
    /// Where users connected when the tunnel stood last.
    stood_at: Option<RelayAddr>,
}

/// How a tunnel is.
#[derive(Debug)]
pub(crate) struct State {
    /// Where users connect, or did when it stood last.
    pub(crate) public: RelayAddr,
    /// That it is kept up no longer: its listener wants no users, or why no retry can help.
    pub(crate) ended: Option<Result<(), Error>>,
}

impl Keeper {
    pub(crate) fn new(asked: Asked, members: usize, bbr: bool, users: Users) -> Self {
        Self { asked, members, bbr, users, backoff: Backoff::new(), stood_at: None }
    }

    /// Keeps the tunnel up to the end, which all who look at `state` have heard of when the listener learns that no
    /// more users come.
    pub(crate) async fn run(mut self, tunnel: Tunnel, state: watch::Sender<State>) {
        let ended = self.keep_up(tunnel, &state).await;
        state.send_modify(|state| state.ended = Some(ended));
    }

    async fn keep_up(&mut self, mut tunnel: Tunnel, state: &watch::Sender<State>) -> Result<(), Error> {
        loop {
            let since = Instant::now();
            let Some(cause) = tunnel.serve(&self.users).await else { return Ok(()) };
            self.users.events.tell(Event::Lost { cause });
            // A relay that takes us only to drop us again is not come back to in a hurry.
            if since.elapsed() >= STABLE {
                self.backoff.reset();
            }
            let closing = self.users.closing.clone();
            tunnel = tokio::select! {
                () = closing.cancelled() => return Ok(()),
                opened = async {
                    // All who lost the same relay come back spread out.
                    self.pause().await;
                    self.open_at_last().await
                } => opened?,
            };
            state.send_modify(|state| state.public = tunnel.public.clone());
        }
    }

    pub(crate) async fn open(&mut self) -> Result<Tunnel, Error> {
        let tunnel = Tunnel::open(&self.users.reach, &mut self.asked, self.members, self.bbr).await?;
        let address = tunnel.public.clone();
        self.asked.had = Some(address.port());
        let before = self.stood_at.replace(address.clone());
        self.users.events.tell(Event::Established { address, before });
        Ok(tunnel)
    }

    /// Tries until it works. Tells each cause once, not at each try.
    pub(crate) async fn open_at_last(&mut self) -> Result<Tunnel, Error> {
        let mut said = HashSet::new();
        loop {
            let cause = match self.open().await {
                Err(cause) if cause.is_temporary() => cause,
                done => return done,
            };
            // A cause may carry what a peer sent: they could all differ.
            if said.len() < CAUSES_KEPT && said.insert(cause.to_string()) {
                self.users.events.tell(Event::Retrying { cause });
            }
            self.pause().await;
        }
    }

    async fn pause(&mut self) {
        let wait = self.backoff.next(&mut rand::rng());
        sleep(wait).await;
    }
}
