//! A tunnel whose users take spare connections.
//!
//! An idle member hears nothing before its user's first byte. What it hears when it is closed instead
//! is ambiguous: a user who finishes sending without a byte looks like a relay that closes the member.
//! - An abort is never a user's: the member is replaced.
//! - An end within [`REFUSED_WITHIN`] of joining counts as a refusal.
//! - A later end is a user's while another member is idle a moment later: a relay that goes away ends
//!   all members at once, a user only one. If none is idle, joining again shows whether the pool is
//!   still known: a burst of silent users must not cost the tunnel its address.
//!
//! Refusals count when each answers a join that came after the one before. Those that arrive together
//! are one piece of evidence, or such a burst could fake them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use relay_net::socket::{watch_always_reading, watch_carrying};
use relay_proto::handshake::{Id, Request};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::tunnel::Users;
use crate::{Backoff, Connection, Error, Lost, dial_addr};

/// How many idle members a pool keeps unless told otherwise.
pub const DEFAULT_MEMBERS: usize = 8;

/// A member that ends this soon after joining, without a byte, was refused.
pub const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// So many members refused in a row mean that the relay no longer knows the pool.
pub const MAX_REFUSED: u32 = 3;

/// How far apart the ends of the members may arrive when the relay closes them all.
const MOMENT: Duration = Duration::from_millis(250);

pub(crate) struct PoolTunnel {
    first: TcpStream,
    /// What the first member's user sent right behind the answer.
    early: Vec<u8>,
    /// The relay itself, whatever other addresses its name has.
    peer: SocketAddr,
    pool: Id,
    members: usize,
}

impl PoolTunnel {
    pub(crate) fn new(first: TcpStream, early: Vec<u8>, peer: SocketAddr, pool: Id, members: usize) -> Self {
        Self { first, early, peer, pool, members: members.max(1) }
    }

    pub(crate) async fn serve(self, users: &Users) -> Option<Lost> {
        tokio::select! {
            lost = self.keep_full(users) => Some(lost),
            // Idle members are dropped, and so closed.
            () = users.closed() => None,
        }
    }

    /// Delivers members that users took and replaces all that end, until the relay has lost the pool.
    async fn keep_full(self, users: &Users) -> Lost {
        let Self { first, early, peer, pool, members: wanted } = self;
        let health = Arc::new(Health::default());
        let mut members = JoinSet::new();
        members.spawn(wait(first, early, Idle::new(&health)));
        let mut backoff = Backoff::new();
        let mut pause = Duration::ZERO;
        let mut taken = None;
        let mut refused = 0;
        let mut last_refused = Instant::now();
        loop {
            while members.len() < wanted {
                let (users, pool, health) = (users.clone(), pool.clone(), health.clone());
                members.spawn(async move {
                    sleep(pause).await;
                    match join(peer, pool, &users).await {
                        Ok(member) => wait(member, Vec::new(), Idle::new(&health)).await,
                        Err(cause) => Fate::Failed(cause),
                    }
                });
            }
            if let Some(user) = taken.take() {
                users.deliver(user).await;
            }
            let Some(Ok(fate)) = members.join_next().await else {
                // At least one member is always there, and none panics.
                return Lost::NoMembers;
            };
            if health.proven.swap(false, Ordering::Relaxed) {
                refused = 0;
                backoff.reset();
            }
            let none_idle = health.idle.load(Ordering::Relaxed) == 0;
            pause = match fate {
                Fate::Taken(member, early) => {
                    taken = Some(Connection::from_socket(member, early, users.live.token()));
                    Duration::ZERO
                }
                Fate::Ended => Duration::ZERO,
                Fate::Refused { joined } if joined < last_refused => pause,
                Fate::Refused { .. } => {
                    refused += 1;
                    if refused == MAX_REFUSED {
                        return Lost::MembersRefused(MAX_REFUSED);
                    }
                    last_refused = Instant::now();
                    backoff.next(&mut rand::rng())
                }
                Fate::Aborted | Fate::Failed(_) if none_idle => return Lost::NoMembers,
                Fate::Aborted => backoff.next(&mut rand::rng()),
                Fate::Failed(cause) => {
                    users.events.trouble(cause);
                    backoff.next(&mut rand::rng())
                }
            };
        }
    }
}

/// What became of an idle member.
enum Fate {
    /// It is a user's.
    Taken(TcpStream, Vec<u8>),
    /// The relay closed it as soon as it joined.
    Refused { joined: Instant },
    /// It was closed later, and all others with it.
    Ended,
    /// The connection failed.
    Aborted,
    /// It could not join.
    Failed(Error),
}

/// How the members of one pool are doing.
#[derive(Default)]
struct Health {
    idle: AtomicUsize,
    /// A member was not refused: the relay knows the pool. Taken note of, and taken back, by the pool.
    proven: AtomicBool,
}

/// Counts a member as idle while it lives.
struct Idle(Arc<Health>);

impl Idle {
    fn new(health: &Arc<Health>) -> Self {
        health.idle.fetch_add(1, Ordering::Relaxed);
        Self(health.clone())
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.0.idle.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Dials one more member.
async fn join(peer: SocketAddr, pool: Id, users: &Users) -> Result<TcpStream, Error> {
    let mut member = dial_addr(peer).await?;
    let io_error = |source| Error::Io { relay: users.relay.clone(), source };
    watch_always_reading(&member).map_err(io_error)?;
    member.write_all(Request::PoolJoin(pool).to_string().as_bytes()).await.map_err(io_error)?;
    Ok(member)
}

/// Waits until the fate is known of a member that joins now.
async fn wait(member: TcpStream, early: Vec<u8>, idle: Idle) -> Fate {
    let joined = Instant::now();
    let heard = || async { if early.is_empty() { member.peek(&mut [0]).await } else { Ok(early.len()) } };
    let (fresh, heard) = if let Ok(heard) = timeout(REFUSED_WITHIN, heard()).await {
        (true, heard)
    } else {
        idle.0.proven.store(true, Ordering::Relaxed);
        (false, heard().await)
    };
    let health = idle.0.clone();
    drop(idle);
    match heard {
        Ok(1..) => health.proven.store(true, Ordering::Relaxed),
        _ if fresh => return Fate::Refused { joined },
        Ok(0) => {
            sleep(MOMENT).await;
            if health.idle.load(Ordering::Relaxed) == 0 {
                return Fate::Ended;
            }
        }
        Err(_) => return Fate::Aborted,
    }
    match watch_carrying(&member) {
        Ok(()) => Fate::Taken(member, early),
        Err(_) => Fate::Aborted,
    }
}
