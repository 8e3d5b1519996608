//! A tunnel whose users take spare connections.
//!
//! An idle member hears nothing before its user's first byte. What it hears when it is closed instead
//! is ambiguous: a user who finishes sending without a byte looks like a relay that closes the member.
//! - An end within [`REFUSED_WITHIN`] of joining counts as a refusal.
//! - A later end is a user's while another member is idle a moment later: a relay that goes away ends
//!   all members at once, a user only one. If none is idle, joining again shows whether the pool is
//!   still known: a burst of silent users must not cost the tunnel its address. So does an abort.
//! - A join that fails says nothing about the pool: the relay may keep it as long as we try.
//!
//! Where the relay says where users are, nothing is ambiguous: its line comes ahead of all that is a user's, and an end
//! without a line is the relay's doing.
//!
//! A member that is refused while the pool holds as many as it needs at least is no setback: a relay takes
//! only so many, and the stock follows.
//!
//! Setbacks count when each answers a join that came after the one before. Those that arrive together
//! are one piece of evidence, or a burst could fake a row of them. That other members are idle is no
//! evidence against refusals: a relay may have forgotten a pool and left its members open.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use relay_net::socket::Socket;
use relay_proto::handshake::{Id, Request};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::origin::NoLine;
use crate::reach::{Reach, next_bytes};
use crate::stock::Stock;
use crate::tunnel::Users;
use crate::{Connection, Error, Lost};

/// A member that ends this soon after joining, without a byte, was refused.
pub const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// So many members refused in a row mean that the relay no longer knows the pool.
pub const MAX_REFUSED: u32 = 3;

/// How long joining may fail, with no member left, before a new pool is tried for: a relay keeps an empty
/// pool no longer, and its name may by then stand for another address.
const KEPT_EMPTY: Duration = Duration::from_secs(30);

/// How far apart the ends of the members may arrive when the relay closes them all.
const MOMENT: Duration = Duration::from_millis(250);

/// How long a relay may take to end a pool that it was told to end.
const END_WAIT: Duration = Duration::from_secs(1);

pub(crate) struct PoolTunnel {
    first: Socket,
    /// What the first member's user sent right behind the answer.
    early: Vec<u8>,
    pool: NamedPool,
    /// How many members there are at least.
    least: usize,
}

/// A pool, as it is known at its relay.
#[derive(Clone)]
pub(crate) struct NamedPool {
    pub(crate) id: Id,
    /// The relay itself, whatever other addresses its name has.
    pub(crate) peer: SocketAddr,
    /// The relay says where users are.
    pub(crate) tells: bool,
    /// It can be told that the pool ends.
    pub(crate) ends: bool,
}

impl PoolTunnel {
    pub(crate) fn new(first: Socket, early: Vec<u8>, pool: NamedPool, least: usize) -> Self {
        Self { first, early, pool, least }
    }

    pub(crate) async fn serve(self, users: &Users) -> Option<Lost> {
        let pool = self.pool.clone();
        tokio::select! {
            lost = self.keep_full(users) => return Some(lost),
            // Idle members are dropped, and so closed.
            () = users.closed() => {}
        }
        if pool.ends {
            // A relay that is gone has no port to close.
            let _ = timeout(END_WAIT, pool.end(&users.reach)).await;
        }
        None
    }

    /// Delivers members that users took and replaces all that end, until the relay has lost the pool.
    async fn keep_full(self, users: &Users) -> Lost {
        let Self { first, early, pool, least } = self;
        let tells = pool.tells;
        let health = Arc::new(Health::default());
        let mut members = JoinSet::new();
        let idle = Idle::new(&health);
        let served = users.clone();
        members.spawn(async move { (Instant::now(), Duration::ZERO, wait(first, early, idle, &served, tells).await) });
        let mut stock = Stock::new(least, Instant::now());
        let mut backoff = Backoff::new();
        let mut refused = 0;
        // No join begins before. In the past while all is well.
        let mut next_join = Instant::now();
        let mut last_setback = None;
        let mut last_member = next_join;
        let mut taken = None;
        loop {
            while members.len() < stock.wanted() {
                let (served, pool, health) = (users.clone(), pool.clone(), health.clone());
                let begin = next_join.max(Instant::now());
                members.spawn(async move {
                    // Not until `begin`: a moment that has not passed costs up to a millisecond.
                    sleep_until(next_join).await;
                    // On its own, and so not dropped half-done with the tunnel: a relay of 2017 ends itself
                    // over a connection that is closed before its line.
                    let joined = tokio::spawn(join(served.reach.clone(), pool)).await;
                    let dial = begin.elapsed();
                    let fate = match joined {
                        Ok(Ok(member)) => wait(member, Vec::new(), Idle::new(&health), &served, tells).await,
                        Ok(Err(cause)) => Fate::Failed(cause),
                        // None panics.
                        Err(_) => Fate::Ended,
                    };
                    (begin, dial, fate)
                });
            }
            if let Some(user) = taken.take() {
                users.deliver(user).await;
            }
            // There is at least one member, and none panics.
            let Some(Ok((began, dial, fate))) = members.join_next().await else { continue };
            let now = Instant::now();
            if health.proven.swap(false, Ordering::Relaxed) {
                refused = 0;
                backoff.reset();
            }
            if !matches!(fate, Fate::Failed(_)) || health.idle.load(Ordering::Relaxed) > 0 {
                last_member = now;
            }
            match fate {
                Fate::Taken(user) => {
                    stock.taken(now, dial);
                    taken = Some(user);
                    continue;
                }
                Fate::Refused if stock.full_at(now, members.len()) => continue,
                _ if last_setback.is_some_and(|last| began <= last) => continue,
                Fate::Ended => {}
                Fate::Unannounced(why) => users.tell(why),
                Fate::Refused => {
                    if refused == 0 {
                        // The relay is there: whatever kept us from it has passed.
                        backoff.reset();
                    }
                    refused += 1;
                    if refused == MAX_REFUSED {
                        return Lost::MembersRefused(MAX_REFUSED);
                    }
                }
                Fate::Failed(cause) if now - last_member >= KEPT_EMPTY => return Lost::NoMembers(cause.into()),
                Fate::Failed(cause) => users.events.trouble(cause),
            }
            stock.back_to_least();
            last_setback = Some(now);
            next_join = now + backoff.next(&mut rand::rng());
        }
    }
}

/// What became of a member.
enum Fate {
    /// It is a user's.
    Taken(Connection),
    /// The relay closed it as soon as it had joined.
    Refused,
    /// It ended later, and was no user's: all others have ended with it, or it was aborted.
    Ended,
    /// It is a user's, and the relay did not say where that is.
    Unannounced(NoLine),
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

impl NamedPool {
    /// Has the relay close the public port: without members it would keep it, for a client that comes back.
    async fn end(self, reach: &Reach) -> Result<(), Error> {
        let told = reach.dial_back(self.peer, &Request::PoolEnd(self.id, None)).await?;
        // It closes when it has understood.
        next_bytes(&told).await.map(drop).map_err(|error| reach.failed(error))
    }
}

/// Dials one more member.
async fn join(reach: Reach, pool: NamedPool) -> Result<Socket, Error> {
    let member = reach.dial_back(pool.peer, &Request::PoolJoin(pool.id, None)).await?;
    member.watch_always_reading().map_err(|error| reach.failed(error))?;
    Ok(member)
}

/// Waits until the fate is known of a member that has joined a pool whose relay `tells` where users are, or does not.
async fn wait(member: Socket, early: Vec<u8>, idle: Idle, users: &Users, tells: bool) -> Fate {
    let (fresh, heard) = {
        let mut heard = pin!(async { if early.is_empty() { next_bytes(&member).await } else { Ok(early) } });
        if let Ok(heard) = timeout(REFUSED_WITHIN, &mut heard).await {
            (true, heard)
        } else {
            idle.0.proven.store(true, Ordering::Relaxed);
            (false, heard.await)
        }
    };
    let health = idle.0.clone();
    drop(idle);
    let early = match heard {
        Ok(early) if !early.is_empty() => {
            health.proven.store(true, Ordering::Relaxed);
            early
        }
        _ if fresh => return Fate::Refused,
        Ok(end) if !tells => {
            sleep(MOMENT).await;
            if health.idle.load(Ordering::Relaxed) == 0 {
                return Fate::Ended;
            }
            end
        }
        Ok(_) | Err(_) => return Fate::Ended,
    };
    if member.watch_carrying().is_err() {
        return Fate::Ended;
    }
    let user = Connection::from_socket(member, early, users.live.token());
    match if tells { user.introduced().await } else { Ok(user) } {
        Ok(user) => Fate::Taken(user),
        Err(NoLine::Gone) => Fate::Ended,
        Err(why) => Fate::Unannounced(why),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket, TcpStream};
    use tokio::sync::mpsc;
    use tokio::time::advance;

    use super::*;
    use crate::{DEFAULT_MEMBERS, Event, Events, Listener};

    struct Stage {
        pool: PoolTunnel,
        users: Users,
        events: Events,
        incoming: mpsc::Receiver<Connection>,
        _far: TcpStream,
    }

    /// A pool with a user on its first member, whose other members are to join at `peer`.
    async fn taken(peer: SocketAddr, wanted: usize) -> Stage {
        let relay = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let first = TcpStream::connect(relay.local_addr().unwrap()).await.unwrap();
        let (far, _) = relay.accept().await.unwrap();
        let named = NamedPool { id: Id::from_random(1), peer, tells: false, ends: false };
        let pool = PoolTunnel::new(first.into(), b"hello".into(), named, wanted);
        let builder = Listener::builder(&peer.to_string()).unwrap();
        let events = builder.events();
        let (accepted, incoming) = mpsc::channel(1);
        Stage { pool, users: builder.users(accepted).unwrap(), events, incoming, _far: far }
    }

    /// An address that is ours, but refuses until it listens.
    fn nobody() -> (TcpSocket, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    #[tokio::test]
    async fn a_join_that_fails_costs_no_pool() {
        let (socket, peer) = nobody();
        let Stage { pool, users, mut events, mut incoming, _far } = taken(peer, 1).await;
        let joined = async {
            let _user = incoming.recv().await.unwrap();
            for _ in 0..2 {
                let Some(Event::Trouble { cause }) = events.next().await else { panic!("not told") };
                assert!(cause.to_string().starts_with(&format!("cannot connect to {peer}: ")), "{cause}");
            }
            socket.listen(8).unwrap().accept().await.unwrap()
        };
        tokio::select! {
            lost = pool.keep_full(&users) => panic!("{lost}"),
            _member = timeout(Duration::from_secs(20), joined) => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pool_that_nobody_can_join_is_given_up() {
        let (_socket, peer) = nobody();
        let Stage { pool, users, mut events, incoming: _incoming, _far } = taken(peer, DEFAULT_MEMBERS).await;
        let begun = Instant::now();
        let lost = pool.keep_full(&users).await;
        assert!(matches!(lost, Lost::NoMembers(_)), "{lost}");
        assert!(lost.to_string().ends_with("Connection refused (os error 111)") || cfg!(not(target_os = "linux")));
        let took = begun.elapsed();
        assert!(took >= KEPT_EMPTY && took < KEPT_EMPTY + Backoff::LONGEST * 2, "{took:?}");
        // Eight dials that fail together are one try.
        drop(users);
        let mut told = 0;
        while events.next().await.is_some() {
            told += 1;
        }
        assert!((4..30).contains(&told), "{told}");
    }

    /// A relay whose control port the test plays, with a user on its pool's first member. Time stands still.
    struct Relay {
        control: TcpListener,
        incoming: mpsc::Receiver<Connection>,
        /// Idle ones, the oldest first.
        members: VecDeque<TcpStream>,
        /// Members with their users.
        served: Vec<(TcpStream, Connection)>,
        /// Of a thread: while it is blocked the clock does not go on by itself. A test that hangs ends it.
        _blocks: std::sync::mpsc::Sender<()>,
    }

    impl Relay {
        async fn new() -> (Self, PoolTunnel, Users) {
            let (blocks, ended) = std::sync::mpsc::channel::<()>();
            tokio::task::spawn_blocking(move || ended.recv_timeout(Duration::from_secs(20)));
            tokio::time::pause();
            let control = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let Stage { pool, users, incoming, _far, .. } = taken(control.local_addr().unwrap(), 2).await;
            (Self { control, incoming, members: VecDeque::new(), served: Vec::new(), _blocks: blocks }, pool, users)
        }

        async fn joins(&self) -> TcpStream {
            let (mut member, _) = self.control.accept().await.unwrap();
            let mut line = [0; 38];
            member.read_exact(&mut line).await.unwrap();
            assert!(line.starts_with(b"pool\n") && line.ends_with(b"\n"));
            member
        }

        async fn takes(&mut self, joins: usize) {
            for _ in 0..joins {
                self.members.push_back(self.joins().await);
            }
        }

        async fn refuses(&self, joins: usize) {
            for _ in 0..joins {
                drop(self.joins().await);
            }
        }

        async fn gives(&mut self, users: usize) {
            for _ in 0..users {
                let mut member = self.members.pop_front().unwrap();
                member.write_all(b"hello").await.unwrap();
                self.served.push((member, self.incoming.recv().await.unwrap()));
            }
        }

        async fn is_left_alone(&self) {
            let soon = async {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                _ = self.control.accept() => panic!("one more member"),
                () = soon => {}
            }
        }
    }

    /// Keeps the pool while the relay is played.
    async fn played(kept: impl Future<Output = Lost>, play: impl Future<Output = ()>) {
        tokio::select! {
            lost = kept => panic!("{lost}"),
            played = timeout(Duration::from_hours(2), play) => played.unwrap(),
        }
    }

    #[tokio::test]
    async fn the_stock_follows_its_users() {
        let (mut relay, pool, users) = Relay::new().await;
        let play = async {
            relay.incoming.recv().await.unwrap();
            advance(Duration::from_millis(1)).await;
            relay.takes(2).await;
            // Three have come in two dials' time, so six are wanted; then eight in one moment, so 16.
            relay.gives(2).await;
            relay.takes(6).await;
            relay.gives(6).await;
            relay.takes(16).await;
            relay.is_left_alone().await;
            // An hour later that is far too many.
            advance(Duration::from_hours(1)).await;
            for _ in 0..14 {
                relay.gives(1).await;
                advance(Duration::from_millis(1)).await;
            }
            relay.is_left_alone().await;
            relay.gives(1).await;
            relay.takes(1).await;
            relay.is_left_alone().await;
        };
        played(pool.keep_full(&users), play).await;
    }

    #[tokio::test]
    async fn a_relay_that_went_away_is_not_stormed() {
        let (mut relay, pool, users) = Relay::new().await;
        let play = async {
            relay.incoming.recv().await.unwrap();
            advance(Duration::from_millis(1)).await;
            relay.takes(2).await;
            relay.gives(2).await;
            relay.takes(6).await;
            advance(REFUSED_WITHIN * 2).await;
            relay.is_left_alone().await;
            tokio::time::resume();
            relay.members.clear();
            relay.takes(2).await;
            relay.is_left_alone().await;
        };
        played(pool.keep_full(&users), play).await;
    }

    #[tokio::test]
    async fn a_relay_that_takes_no_more_members_costs_no_pool() {
        let (mut relay, pool, users) = Relay::new().await;
        let mut kept = std::pin::pin!(pool.keep_full(&users));
        let play = async {
            relay.incoming.recv().await.unwrap();
            advance(Duration::from_millis(1)).await;
            relay.takes(2).await;
            relay.gives(2).await;
            relay.takes(3).await;
            relay.refuses(3).await;
            // It is asked for what it took, and a minute later for more.
            for _ in 0..20 {
                relay.is_left_alone().await;
                relay.gives(1).await;
                relay.takes(1).await;
            }
            advance(Duration::from_mins(1)).await;
            relay.gives(3).await;
            relay.takes(3).await;
            relay.refuses(3).await;
            relay.is_left_alone().await;
        };
        played(&mut kept, play).await;
        // That it takes none at all is another matter.
        tokio::time::resume();
        relay.members.clear();
        tokio::select! {
            lost = kept => assert!(matches!(lost, Lost::MembersRefused(MAX_REFUSED)), "{lost}"),
            () = relay.refuses(usize::MAX) => {}
        }
    }
}
