//! What the tunnels of all protocols have in common: the public port, the count of what passed, the
//! lines in the log.

use std::fmt;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use relay_net::pipe::{Beginning, End, Moved};
use relay_net::rate::Bucket;
use relay_net::{mux, socket};
use relay_proto::handshake::{Code, Options, Protocol};
use relay_proto::proxy::Version;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::belonging::Client;
use super::identities::{Account, Counted};
use super::origin::{self, Introductions, NoHeader, Origin};
use super::pending::{Pending, Place};
use super::ports::{Ask, Asker, NoPort, ReservedPort, Standing};
use super::registry::lock;
use super::sources::{Excess, Source, Visit};
use super::workers::Home;
use super::{Limits, Relay, reset};

/// How long an older tunnel of the same identity may take to show that its client is still there: 2 s of silence,
/// and what it takes to end it.
const CONTEST: Duration = Duration::from_millis(2500);

/// What is said of a user from elsewhere than a balancer who speaks as one.
const NOT_LISTED: &str =
    "a user began with a PROXY header; if it is your balancer, list its network in `proxy_protocol`";

/// What is said of a user for whom there is no file descriptor.
const NO_DESCRIPTORS: &str = "the process has no room for more users";

/// What is said of a user who lost its place.
const CROWDED: &str = "too many users wait";

/// What is said of a user who was reset for the room of others.
const STALLED: &str = "a user took no bytes while others needed the memory";

/// Why there is no tunnel for a client.
#[derive(Debug)]
pub(super) enum NoTunnel {
    NotAllowed(u16),
    Taken(u16),
    AllTaken,
    TooMany(usize),
    Failed(u16, io::Error),
    NotWritten(io::Error),
}

impl NoTunnel {
    pub(super) fn code(&self) -> Code {
        match self {
            Self::NotAllowed(_) => Code::PortNotAllowed,
            Self::Taken(_) => Code::PortTaken,
            Self::AllTaken | Self::Failed(..) | Self::NotWritten(_) => Code::NoPort,
            Self::TooMany(_) => Code::TooManyTunnels,
        }
    }
}

impl Display for NoTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed(port) => write!(f, "port {port} is not among those it may have"),
            Self::Taken(port) => write!(f, "port {port} is in use"),
            Self::AllTaken => f.write_str("all public ports are taken"),
            Self::TooMany(most) => write!(f, "the identity has its {most} tunnels"),
            Self::Failed(port, error) => write!(f, "cannot listen on port {port}: {error}"),
            Self::NotWritten(error) => write!(f, "the port cannot be written down: {error}"),
        }
    }
}

/// A public port: its listener, its place among our ports, which goes after the listener, and its
/// users who wait.
pub(super) struct PublicPort {
    listener: TcpListener,
    port: ReservedPort,
    waiting: Waiting,
    introductions: Introductions,
}

/// The users who wait for a tunnel, which give its client's source room for as many handshakes.
struct Waiting {
    relay: Arc<Relay>,
    source: Source,
    crowd: Pending,
}

impl Waiting {
    fn new(relay: &Arc<Relay>, client: SocketAddr) -> Self {
        let Limits { waiting_users, waiting_grace, .. } = *relay.limits();
        let (crowd, source) = (Pending::new(waiting_users, waiting_grace), Source::from(client.ip()));
        lock(&relay.waiting).entry(source).or_default().push(crowd.clone());
        Self { relay: relay.clone(), source, crowd }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = lock(&self.relay.waiting);
        if let Some(crowds) = waiting.get_mut(&self.source) {
            crowds.retain(|crowd| !crowd.is(&self.crowd));
            if crowds.is_empty() {
                waiting.remove(&self.source);
            }
        }
    }
}

/// A user who was let in.
pub(super) struct User {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
    pub(super) beginning: Beginning,
    /// Among those who wait, until it is served.
    pub(super) place: Place,
    /// Until it is gone.
    pub(super) stay: Stay,
}

/// What a user takes of each limit, until it is gone.
pub(super) struct Stay {
    _room: OwnedSemaphorePermit,
    _visit: Visit,
    _counted: Option<Counted>,
}

impl PublicPort {
    /// Opens the port that is asked for, or the first free one.
    async fn open(relay: &Arc<Relay>, client: SocketAddr, asker: &Asker, mut ask: Ask) -> Result<Self, NoTunnel> {
        let mut contested = false;
        loop {
            let mut port = match relay.ports.reserve(asker, ask) {
                Ok(port) => port,
                Err(NoPort::Contested(_, older)) if !contested => {
                    contested = true;
                    older.contest(CONTEST).await;
                    continue;
                }
                Err(NoPort::Contested(..)) if !matches!(ask, Ask::Demand(_)) => {
                    ask = Ask::Other(0);
                    continue;
                }
                Err(NoPort::Contested(port, _) | NoPort::Taken(port)) => return Err(NoTunnel::Taken(port)),
                Err(NoPort::NotAllowed(port)) => return Err(NoTunnel::NotAllowed(port)),
                Err(NoPort::AllTaken) => return Err(NoTunnel::AllTaken),
                Err(NoPort::TooMany(most)) => return Err(NoTunnel::TooMany(most)),
            };
            let number = port.number();
            match socket::listen_alone(SocketAddr::new(relay.config.public_address, number)) {
                Ok(listener) => {
                    port.used();
                    let (waiting, introductions) = (Waiting::new(relay, client), Introductions::new());
                    return Ok(Self { listener, port, waiting, introductions });
                }
                // Another program has it, or we may not have it: the next may do.
                Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {
                    ask = match ask {
                        Ask::Demand(port) => return Err(NoTunnel::Taken(port)),
                        Ask::Wish(_) => Ask::Other(0),
                        // Both: what cannot be bound may have been the service's own.
                        Ask::Any(_) if asker.service.is_some() => Ask::Other(0),
                        Ask::Any(_) | Ask::Other(_) => Ask::Other(number.checked_add(1).ok_or(NoTunnel::AllTaken)?),
                    };
                }
                Err(error) => return Err(NoTunnel::Failed(number, error)),
            }
            // Thousands of ports may be taken; other tasks need not wait for that.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// The same at the home of its tunnel; to be called there.
    pub(super) fn brought(self, home: &Home) -> io::Result<Self> {
        Ok(Self { listener: home.bring(self.listener)?, ..self })
    }

    /// The next user who may come in; the others are reset. Never fails; cancel safe.
    pub(super) async fn accept(&self, tunnel: &Tunnel) -> User {
        loop {
            let newcomer = async {
                self.waiting.crowd.settle().await;
                socket::accept(&self.listener).await
            };
            let (stream, origin) = tokio::select! {
                (stream, origin, _) = self.introductions.next() => (stream, origin),
                (stream, address) = newcomer => {
                    if tunnel.relay.balancers.contains(address.ip()) {
                        self.hear(tunnel, stream, address);
                        continue;
                    }
                    (stream, Origin::direct(address))
                }
            };
            let address = origin.address;
            match tunnel.admit(&stream, address) {
                Ok(stay) => {
                    let place = self.waiting.crowd.enter(address.ip());
                    let beginning = tunnel.beginning(&stream, &origin);
                    return User { stream, address, beginning, place, stay };
                }
                Err((limit, why)) => {
                    reset(stream);
                    tunnel.relay.refuse(limit, tunnel.port, address, why);
                }
            }
        }
    }

    /// Has a balancer say whom it brings; [`accept`](Self::accept) sees the user then.
    fn hear(&self, tunnel: &Tunnel, stream: TcpStream, balancer: SocketAddr) {
        if tunnel.relay.descriptors.is_reserve(&stream) {
            reset(stream);
            return tunnel.relay.refuse("descriptors", tunnel.port, balancer, NO_DESCRIPTORS);
        }
        let mut place = self.waiting.crowd.enter(balancer.ip());
        let (relay, over, port) = (tunnel.relay.clone(), tunnel.over.clone(), tunnel.port);
        let introductions = self.introductions.sender();
        tunnel.relay.tasks.spawn(async move {
            let origin = tokio::select! {
                biased;
                origin = timeout(relay.limits().proxy_header, origin::read(&stream, balancer)) => {
                    origin.unwrap_or(Err(NoHeader::Late))
                }
                () = place.pushed_out() => {
                    reset(stream);
                    return relay.refuse("waiting_users", port, balancer, CROWDED);
                }
                () = over.cancelled() => return reset(stream),
            };
            match origin {
                Ok(origin) => {
                    if let Err(mpsc::error::SendError((stream, ..))) = introductions.send((stream, origin, place)) {
                        reset(stream);
                    }
                }
                Err(why) => {
                    reset(stream);
                    relay.no_header(port, balancer, &why);
                }
            }
        });
    }

    /// Waits until a newer client of the same identity wants the port. Cancel safe.
    pub(super) async fn contested(&self) {
        self.port.standing().contested().await;
    }

    pub(super) fn standing(&self) -> &Arc<Standing> {
        self.port.standing()
    }
}

/// Whom a tunnel lets in: who is in one of the networks of each list that has any, and in none of the refused.
struct Access {
    /// The operator's.
    allow: Vec<IpNet>,
    refuse: Vec<IpNet>,
    /// The client's, which can only narrow it.
    client: Vec<IpNet>,
}

impl Access {
    fn admits(&self, address: IpAddr) -> bool {
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        [&self.allow, &self.client].iter().all(|networks| networks.is_empty() || within(networks))
            && !within(&self.refuse)
    }
}

/// A tunnel, from its opening until its last user is gone: then, with the last reference, its line
/// about the end is written.
pub(super) struct Tunnel {
    pub(super) relay: Arc<Relay>,
    /// Where all its tasks run.
    pub(super) home: Home,
    /// It takes no more users, and those who wait are to be reset.
    pub(super) over: CancellationToken,
    pub(super) moved: Moved,
    /// Bytes a second of all its users, if there is a bound.
    pub(super) rate: Option<Arc<Bucket>>,
    pub(super) port: u16,
    pub(super) client: Client,
    /// The client is told where each user is.
    pub(super) proxied: bool,
    /// The client may not use the relay any more: its users are reset.
    cut: CancellationToken,
    address: SocketAddr,
    protocol: Protocol,
    access: Access,
    opened: Instant,
    users: AtomicU64,
    /// Room for more users at once.
    room: Arc<Semaphore>,
    reason: OnceLock<String>,
    _counted: Option<Counted>,
}

impl Tunnel {
    /// Opens a tunnel; the client is yet to be told.
    pub(super) async fn open(
        relay: &Arc<Relay>,
        address: SocketAddr,
        protocol: Protocol,
        client: Client,
        options: &Options,
    ) -> Result<(Arc<Self>, PublicPort), NoTunnel> {
        let account = client.account();
        let asker = relay.asker(&client, options);
        let ask = match (options.port, options.wish) {
            (Some(port), _) => Ask::Demand(port),
            (None, Some(port)) => Ask::Wish(port),
            (None, None) => Ask::Any(0),
        };
        let public = PublicPort::open(relay, address, &asker, ask).await?;
        if account.is_some() {
            relay.write_reservations().await.map_err(NoTunnel::NotWritten)?;
        }
        let port = public.port.number();
        let identity = account.map(|account| account.identity.name.as_str());
        info!(peer = %address, identity, %protocol, port, "tunnel opened");
        let rights = account.map(|account| account.identity.rights.clone()).unwrap_or_default();
        let tunnel = Self {
            over: relay.draining.child_token(),
            relay: relay.clone(),
            home: relay.workers.home(),
            moved: Moved::default(),
            rate: rights.bandwidth.or(relay.limits().bandwidth).map(|rate| bucket(relay, rate, port, address)),
            port,
            proxied: options.proxy,
            cut: account.map_or_else(CancellationToken::new, |account| account.cut.clone()),
            address,
            protocol,
            access: Access { allow: rights.allow, refuse: rights.refuse, client: options.allow.clone() },
            opened: Instant::now(),
            users: AtomicU64::new(0),
            room: Arc::new(Semaphore::new(relay.limits().users_per_tunnel.min(Semaphore::MAX_PERMITS))),
            reason: OnceLock::new(),
            _counted: account.map(Account::tunnel),
            client,
        };
        Ok((Arc::new(tunnel), public))
    }

    /// Runs a task at the tunnel's home.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.home.spawn(&self.relay.tasks, task);
    }

    pub(super) fn limits(&self) -> &Limits {
        self.relay.limits()
    }

    /// What its link may do, if it has one.
    pub(super) fn link_config(&self) -> mux::Config {
        let mut config = self.limits().link.clone();
        config.rate.clone_from(&self.rate);
        config.session.budget = Some(self.relay.memory.clone());
        config
    }

    /// Whether a user may come in; if not, the limit that it met and a sentence about it.
    fn admit(&self, stream: &TcpStream, address: SocketAddr) -> Result<Stay, (&'static str, &'static str)> {
        if !self.access.admits(address.ip()) {
            return Err(("allow", "a user from a network that is not let in"));
        }
        if self.relay.descriptors.is_reserve(stream) {
            return Err(("descriptors", NO_DESCRIPTORS));
        }
        let room = self.room.clone().try_acquire_owned();
        let room = room.map_err(|_| ("users_per_tunnel", "the tunnel has no room for more users"))?;
        let visit = self.relay.sources.enter(address.ip()).map_err(|excess| match excess {
            Excess::Users => ("users_per_source", "too many users from one source"),
            Excess::Rate => ("new_users_per_source", "users of one source come too fast"),
        })?;
        let counted = match self.client.account().map(Account::user) {
            Some(None) => return Err(("max_users", "the identity has no room for more users")),
            Some(counted) => counted,
            None => None,
        };
        Ok(Stay { _room: room, _visit: visit, _counted: counted })
    }

    /// How the bytes of a user from there begin.
    fn beginning(&self, stream: &TcpStream, origin: &Origin) -> Beginning {
        let line = self.proxied.then(|| origin.header(stream).encode(Version::V1));
        let refuses = self.relay.balancers.refuses().filter(|_| origin.is_direct());
        Beginning { ahead: line.unwrap_or_default(), refuses }
    }

    /// Waits until the tunnel has to take no more users, for a reason of the relay's, and says which. Cancel safe.
    pub(super) async fn ending(&self) -> &'static str {
        tokio::select! {
            () = self.over.cancelled() => "the relay stops",
            () = self.cut.cancelled() => "the identity may not use the relay any more",
        }
    }

    /// Waits until all users that are left are to be reset. Cancel safe.
    pub(super) async fn reset(&self) {
        tokio::select! {
            () = self.relay.reset.cancelled() => {}
            () = self.cut.cancelled() => {}
        }
    }

    /// Takes no more users. The first reason given is the one that the log shows.
    pub(super) fn end(&self, reason: &dyn Display) {
        let reason = self.reason.get_or_init(|| reason.to_string());
        debug!(peer = %self.address, protocol = %self.protocol, port = self.port, reason, "tunnel takes no more users");
        self.over.cancel();
    }

    /// Carries one user to the end of the pipe, or until who is left is reset.
    pub(super) async fn carry(&self, user: SocketAddr, pipe: impl Future<Output = End>) {
        self.users.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            end = pipe => match end {
                // These are the relay's own doing.
                End::Stalled => self.relay.refuse("memory_per_session", self.port, user, STALLED),
                End::CrowdedOut => self.relay.refuse("memory", self.port, user, STALLED),
                End::Refused => self.relay.refuse("proxy_protocol", self.port, user, NOT_LISTED),
                end => debug!(%user, port = self.port, "user left: {end}"),
            },
            () = self.reset() => debug!(%user, port = self.port, "user reset: the tunnel was ended"),
        }
    }

    /// Resets a user who lost its place among those who wait.
    pub(super) fn crowded_out(&self, user: TcpStream, address: SocketAddr) {
        reset(user);
        self.relay.refuse("waiting_users", self.port, address, CROWDED);
    }

    /// Resets a user who cannot be served, and says why.
    pub(super) fn refused(&self, user: TcpStream, address: SocketAddr, why: &'static str) {
        reset(user);
        self.relay.say(why, self.port, address, &"the user was reset");
    }
}

/// The rate of a tunnel, which says when it first slows somebody.
fn bucket(relay: &Arc<Relay>, rate: u64, port: u16, client: SocketAddr) -> Arc<Bucket> {
    let relay = relay.clone();
    Arc::new(Bucket::new(rate, move || {
        relay.bite("bandwidth");
        relay.say("the users of a tunnel are slowed", port, client, &"limit bandwidth");
    }))
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let reason = self.reason.get().map_or("the client was not reached", String::as_str);
        info!(
            peer = %self.address,
            identity = self.client.account().map(|account| account.identity.name.as_str()),
            protocol = %self.protocol,
            port = self.port,
            users = self.users.load(Ordering::Relaxed),
            bytes_up = self.moved.up.load(Ordering::Relaxed),
            bytes_down = self.moved.down.load(Ordering::Relaxed),
            seconds = (self.opened.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            reason,
            "tunnel closed"
        );
    }
}
