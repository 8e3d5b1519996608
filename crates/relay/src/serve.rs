//! What `relay server` puts together: its plan, its state, the server, and who changes it while that runs.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use relay_net::socket;
use relay_proto::identity::Name;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::config;
use crate::identity::Identity;
use crate::plan::ServerPlan;
use crate::server::{
    self, Anonymous, Certificate, Config, FileError, Files, Identities, Limits, PortRange, Server, Tls, TlsSettings,
    WriteReservations,
};
use crate::state::{
    self, ChangeError, Control, Cut, Directory, Facts, Handler, Listed, Locked, Reservations, StateError, Usage,
};

/// Why a server does not start, or has ended. `Display` says what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// The control port cannot be had.
    Listen(SocketAddr, io::Error),
    /// The state cannot be used.
    State(StateError),
    /// The configured certificate cannot be used.
    Certificate(FileError),
    /// The state's own certificate cannot be used.
    OwnCertificate(rustls::Error),
    /// The system gives no threads.
    Start(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => {
                write!(f, "cannot listen on {address}: {error}; {}", listen_hint(error.kind()))
            }
            Self::State(error) => error.fmt(f),
            Self::Certificate(error) => error.fmt(f),
            Self::OwnCertificate(error) => write!(f, "the state's certificate cannot be used: {error}"),
            Self::Start(error) => write!(f, "cannot start: {error}"),
        }
    }
}

fn listen_hint(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => "stop what listens there, or choose another port",
        io::ErrorKind::AddrNotAvailable => "choose an address of this machine, or [::] for all it has",
        io::ErrorKind::PermissionDenied => "choose a port from 1024 up, or ask for the right to use this one",
        _ => "choose another address with --listen ADDR:PORT",
    }
}

impl std::error::Error for ServeError {}

impl From<StateError> for ServeError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

/// Serves as the original does, open to everyone, until `shutdown` completes.
///
/// # Errors
/// The port cannot be had, or the system gives no threads.
pub async fn original(listen: SocketAddr, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
    let config = Config { public_address: listen.ip(), threads: threads(), ..Config::default() };
    Server::run(bind(listen)?, config, shutdown).await.map_err(ServeError::Start)
}

/// Serves as planned, until `shutdown` completes.
///
/// # Errors
/// Something that it needs cannot be had: nothing was served.
pub async fn run(plan: ServerPlan, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
    let Some(directory) = directory(&plan)? else {
        let listener = bind(plan.listen)?;
        warn!("{}", open_warning(plan.listen));
        let config = config(&plan, None, Identities::new([]));
        return Server::run(listener, config, shutdown).await.map_err(ServeError::Start);
    };
    let is_new = directory.is_new();
    let locked = match directory.lock() {
        // Whoever may come without an identity needs no state.
        Err(StateError::InUse { path }) if may_go_without(&plan) => {
            warn!("another server uses {}: serving without a state, in plain text only", path.display());
            let config = config(&plan, None, Identities::new([]));
            let listener = bind(plan.listen)?;
            warn!("{}", open_warning(plan.listen));
            return Server::run(listener, config, shutdown).await.map_err(ServeError::Start);
        }
        locked => Arc::new(locked?),
    };
    let stored = state::Identities::load(&locked, plan.identities.iter().cloned())?;
    let kept = Reservations::load(&locked)?;
    let own = state::Certificate::load_or_make(&locked)?;
    let own = Certificate::new(vec![own.der()], own.key()).map_err(ServeError::OwnCertificate)?;
    let files = plan.tls.files.clone().map(|(certificate, key)| Files { certificate, key });
    let names = files.as_ref().map(Certificate::from_files).transpose().map_err(ServeError::Certificate)?;
    let names = names.map(|certificate| state::certificate_names(certificate.der()));
    let tls12 = plan.tls.tls12.unwrap_or(false);
    let tls = Tls::new(TlsSettings { own, files, tls12 }).map_err(ServeError::Certificate)?;
    if is_new {
        stored.store(&locked)?;
    }

    let listener = bind(plan.listen)?;
    let listen = listener.local_addr().map_err(|error| ServeError::Listen(plan.listen, error))?;
    Facts { listen, open: plan.open, host: plan.host.clone(), certificate: names }.store(&locked)?;
    tell(&plan, &locked.path().display().to_string(), is_new, stored.iter().next().is_none());

    let live = Identities::new(stored.iter().cloned());
    let mut config = config(&plan, Some(Arc::new(tls)), live.clone());
    config.reservations = kept.into_iter().map(from_stored).collect();
    let writer = locked.clone();
    config.write_reservations = Some(WriteReservations(Arc::new(move |reservations| {
        let reservations: Vec<_> = reservations.into_iter().map(to_stored).collect();
        Reservations::store(&writer, &reservations).map_err(io::Error::other)
    })));
    let control = Control::bind(&locked)?;
    let admin = Arc::new(Admin { locked, stored: Mutex::new(stored), live });
    // It ends with the server.
    let _control = AbortOnDropHandle::new(tokio::spawn(control.serve(admin)));
    Server::run(listener, config, shutdown).await.map_err(ServeError::Start)
}

/// Whether nothing in the plan needs a state.
fn may_go_without(plan: &ServerPlan) -> bool {
    plan.open && plan.state.is_none() && plan.identities.is_empty() && plan.tls.files.is_none()
}

/// Where the state is; `None` for an open server that has none.
fn directory(plan: &ServerPlan) -> Result<Option<Directory>, ServeError> {
    if may_go_without(plan) {
        return match Directory::find(None) {
            Ok(directory) => Ok(Some(directory)),
            Err(StateError::Missing { .. } | StateError::NoPlace | StateError::Several { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        };
    }
    Ok(Some(Directory::make(plan.state.as_deref())?))
}

fn bind(listen: SocketAddr) -> Result<TcpListener, ServeError> {
    socket::listen(listen).map_err(|error| ServeError::Listen(listen, error))
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// That anyone may use a server which listens there.
pub fn open_warning(listen: SocketAddr) -> String {
    format!("open to everyone: whoever reaches {listen} can open public ports on this machine")
}

/// Says what there is, and how to invite somebody.
fn tell(plan: &ServerPlan, state: &str, is_new: bool, is_empty: bool) {
    if is_new {
        info!("made a state in {state}: a self-signed certificate, and a list of identities that is empty");
    }
    if plan.open {
        warn!("{}, with an identity or without", open_warning(plan.listen));
    }
    if !plan.anonymous.networks.is_empty() {
        let networks: Vec<_> = plan.anonymous.networks.iter().map(ToString::to_string).collect();
        warn!("clients from {} are served without an identity, in plain text, too", networks.join(", "));
    }
    if plan.plain_text {
        warn!("identities are served in plain text, too: whoever is on the way can read and change what passes");
    }
    if is_empty {
        let named = plan.state.as_ref().map(|_| format!(" --state {state}")).unwrap_or_default();
        info!("nobody is invited yet; to invite somebody, type: relay invite NAME{named}");
    }
}

fn config(plan: &ServerPlan, tls: Option<Arc<Tls>>, identities: Identities) -> Config {
    Config {
        ports: plan.ports.map_or(PortRange::ThousandAboveControl, |(first, last)| PortRange::FromTo(first, last)),
        public_address: plan.bind,
        threads: threads(),
        limits: limits(plan),
        anonymous: Anonymous {
            everyone: plan.open,
            networks: plan.anonymous.networks.clone(),
            ports: plan.anonymous.ports,
        },
        balancers: plan.proxy_protocol.clone(),
        plain_text: plan.plain_text,
        tls,
        identities,
        ..Config::default()
    }
}

fn limits(plan: &ServerPlan) -> Limits {
    let config::Limits {
        handshakes,
        handshakes_per_source,
        failures_per_source,
        tunnels_per_identity: _,
        users_per_tunnel,
        users_per_source,
        new_users_per_source,
        waiting_users,
        bandwidth,
        memory_per_session,
        memory,
        descriptors,
        exempt,
    } = plan.limits.clone();
    let mut limits = Limits::default();
    set(&mut limits.pending_handshakes, handshakes);
    set(&mut limits.handshakes_per_source, handshakes_per_source);
    set(&mut limits.failures_per_source, failures_per_source);
    set(&mut limits.users_per_tunnel, users_per_tunnel);
    set(&mut limits.users_per_source, users_per_source);
    set(&mut limits.new_users_per_source, new_users_per_source);
    set(&mut limits.waiting_users, waiting_users);
    set(&mut limits.link.session.max_queued, memory_per_session.and_then(|bytes| bytes.try_into().ok()));
    limits.exempt = exempt.unwrap_or(limits.exempt);
    set(&mut limits.memory, memory.and_then(|bytes| bytes.try_into().ok()));
    limits.bandwidth = bandwidth;
    limits.descriptors = descriptors;
    limits.link.bbr = plan.bbr;
    limits
}

fn set(limit: &mut usize, configured: Option<usize>) {
    *limit = configured.unwrap_or(*limit);
}

/// The clock of the state's files is the system's, that of the server never steps.
fn from_stored(kept: state::Reservation) -> server::Reservation {
    let left = kept.until.map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
    server::Reservation {
        port: kept.port,
        owner: kept.identity,
        service: kept.service,
        until: left.map(|left| Instant::now() + left),
    }
}

fn to_stored(kept: server::Reservation) -> state::Reservation {
    let left = kept.until.map(|until| until.saturating_duration_since(Instant::now()));
    state::Reservation {
        port: kept.port,
        identity: kept.owner,
        service: kept.service,
        until: left.map(|left| SystemTime::now() + left),
    }
}

/// Makes changes in the state, then in the running server.
struct Admin {
    locked: Arc<Locked>,
    stored: Mutex<state::Identities>,
    live: Identities,
}

impl Admin {
    fn stored(&self) -> MutexGuard<'_, state::Identities> {
        // A change that failed half-way changed nothing.
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(status: Option<&server::Status>) -> Cut {
    status.map_or_else(Cut::default, |status| Cut { links: status.tunnels, users: status.users })
}

impl Handler for Admin {
    fn add(&self, identity: Identity, replace: bool) -> Result<Cut, ChangeError> {
        let mut stored = self.stored();
        stored.add(&self.locked, identity.clone(), replace)?;
        info!(identity = %identity.name, replace, "identity invited");
        Ok(cut(self.live.put(identity).as_ref()))
    }

    fn revoke(&self, name: &Name) -> Result<Cut, ChangeError> {
        let mut stored = self.stored();
        if stored.revoke(&self.locked, name)? {
            return Ok(Cut::default());
        }
        let cut = cut(self.live.revoke(name).as_ref());
        info!(identity = %name, links = cut.links, users = cut.users, "identity revoked");
        Ok(cut)
    }

    fn list(&self) -> Vec<Listed> {
        let live = self.live.list();
        let usage = |name: &Name| {
            let status = live.iter().find(|status| status.identity.name == *name)?;
            Some(Usage { tunnels: status.tunnels, users: status.users })
        };
        self.stored().list(usage)
    }
}
