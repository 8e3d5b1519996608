//! The forwarder: takes users from a relay and pipes each to the service.
//!
//! The tunnel is kept up by [`relay_client`]; here each user gets a connection to the service. What goes
//! wrong with one user costs that user only.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use relay_client::{Builder, Connection, Error, Event, IpNet, Listener, Protocol, RelayAddr, Tls};
use relay_net::pipe::{HALF_CLOSED_IDLE, Moved};
use relay_proto::proxy::{Header, Version};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tracing::{debug, info, warn};

use crate::repeats::Repeats;
use crate::service::Service;

/// How often a trouble that keeps coming back is said.
const REPEATS_EVERY: Duration = Duration::from_secs(10);

/// A tunnel that stood this long shows that the relay is well: whatever goes wrong next is news.
const STOOD: Duration = Duration::from_secs(10);

/// How often it is said that a relay goes on to drop each tunnel as soon as it stands.
const DROPS_EVERY: Duration = Duration::from_mins(1);

/// How long the resets of the last users may take to leave.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a forwarder is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where users are piped to.
    pub service: Service,
    /// Where they come from.
    pub relay: RelayAddr,
    /// TLS to the relay, and who we are there; plain text without.
    pub tls: Option<Tls>,
    /// How they come.
    pub protocol: Protocol,
    /// The public port that it must be; any that is free, if none.
    pub port: Option<u16>,
    /// The networks whose users the relay is to let in; everyone, if there are none.
    pub allow: Vec<IpNet>,
    /// In which version of the PROXY protocol the service is told where each user is; not at all, if none.
    pub proxy_protocol: Option<Version>,
    /// Whether the link may change to BBR.
    pub bbr: bool,
    /// How long live users may finish at the end.
    pub drain: Duration,
    /// How many users are served at once; who comes beyond is reset at once.
    pub max_users: usize,
}

impl Config {
    /// Plain text, any port, for everyone; 30 s for the last users, at most 24 576 at once: less than the 28 232
    /// ports that Linux tells sockets to one address of a service apart by.
    pub fn new(service: Service, relay: RelayAddr, protocol: Protocol) -> Self {
        Self {
            service,
            relay,
            tls: None,
            protocol,
            port: None,
            allow: Vec::new(),
            proxy_protocol: None,
            bbr: true,
            drain: Duration::from_secs(30),
            max_users: 24_576,
        }
    }

    fn listener(&self) -> Builder {
        let mut builder = Listener::builder(self.relay.clone())
            .protocol(self.protocol)
            .allow(self.allow.clone())
            .service(&word_for(&self.service))
            // In a pool the line shows, too, that there is a user for whom to dial a service that speaks first.
            .user_addresses(self.proxy_protocol.is_some() || self.protocol == Protocol::Pool)
            .bbr(self.bbr)
            .retry_first(true);
        if let Some(tls) = &self.tls {
            builder = builder.tls(tls.clone());
        }
        if let Some(port) = self.port {
            builder = builder.port(port);
        }
        builder
    }

    /// Whether users may come from anywhere.
    fn is_for_everyone(&self) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|network| network.prefix_len() == 0)
    }
}

/// What a relay knows a service by when its forwarder is started anew: not where it is, which is nobody's business.
fn word_for(service: &Service) -> String {
    let hash = Sha256::digest(service.to_string());
    hash[..8].iter().fold(String::new(), |word, byte| format!("{word}{byte:02x}"))
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
    let builder = forwarder.config.listener();
    let mut events = builder.events();
    let mut report = Report::new(&forwarder, announce);

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
    let ended = loop {
        // In this order, a user counts for the tunnel that he came through: a tunnel is established before
        // its first user is there, and lost after its last. Only a user of event whose dial-back outlives
        // the tunnel counts for the next.
        tokio::select! {
            biased;
            () = &mut shutdown => break Ok(()),
            Some(event) = events.next() => {
                let mut failed = None;
                if let Event::Lost { .. } = event {
                    while let Some(user) = waiting(&mut listener).await {
                        match user {
                            Ok(user) => forwarder.take(user, &report.tunnel, &mut users),
                            Err(error) => {
                                failed = Some(error);
                                break;
                            }
                        }
                    }
                }
                report.event(event);
                if let Some(error) = failed {
                    break Err(error);
                }
            }
            Some(_) = users.join_next() => {}
            _ = repeats.tick() => {
                forwarder.say_repeats();
                report.say_drops(Instant::now());
            }
            user = listener.accept() => match user {
                Ok(user) => forwarder.take(user, &report.tunnel, &mut users),
                Err(error) => break Err(error),
            },
        }
    };

    info!(live = users.len(), "forwarder stops; live users may finish");
    report.stop(ended.as_ref().err());
    let mut closed = pin!(listener.close());
    let drain = forwarder.config.drain;
    if timeout(drain, &mut closed).await.is_err() {
        warn!(after = ?drain, live = users.len(), "live users are reset");
        users.abort_all();
        let _ = timeout(LAST_WORDS, closed).await;
    }
    // With the last of them goes the tunnel, which says so.
    while users.join_next().await.is_some() {}
    forwarder.say_repeats();
    ended
}

/// A user who is there already.
async fn waiting(listener: &mut Listener) -> Option<Result<Connection, Error>> {
    tokio::select! {
        biased;
        user = listener.accept() => Some(user),
        () = std::future::ready(()) => None,
    }
}

struct Forwarder {
    config: Config,
    repeats: Mutex<Repeats<String>>,
    /// It was said that the service is not told where users are.
    unknown: AtomicBool,
}

impl Forwarder {
    fn new(config: Config) -> Self {
        Self { config, repeats: Mutex::new(Repeats::new(REPEATS_EVERY)), unknown: AtomicBool::new(false) }
    }

    /// Serves a user in a task of his own, if there is room.
    fn take(self: &Arc<Self>, user: Connection, tunnel: &Arc<Tunnel>, users: &mut JoinSet<()>) {
        if users.len() < self.config.max_users {
            tunnel.users.fetch_add(1, Ordering::Relaxed);
            users.spawn(self.clone().serve(user, tunnel.clone()));
        } else {
            user.reset();
            self.trouble("too many users at once, one was reset");
        }
    }

    /// Serves one user to its end.
    async fn serve(self: Arc<Self>, user: Connection, tunnel: Arc<Tunnel>) {
        let dialled = tokio::select! {
            dialled = self.config.service.dial() => dialled,
            () = user.ended() => return debug!("user left before the service answered"),
        };
        match dialled {
            Ok(service) => {
                if let Some(version) = self.config.proxy_protocol
                    && let Err(error) = service.write_all(&self.header(&user).encode(version)).await
                {
                    user.reset();
                    return self.trouble(&format!("{} took no PROXY header: {error}", self.config.service));
                }
                let end = user.pipe(service, &tunnel.moved, HALF_CLOSED_IDLE).await;
                debug!(?end, "user left");
            }
            Err(error) => {
                user.reset();
                self.trouble(&format!("{error}; the user was reset"));
            }
        }
    }

    /// Where the user is, for the service.
    fn header(&self, user: &Connection) -> Header {
        if let (Some(user), Some(public)) = (user.user_addr(), user.public_addr()) {
            return Header::Proxied { user, public };
        }
        if !self.unknown.swap(true, Ordering::Relaxed) {
            let Config { relay, service, .. } = &self.config;
            warn!("{relay} does not say where a user is: {service} is told that it is unknown");
        }
        Header::Unknown
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
}

/// A tunnel, from before its opening until its last user is gone: then, with the last reference, its line
/// about the end is written.
struct Tunnel {
    relay: RelayAddr,
    protocol: Protocol,
    /// When, and where users connect.
    opened: OnceLock<(Instant, RelayAddr)>,
    users: AtomicU64,
    moved: Moved,
    /// Why it is closed. Without one, there is nothing to say.
    reason: OnceLock<String>,
}

impl Tunnel {
    fn new(config: &Config) -> Arc<Self> {
        Arc::new(Self {
            relay: config.relay.clone(),
            protocol: config.protocol,
            opened: OnceLock::new(),
            users: AtomicU64::new(0),
            moved: Moved::default(),
            reason: OnceLock::new(),
        })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let (Some((opened, address)), Some(reason)) = (self.opened.get(), self.reason.get()) else { return };
        info!(
            relay = %self.relay,
            protocol = %self.protocol,
            %address,
            users = self.users.load(Ordering::Relaxed),
            bytes_up = self.moved.up.load(Ordering::Relaxed),
            bytes_down = self.moved.down.load(Ordering::Relaxed),
            seconds = (opened.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            reason,
            "tunnel closed"
        );
    }
}

/// Tells what happens to the tunnel.
///
/// A relay may drop each tunnel as soon as it stands. That is said once for each cause, then only how
/// often, until a tunnel has stood for [`STOOD`] or had a user.
struct Report<'a, F> {
    forwarder: &'a Forwarder,
    announce: F,
    announced: Option<RelayAddr>,
    /// The one that stands, or the next.
    tunnel: Arc<Tunnel>,
    drops: Repeats<String>,
    /// The last tunnel was dropped for a cause that had been said: the next has no line of its own, and the
    /// log's last word remains that a tunnel was opened.
    quiet: bool,
}

impl<'a, F: FnMut(&RelayAddr)> Report<'a, F> {
    fn new(forwarder: &'a Forwarder, announce: F) -> Self {
        Self {
            forwarder,
            announce,
            announced: None,
            tunnel: Tunnel::new(&forwarder.config),
            drops: Repeats::new(DROPS_EVERY),
            quiet: false,
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Established { address } => self.established(address),
            Event::Lost { cause } => self.lost(cause.to_string()),
            Event::Retrying { cause } => {
                let again = self.drops.note(cause.to_string(), Instant::now()).is_none();
                if self.quiet && again {
                    debug!("{cause}; trying on until it works");
                } else {
                    warn!("{cause}; trying on until it works");
                }
            }
            Event::Trouble { cause } => self.forwarder.trouble(&cause.to_string()),
            _ => debug!(?event, "an event that this program does not know"),
        }
    }

    fn established(&mut self, address: RelayAddr) {
        let config = &self.forwarder.config;
        let Config { relay, protocol, service, .. } = config;
        let moved = self.announced.as_ref() != Some(&address);
        if moved || !self.quiet {
            info!(%relay, %protocol, %address, %service, "tunnel opened");
        }
        if self.announced.is_none() && config.is_for_everyone() {
            warn!(
                "anyone who reaches {address} reaches {service}, which takes them for local connections; \
                 narrow with --allow"
            );
        }
        if moved {
            (self.announce)(&address);
            self.announced = Some(address.clone());
        }
        let _ = self.tunnel.opened.set((Instant::now(), address));
    }

    fn lost(&mut self, cause: String) {
        let now = Instant::now();
        let tunnel = std::mem::replace(&mut self.tunnel, Tunnel::new(&self.forwarder.config));
        let stood = tunnel.opened.get().is_some_and(|(opened, _)| now - *opened >= STOOD);
        if stood || tunnel.users.load(Ordering::Relaxed) > 0 {
            self.quiet = false;
            self.say_drops(now + DROPS_EVERY);
        } else {
            self.quiet = self.drops.note(cause.clone(), now).is_none();
        }
        let live = Arc::strong_count(&tunnel) - 1;
        if live > 0 {
            info!(live, reason = cause, "tunnel lost");
        }
        if !self.quiet {
            let _ = tunnel.reason.set(cause);
        }
    }

    fn stop(mut self, failure: Option<&Error>) {
        self.say_drops(Instant::now() + DROPS_EVERY);
        let _ = self.tunnel.reason.set(failure.map_or("the forwarder was stopped".into(), ToString::to_string));
    }

    /// Says how often a cause came back by `now`, where that was not said for long.
    fn say_drops(&mut self, now: Instant) {
        for (cause, more) in self.drops.due(now) {
            warn!("{cause} ({more} times more)");
        }
    }
}
