//! The forwarder: takes users from a relay and pipes each to the service.
//!
//! The tunnel is kept up by [`relay_client`]; here each user gets a connection to the service. What goes
//! wrong with one user costs that user only.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use relay_client::{Connection, Error, Event, Listener, Protocol, RelayAddr};
use relay_net::pipe::{HALF_CLOSED_IDLE, Moved};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tracing::{debug, info, warn};

use crate::repeats::Repeats;
use crate::service::Service;

/// How often a trouble that keeps coming back is said.
const REPEATS_EVERY: Duration = Duration::from_secs(10);

/// How long the resets of the last users may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a forwarder is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where users are piped to.
    pub service: Service,
    /// Where they come from.
    pub relay: RelayAddr,
    /// How they come.
    pub protocol: Protocol,
    /// How long live users may finish at the end.
    pub drain: Duration,
    /// How many users are served at once; who comes beyond is reset at once.
    pub max_users: usize,
}

impl Config {
    /// 30 s for the last users, at most 16 384 at once: half of what sockets to one address of a service
    /// can be told apart by.
    pub fn new(service: Service, relay: RelayAddr, protocol: Protocol) -> Self {
        Self { service, relay, protocol, drain: Duration::from_secs(30), max_users: 16_384 }
    }
}

/// Forwards until `shutdown` completes, then lets live users finish. `announce` is called with the
/// address for users as soon as the tunnel stands, and again when it has changed.
///
/// A relay that cannot be reached is tried for ever. Dropping the future resets everybody at once.
///
/// # Errors
/// The relay's answer was final: no retry can help.
pub async fn run(
    config: Config,
    announce: impl FnMut(&RelayAddr) + Send,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let mut shutdown = pin!(shutdown);
    let forwarder = Arc::new(Forwarder::new(config));
    let config = &forwarder.config;
    let builder = Listener::builder(config.relay.clone()).protocol(config.protocol).retry_first(true);
    let mut events = builder.events();
    let mut report = Report { forwarder: &forwarder, announce, announced: None };

    let mut bind = pin!(builder.bind());
    let mut listener = loop {
        tokio::select! {
            Some(event) = events.next() => report.event(event),
            listener = &mut bind => break listener?,
            () = &mut shutdown => return Ok(()),
        }
    };

    let mut users = JoinSet::new();
    let mut repeats = interval(REPEATS_EVERY);
    loop {
        tokio::select! {
            Some(event) = events.next() => report.event(event),
            user = listener.accept() => {
                let user = user?;
                if users.len() < config.max_users {
                    users.spawn(forwarder.clone().serve(user));
                } else {
                    user.reset();
                    forwarder.trouble("too many users at once, one was reset");
                }
            }
            Some(_) = users.join_next() => {}
            _ = repeats.tick() => forwarder.say_repeats(),
            () = &mut shutdown => break,
        }
    }

    info!(live = users.len(), "forwarder stops; live users may finish");
    let mut closed = pin!(listener.close());
    if timeout(config.drain, &mut closed).await.is_err() {
        warn!(after = ?config.drain, live = users.len(), "live users are reset");
        users.abort_all();
        let _ = timeout(LAST_WORDS, closed).await;
    }
    forwarder.say_repeats();
    forwarder.tunnel_closed(&"the forwarder was stopped");
    Ok(())
}

struct Forwarder {
    config: Config,
    /// Users and bytes since the tunnel was last established.
    users: AtomicU64,
    moved: Moved,
    repeats: Mutex<Repeats<String>>,
}

impl Forwarder {
    fn new(config: Config) -> Self {
        Self {
            config,
            users: AtomicU64::new(0),
            moved: Moved::default(),
            repeats: Mutex::new(Repeats::new(REPEATS_EVERY)),
        }
    }

    /// Serves one user to its end.
    async fn serve(self: Arc<Self>, user: Connection) {
        self.users.fetch_add(1, Ordering::Relaxed);
        let dialled = tokio::select! {
            dialled = self.config.service.dial() => dialled,
            () = user.ended() => return debug!("user left before the service answered"),
        };
        match dialled {
            Ok(service) => {
                let end = user.pipe(service, &self.moved, HALF_CLOSED_IDLE).await;
                debug!(?end, "user left");
            }
            Err(error) => {
                user.reset();
                self.trouble(&format!("{error}; the user was reset"));
            }
        }
    }

    /// Says what may come back a thousand times a second: once, then only how often. The causes are
    /// few: they name the service and the relay, never a user.
    fn trouble(&self, what: &str) {
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        match repeats.note(what.to_owned(), Instant::now()) {
            Some(0) => warn!("{what}"),
            Some(more) => warn!(more, "{what}"),
            None => debug!("{what}"),
        }
    }

    fn say_repeats(&self) {
        let due = self.repeats.lock().unwrap_or_else(PoisonError::into_inner).due(Instant::now());
        for (what, more) in due {
            warn!("{what} ({more} times more)");
        }
    }

    fn tunnel_closed(&self, reason: &dyn std::fmt::Display) {
        info!(
            relay = %self.config.relay,
            protocol = %self.config.protocol,
            users = self.users.swap(0, Ordering::Relaxed),
            bytes_up = self.moved.up.swap(0, Ordering::Relaxed),
            bytes_down = self.moved.down.swap(0, Ordering::Relaxed),
            %reason,
            "tunnel closed"
        );
    }
}

/// Tells what happens to the tunnel.
struct Report<'a, F> {
    forwarder: &'a Forwarder,
    announce: F,
    announced: Option<RelayAddr>,
}

impl<F: FnMut(&RelayAddr)> Report<'_, F> {
    fn event(&mut self, event: Event) {
        match event {
            Event::Established { address } => {
                let Config { relay, protocol, service, .. } = &self.forwarder.config;
                info!(%relay, %protocol, %address, %service, "tunnel opened");
                if self.announced.as_ref() != Some(&address) {
                    (self.announce)(&address);
                    self.announced = Some(address);
                }
            }
            Event::Lost { cause } => self.forwarder.tunnel_closed(&cause),
            Event::Retrying { cause } => warn!("{cause}; trying on until it works"),
            Event::Trouble { cause } => self.forwarder.trouble(&cause.to_string()),
            _ => debug!(?event, "an event that this program does not know"),
        }
    }
}
