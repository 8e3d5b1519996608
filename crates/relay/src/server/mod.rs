//! The relay itself: a control port for clients, and a public port for each tunnel.
//!
//! The way of a connection: [`Server::run`] accepts it on the control port, `handshake` learns in
//! bounded time what it wants, and hands it to `multiplex`, `pool` or `event`. These own the tunnel
//! (`tunnel`): its public port, its users, its two lines in the log.

mod event;
mod handshake;
mod identities;
mod limits;
mod matching;
mod multiplex;
mod pending;
mod pool;
mod ports;
mod registry;
mod tls;
mod tunnel;
mod workers;

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use relay_net::socket::{self, Socket};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

pub use self::limits::Limits;
use self::pending::Pending;
use self::pool::Pool;
use self::registry::{Names, Ports, lock};
use self::workers::Workers;
use crate::repeats::Repeats;

/// How often a trouble that keeps coming back is said.
const REPEATS_EVERY: Duration = Duration::from_secs(10);

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
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ports: PortRange::AboveControl,
            public_address: Ipv6Addr::UNSPECIFIED.into(),
            threads: 1,
            limits: Limits::default(),
        }
    }
}

/// The ports that tunnels get: always the lowest free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRange {
    /// All above the control port.
    AboveControl,
    /// From the first to the second, both included.
    FromTo(u16, u16),
}

impl PortRange {
    /// The first and the last.
    fn ends(self, control: u16) -> (u16, u16) {
        match self {
            // Above 65535 there is none; the control port itself is in use.
            Self::AboveControl => (control.saturating_add(1), u16::MAX),
            Self::FromTo(first, last) => (first, last),
        }
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
        loop {
            let newcomer = async {
                relay.pending.settle().await;
                socket::accept(&listener).await
            };
            tokio::select! {
                (stream, peer) = newcomer => relay.greet(stream, peer),
                _ = repeats.tick() => relay.say_repeats(),
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
        info!("relay stopped");
        Ok(())
    }
}

/// What all tasks of one server share.
struct Relay {
    config: Config,
    /// The first and the last port that tunnels get.
    range: (u16, u16),
    ports: Ports,
    /// Each leads to a user who waits for the connection that claims it.
    tickets: Names<oneshot::Sender<Claim>>,
    pools: Names<Arc<Pool>>,
    pending: Pending,
    repeats: Mutex<Repeats<(&'static str, u16)>>,
    /// Nobody new is served any more, and nobody waits.
    draining: CancellationToken,
    /// Users who are still served are reset.
    reset: CancellationToken,
    tasks: TaskTracker,
    workers: Workers,
}

/// A connection that claims a user, and what was read from it already.
type Claim = (TcpStream, Vec<u8>);

impl Relay {
    fn new(control: SocketAddr, config: Config) -> io::Result<Self> {
        Ok(Self {
            range: config.ports.ends(control.port()),
            ports: Ports::default(),
            tickets: Names::default(),
            pools: Names::default(),
            pending: Pending::new(config.limits.pending_handshakes, config.limits.crowding_grace),
            repeats: Mutex::new(Repeats::new(REPEATS_EVERY)),
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

    fn greet(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let place = self.pending.enter(peer.ip());
        self.tasks.spawn(handshake::greet(self.clone(), stream, peer, place));
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
