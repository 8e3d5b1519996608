//! What the tunnels of all protocols have in common: the public port, the count of what passed, the
//! lines in the log.

use std::fmt;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use relay_net::pipe::{End, Moved};
use relay_net::socket;
use relay_proto::handshake::Protocol;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::pending::{Pending, Place};
use super::registry::ReservedPort;
use super::workers::Home;
use super::{Limits, Relay, reset};

/// A public port: its listener, its place among our ports, which goes after the listener, and its
/// users who wait.
pub(super) struct PublicPort {
    listener: TcpListener,
    port: ReservedPort,
    waiting: Pending,
}

/// Why there is no public port for a client.
#[derive(Debug)]
pub(super) enum NoPort {
    AllTaken,
    Failed(u16, io::Error),
}

impl Display for NoPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllTaken => f.write_str("all public ports are taken"),
            Self::Failed(port, error) => write!(f, "cannot listen on port {port}: {error}"),
        }
    }
}

impl PublicPort {
    /// Opens the first free port.
    pub(super) async fn open(relay: &Relay) -> Result<Self, NoPort> {
        let (mut first, last) = relay.range;
        loop {
            let port = relay.ports.reserve(first, last).ok_or(NoPort::AllTaken)?;
            match socket::listen(SocketAddr::new(relay.config.public_address, port.number())) {
                Ok(listener) => {
                    let Limits { waiting_users, waiting_grace, .. } = *relay.limits();
                    return Ok(Self { listener, port, waiting: Pending::new(waiting_users, waiting_grace) });
                }
                // Another program has it, or we may not have it: the next may do.
                Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {
                    first = port.number().checked_add(1).ok_or(NoPort::AllTaken)?;
                }
                Err(error) => return Err(NoPort::Failed(port.number(), error)),
            }
            // Thousands of ports may be taken; other tasks need not wait for that.
            tokio::task::coop::consume_budget().await;
        }
    }

    /// The same at the home of its tunnel; to be called there.
    pub(super) fn brought(self, home: &Home) -> io::Result<Self> {
        Ok(Self { listener: home.bring(self.listener)?, ..self })
    }

    fn number(&self) -> u16 {
        self.port.number()
    }

    /// The next user, and its place among those who wait, to be kept until it is served. Never fails;
    /// cancel safe.
    pub(super) async fn accept(&self) -> (TcpStream, SocketAddr, Place) {
        self.waiting.settle().await;
        let (user, address) = socket::accept(&self.listener).await;
        let place = self.waiting.enter(address.ip());
        (user, address, place)
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
    pub(super) port: u16,
    client: SocketAddr,
    protocol: Protocol,
    opened: Instant,
    users: AtomicU64,
    reason: OnceLock<String>,
}

impl Tunnel {
    /// Opens a tunnel on the first free port; the client is yet to be told.
    pub(super) async fn open(
        relay: &Arc<Relay>,
        client: SocketAddr,
        protocol: Protocol,
    ) -> Result<(Arc<Self>, PublicPort), NoPort> {
        let public = PublicPort::open(relay).await?;
        let port = public.number();
        info!(peer = %client, %protocol, port, "tunnel opened");
        let tunnel = Self {
            over: relay.draining.child_token(),
            relay: relay.clone(),
            home: relay.workers.home(),
            moved: Moved::default(),
            port,
            client,
            protocol,
            opened: Instant::now(),
            users: AtomicU64::new(0),
            reason: OnceLock::new(),
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

    /// Takes no more users. The first reason given is the one that the log shows.
    pub(super) fn end(&self, reason: &dyn Display) {
        let reason = self.reason.get_or_init(|| reason.to_string());
        debug!(peer = %self.client, protocol = %self.protocol, port = self.port, reason, "tunnel takes no more users");
        self.over.cancel();
    }

    /// Carries one user to the end of the pipe, or until the server resets who is left.
    pub(super) async fn carry(&self, user: SocketAddr, pipe: impl Future<Output = End>) {
        self.users.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            end = pipe => match end {
                // This one is the relay's own doing.
                End::Stalled => self.relay.say("user reset", self.port, user, &end),
                end => debug!(%user, port = self.port, "user left: {end}"),
            },
            () = self.relay.reset.cancelled() => debug!(%user, port = self.port, "user reset: the relay stopped"),
        }
    }

    /// Resets a user who lost its place among those who wait.
    pub(super) fn crowded_out(&self, user: TcpStream, address: SocketAddr) {
        self.refused(user, address, "too many users wait");
    }

    /// Resets a user who cannot be served, and says why.
    pub(super) fn refused(&self, user: TcpStream, address: SocketAddr, why: &'static str) {
        reset(user);
        self.relay.say(why, self.port, address, &"the user was reset");
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let reason = self.reason.get().map_or("the client was not reached", String::as_str);
        info!(
            peer = %self.client,
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
