//! The relay itself: a control port for clients, and a public port for each tunnel.
//!
//! The way of a connection: [`Server::run`] accepts it on the control port, `handshake` learns in
//! bounded time what it wants, and hands it to `multiplex`, `pool` or `event`. These own the tunnel
//! (`tunnel`): its public port, its users, its two lines in the log.

mod belonging;
mod descriptors;
mod event;
mod handshake;
mod identities;
mod limits;
mod matching;
mod multiplex;
mod origin;
mod pending;
mod pool;
mod ports;
mod registry;
mod sources;
mod tls;
mod tunnel;
mod workers;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use ipnet::IpNet;
use relay_net::socket::{self, Socket};
use relay_proto::handshake::Options;
use relay_proto::yamux::Budget;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use self::belonging::Client;
use self::descriptors::Descriptors;
pub use self::identities::{Identities, Status};
pub use self::limits::Limits;
use self::origin::{Balancers, NoHeader};
use self::pending::Pending;
use self::pool::Pool;
use self::ports::{Asker, PortSet, Ports};
pub use self::ports::{KEPT_FOR, Reservation};
use self::registry::{Names, lock};
use self::sources::{Allowance, Source, Sources};
pub use self::tls::{Certificate, FileError, Files, Settings as TlsSettings, Tls};
use self::workers::Workers;
use crate::repeats::Repeats;

/// How often a trouble that keeps coming back is said.
const REPEATS_EVERY: Duration = Duration::from_secs(10);

/// How often it is looked whether an identity's time is over.
const LOOK_FOR_EXPIRED: Duration = Duration::from_millis(500);

/// How often it is looked whether a certificate's files have changed.
const LOOK_FOR_CERTIFICATES: Duration = Duration::from_secs(10);

/// What the operator decides.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which ports tunnels get.
    pub ports: PortRange,
    /// The address that public ports are bound to. By default all interfaces, IPv4 included.
    pub public_address: IpAddr,
    /// How many threads tunnels are spread over: that of the caller, and others for the rest. 1 unless set.
    pub threads: usize,
    /// The bounds on what peers may do.
    pub limits: Limits,
    /// Whom the relay serves without an identity.
    pub anonymous: Anonymous,
    /// The networks of load balancers: connections from there, to any port, must begin with a PROXY header, and what it
    /// says stands for where they come from.
    pub balancers: Vec<IpNet>,
    /// Whether identities may come in plain text.
    pub plain_text: bool,
    /// For TLS; without it there is plain text only.
    pub tls: Option<Arc<Tls>>,
    /// Who may use the relay.
    pub identities: Identities,
    /// Ports that are somebody's from an earlier run.
    pub reservations: Vec<Reservation>,
    /// Where such ports are written down, before the client is told of its port.
    pub write_reservations: Option<WriteReservations>,
}

/// Writes all reserved ports down. Called on a thread that may block, one call at a time.
#[derive(Clone)]
pub struct WriteReservations(pub Arc<dyn Fn(Vec<Reservation>) -> io::Result<()> + Send + Sync>);

impl std::fmt::Debug for WriteReservations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteReservations").finish_non_exhaustive()
    }
}

/// Whom a relay serves without an identity.
#[derive(Clone, Debug, Default)]
pub struct Anonymous {
    /// Everyone.
    pub everyone: bool,
    /// Clients from there.
    pub networks: Vec<IpNet>,
    /// The public ports that they may have; `None` for all that no identity may have.
    pub ports: Option<(u16, u16)>,
}

impl Anonymous {
    fn anyone(&self) -> bool {
        self.everyone || !self.networks.is_empty()
    }
}

impl Default for Config {
    /// Open to everyone, in plain text.
    fn default() -> Self {
        Self {
            ports: PortRange::AboveControl,
            public_address: Ipv6Addr::UNSPECIFIED.into(),
            threads: 1,
            limits: Limits::default(),
            anonymous: Anonymous { everyone: true, ..Anonymous::default() },
            balancers: Vec::new(),
            plain_text: false,
            tls: None,
            identities: Identities::new([]),
            reservations: Vec::new(),
            write_reservations: None,
        }
    }
}

/// The ports that tunnels get: the lowest free one, unless the client asks for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRange {
    /// All above the control port.
    AboveControl,
    /// The thousand above the control port, those below 1024 left out.
    ThousandAboveControl,
    /// From the first to the second, both included.
    FromTo(u16, u16),
}

impl PortRange {
    /// All of them. Never the control port.
    fn set(self, control: u16) -> PortSet {
        /// Below are the ports of services that every system has.
        const FIRST_COMMON: u16 = 1024;
        // Above 65535 there is none; the control port itself is left out below.
        let above = control.saturating_add(1);
        let (first, last) = match self {
            Self::AboveControl => (above, u16::MAX),
            Self::ThousandAboveControl => {
                let first = above.max(FIRST_COMMON);
                (first, first.saturating_add(999))
            }
            Self::FromTo(first, last) => (first, last),
        };
        PortSet::range(first, last).without(control, control)
    }
}

/// The relay server.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Serves clients that connect to `listener` until `shutdown` completes. Then it takes no new
    /// users, lets those it has finish for [`Limits::drain`] (not a moment when there are none),
    /// and resets who is left.
    ///
    /// Dropping the future resets everybody at once.
    ///
    /// # Errors
    /// Only at once: when the listener has no address, which no listening socket lacks, or the system has no
    /// threads to give. What peers do never ends it.
    pub async fn run(
        listener: TcpListener,
        config: Config,
        shutdown: impl Future<Output = ()> + Send,
    ) -> io::Result<()> {
        let control = socket::canonical(listener.local_addr()?);
        let relay = Arc::new(Relay::new(control, config)?);
        socket::expect_clients(&listener);
        let _stop_waiting = relay.draining.clone().drop_guard();
        let _stop_users = relay.reset.clone().drop_guard();
        info!(address = %control, "relay listens");

        let mut shutdown = pin!(shutdown);
        let mut repeats = interval(REPEATS_EVERY);
        let mut expired = interval(LOOK_FOR_EXPIRED);
        let mut certificates = interval(LOOK_FOR_CERTIFICATES);
        let mut reserved = relay.ports.changes();
        loop {
            let newcomer = async {
                relay.pending.settle().await;
                socket::accept(&listener).await
            };
            tokio::select! {
                (stream, peer) = newcomer => relay.greet(stream, peer),
                _ = repeats.tick() => relay.say_repeats(),
                _ = expired.tick() => relay.expire(),
                _ = certificates.tick() => relay.reload_certificates(),
                Ok(()) = reserved.changed() => relay.note_reservations(),
                () = &mut shutdown => break,
            }
        }
        drop(listener);

        info!("relay stops; live users may finish");
        relay.draining.cancel();
        relay.tasks.close();
        let drain = relay.config.limits.drain;
        if timeout(drain, relay.tasks.wait()).await.is_err() {
            warn!(after = ?drain, "live users are reset");
            relay.reset.cancel();
            relay.tasks.wait().await;
        }
        relay.say_repeats();
        if let Err(error) = relay.write_reservations().await {
            warn!("the reserved ports cannot be written down: {error}");
        }
        let bites = std::mem::take(&mut *lock(&relay.bites));
        info!(limits = ?bites, "relay stopped");
        Ok(())
    }
}

/// What all tasks of one server share.
struct Relay {
    config: Config,
    /// Never a public port.
    control_port: u16,
    /// All ports that tunnels get.
    range: PortSet,
    ports: Ports,
    balancers: Balancers,
    /// Each leads to a user who waits for the connection that claims it.
    tickets: Names<Ticket>,
    pools: Names<Arc<Pool>>,
    pending: Pending,
    /// The users who wait behind the clients of each source, a crowd for each tunnel.
    waiting: Mutex<HashMap<Source, Vec<Pending>>>,
    sources: Sources,
    /// What all links may hold for users who do not take it.
    memory: Arc<Budget>,
    descriptors: Descriptors,
    repeats: Mutex<Repeats<(&'static str, u16)>>,
    /// How often each limit was met, by its name in the configuration.
    bites: Mutex<BTreeMap<&'static str, u64>>,
    /// Held while reserved ports are written down.
    writing: tokio::sync::Mutex<()>,
    /// Nobody new is served any more, and nobody waits.
    draining: CancellationToken,
    /// Users who are still served are reset.
    reset: CancellationToken,
    tasks: TaskTracker,
    workers: Workers,
}

/// A user who waits for the connection that claims it.
struct Ticket {
    client: Client,
    claimer: oneshot::Sender<Claim>,
}

/// A connection that claims a user, and what was read from it already.
type Claim = (Socket, Vec<u8>);

impl Relay {
    fn new(control: SocketAddr, mut config: Config) -> io::Result<Self> {
        let kept = std::mem::take(&mut config.reservations).into_iter();
        let kept = kept.filter_map(|kept| config.identities.owner(&kept.owner).map(|owner| (kept, owner)));
        let kept: Vec<_> = kept.collect();
        let limits = &config.limits;
        let allowance = Allowance {
            users: limits.users_per_source,
            new_users_per_second: limits.new_users_per_source,
            failures: limits.failures_per_source,
            exempt: limits.exempt.clone(),
        };
        Ok(Self {
            control_port: control.port(),
            range: config.ports.set(control.port()),
            ports: Ports::new(kept),
            balancers: Balancers(std::mem::take(&mut config.balancers)),
            tickets: Names::default(),
            pools: Names::default(),
            pending: Pending::new(limits.pending_handshakes, limits.crowding_grace),
            waiting: Mutex::default(),
            sources: Sources::new(allowance),
            memory: Arc::new(Budget::new(limits.memory)),
            descriptors: Descriptors::new(limits.descriptors),
            repeats: Mutex::new(Repeats::new(REPEATS_EVERY)),
            bites: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            draining: CancellationToken::new(),
            reset: CancellationToken::new(),
            tasks: TaskTracker::new(),
            workers: Workers::start(config.threads)?,
            config,
        })
    }

    fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// Whether a client from there is served without an identity.
    fn serves_anonymous(&self, address: IpAddr) -> bool {
        let Anonymous { everyone, networks, .. } = &self.config.anonymous;
        *everyone || networks.iter().any(|network| network.contains(&address))
    }

    /// What a client asks for a port as.
    fn asker(&self, client: &Client, options: &Options) -> Asker {
        let Config { anonymous, identities, .. } = &self.config;
        let service = options.service.clone();
        let mut asker = match client.account() {
            Some(account) if anonymous.anyone() => account.asker(service, self.range.lower_half()),
            Some(account) => account.asker(service, self.range.clone()),
            None => {
                let all =
                    anonymous.ports.map_or_else(|| self.range.clone(), |(first, last)| PortSet::range(first, last));
                Asker { owner: None, service, may: identities.ports_for_anonymous(&all) }
            }
        };
        asker.may = asker.may.without(self.control_port, self.control_port);
        asker
    }

    fn greet(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        if self.descriptors.is_last_reserve(&stream) {
            reset(stream);
            return self.refuse("descriptors", 0, peer, "the process has no room for more connections");
        }
        // Whom a balancer brings is not known yet.
        if !self.balancers.contains(peer.ip()) && self.is_full_of(peer.ip()) {
            return self.refuse_handshake(stream, peer);
        }
        let place = self.pending.enter(peer.ip());
        self.tasks.spawn(handshake::greet(self.clone(), stream, peer, place));
    }

    /// Whether as many handshakes from there are pending as may be.
    fn is_full_of(&self, address: IpAddr) -> bool {
        let (of_source, most) = (self.pending.of(address), self.limits().handshakes_per_source);
        of_source >= most && of_source >= most + self.waiting_behind(address)
    }

    fn refuse_handshake(&self, stream: TcpStream, peer: SocketAddr) {
        reset(stream);
        self.refuse("handshakes_per_source", 0, peer, "too many handshakes from there are pending");
    }

    /// Counts that a balancer's connection had no header, and says why.
    fn no_header(&self, port: u16, balancer: SocketAddr, why: &NoHeader) {
        if let NoHeader::Closed = why {
            return debug!(peer = %balancer, "{why}");
        }
        self.bite("proxy_protocol");
        self.say(why.kind(), port, balancer, why);
    }

    /// Users who wait for clients from there.
    fn waiting_behind(&self, address: IpAddr) -> usize {
        lock(&self.waiting).get(&Source::from(address)).map_or(0, |tunnels| tunnels.iter().map(Pending::len).sum())
    }

    /// Cuts off who has expired.
    fn expire(&self) {
        for name in self.config.identities.expire(SystemTime::now()) {
            info!(identity = %name, "identity has expired");
        }
    }

    fn reload_certificates(&self) {
        match self.config.tls.as_ref().map(|tls| tls.reload()) {
            Some(Ok(true)) => info!("the certificate was read again"),
            Some(Err(error)) => warn!("the certificate of before stays: {error}"),
            Some(Ok(false)) | None => {}
        }
    }

    /// Writes reserved ports down.
    async fn write_reservations(&self) -> io::Result<()> {
        let Some(WriteReservations(write)) = self.config.write_reservations.clone() else { return Ok(()) };
        let _alone = self.writing.lock().await;
        let all = self.ports.reservations();
        tokio::task::spawn_blocking(move || write(all)).await.map_err(io::Error::other)?
    }

    /// Has the reserved ports written down soon: a client that is gone waits for nothing.
    fn note_reservations(self: &Arc<Self>) {
        let relay = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = relay.write_reservations().await {
                const WHAT: &str = "the reserved ports cannot be written down";
                if lock(&relay.repeats).note((WHAT, 0), Instant::now()).is_some() {
                    warn!("{WHAT}: {error}");
                }
            }
        });
    }

    /// Counts that a limit was met, and says so.
    fn refuse(&self, limit: &'static str, port: u16, peer: SocketAddr, why: &'static str) {
        self.bite(limit);
        self.say(why, port, peer, &format_args!("reset (limit {limit})"));
    }

    fn bite(&self, limit: &'static str) {
        *lock(&self.bites).entry(limit).or_default() += 1;
    }

    /// Says a trouble that may come back a thousand times a second: at once the first time, then
    /// only counted for a while. `port` is the public port that it is about, or 0.
    fn say(&self, what: &'static str, port: u16, peer: SocketAddr, why: &dyn Display) {
        match lock(&self.repeats).note((what, port), Instant::now()) {
            Some(0) => info!(%peer, port = (port > 0).then_some(port), "{what}: {why}"),
            Some(more) => info!(%peer, port = (port > 0).then_some(port), more, "{what}: {why}"),
            None => debug!(%peer, port = (port > 0).then_some(port), "{what}: {why}"),
        }
    }

    fn say_repeats(&self) {
        let due = lock(&self.repeats).due(Instant::now());
        for ((what, port), more) in due {
            info!(port = (port > 0).then_some(port), "{what}: {more} more like this");
        }
    }
}

/// Ends a connection so that its peer sees a failure, never an end-of-file.
fn reset(stream: TcpStream) {
    Socket::from(stream).abort();
}

/// Waits until the peer resets the connection, or it is found dead. An end-of-file is neither: the
/// peer may have said all it had to say. Cancel safe.
async fn aborted(stream: &TcpStream) {
    // An error here has the same cause as one there.
    let _ = stream.ready(Interest::ERROR).await;
}
