//! Pool: spare connections of the client, each of which becomes one user's.
//!
//! A user's task watches the user while it waits, and when the matching names a member sends the user
//! to that member's task, which carries it. A member's task watches the idle member: it keeps what the
//! service says ahead of its user, and takes a dead one out at once.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relay_net::pipe::{Beginning, Party, pipe_at_rate};
use relay_net::socket::Socket;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::debug;

use super::belonging::Client;
use super::matching::{Manner, Matching};
use super::pending::Place;
use super::registry::{Name, lock};
use super::tunnel::{self, PublicPort, Stay, Tunnel};
use super::{aborted, reset};

/// How often a member is looked at that has said more ahead of its user than is kept.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where a member waits for its user.
type Seat = oneshot::Sender<User>;

/// One pool: its tunnel, and who in it waits for whom.
pub(super) struct Pool {
    tunnel: Arc<Tunnel>,
    matching: Mutex<Matching<oneshot::Sender<Seat>, Seat>>,
    /// Members, idle and in use.
    members: watch::Sender<usize>,
    /// A newer client of the same identity wants the port: members show whether they live.
    contested: watch::Sender<bool>,
    /// Its client wants no more users.
    ended: Notify,
}

/// The pool has as many idle members as it may.
#[derive(Debug)]
pub(super) struct PoolFull;

/// A user without a member.
struct User {
    stream: TcpStream,
    address: SocketAddr,
    beginning: Beginning,
    key: u64,
    manner: Manner,
    /// When it has waited for too long.
    until: Instant,
    place: Place,
    stay: Stay,
}

/// Serves a pool's public port until nobody has served it for a while or the server stops.
pub(super) async fn serve(pool: Arc<Pool>, public: PublicPort, name: Name<Arc<Pool>>) {
    let tunnel = &pool.tunnel;
    let public = match public.brought(&tunnel.home) {
        Ok(public) => public,
        Err(error) => return tunnel.end(&error),
    };
    let mut abandoned = pin!(pool.abandoned());
    let reason = loop {
        tokio::select! {
            user = public.accept(tunnel) => {
                let user = pool.user(user);
                tunnel.relay.tasks.spawn(pool.clone().serve_user(user));
            }
            () = pool.ended.notified() => break "its client ended it",
            () = &mut abandoned => break "it had no member for too long",
            () = public.contested() => drop(pool.contested.send_replace(true)),
            reason = tunnel.ending() => break reason,
        }
    };
    drop((name, public));
    tunnel.end(&reason);
}

impl Pool {
    pub(super) fn new(tunnel: Arc<Tunnel>) -> Arc<Self> {
        let (members, contested) = (watch::Sender::new(0), watch::Sender::new(false));
        Arc::new(Self { matching: Mutex::default(), members, contested, ended: Notify::new(), tunnel })
    }

    pub(super) fn tunnel(&self) -> &Arc<Tunnel> {
        &self.tunnel
    }

    /// Takes no more users. Those who have a member stay.
    pub(super) fn end(&self) {
        self.ended.notify_one();
    }

    pub(super) fn client(&self) -> &Client {
        &self.tunnel.client
    }

    /// Returns once there has been no member, idle or in use, for as long as the pool has for its client to come
    /// back: none when the client has come back with another pool.
    async fn abandoned(&self) {
        let grace = self.tunnel.limits().pool_grace;
        let (mut members, mut contested) = (self.members.subscribe(), self.contested.subscribe());
        // The senders are never gone.
        while members.wait_for(|&count| count == 0).await.is_ok() {
            tokio::select! {
                came_back = timeout(grace, members.wait_for(|&count| count > 0)) => if came_back.is_err() { return },
                _ = contested.wait_for(|&contested| contested) => return,
            }
        }
    }

    /// Makes a connection a member. `early` was read from it already.
    pub(super) fn join(self: &Arc<Self>, stream: Socket, peer: SocketAddr, early: Vec<u8>) -> Result<(), PoolFull> {
        let key = {
            let mut matching = lock(&self.matching);
            if matching.idle() >= self.tunnel.limits().idle_members {
                return Err(PoolFull);
            }
            matching.key()
        };
        let _ = stream.watch_always_reading();
        let seat = self.sit_down(key, !early.is_empty(), false);
        let member = Member { counted: Counted::new(self.clone()), stream, peer, early, key };
        self.tunnel.spawn(member.serve(seat));
        Ok(())
    }

    /// An idle member takes its seat.
    fn sit_down(&self, key: u64, speaks: bool, settled: bool) -> oneshot::Receiver<User> {
        let (seat, user) = oneshot::channel();
        self.change(|matching| {
            matching.add_member(key, seat);
            if speaks {
                matching.speaks(key);
            }
            if settled {
                matching.settles(key);
            }
        });
        user
    }

    /// Changes who waits, then brings together who can be.
    fn change(&self, change: impl FnOnce(&mut Matching<oneshot::Sender<Seat>, Seat>)) {
        let mut matching = lock(&self.matching);
        change(&mut matching);
        while let Some((user, seat)) = matching.pair() {
            // A user who just left lets go of the seat; its member notices and sits down again.
            let _ = user.send(seat);
        }
    }

    /// A user who has just come. A member that is told where its user is takes the line for the user's first byte.
    fn user(&self, user: tunnel::User) -> User {
        let tunnel::User { stream, address, beginning, place, stay } = user;
        let limits = self.tunnel.limits();
        let (manner, wait) =
            if self.tunnel.proxied { (Manner::Eager, limits.member_wait) } else { (Manner::Silent, limits.silent) };
        let key = lock(&self.matching).key();
        User { stream, address, beginning, key, manner, until: Instant::now() + wait, place, stay }
    }

    /// Waits with a user until there is a member for it, and gives the user to that; or until it leaves,
    /// or has waited for too long.
    async fn serve_user(self: Arc<Self>, mut user: User) {
        let (tunnel, limits) = (&self.tunnel, self.tunnel.limits());
        loop {
            let (give, given) = oneshot::channel();
            self.change(|matching| matching.add_user(user.key, user.manner, give));
            let leave = Leave { pool: &self, key: user.key };
            let seat = tokio::select! {
                biased;
                seat = given => seat.ok(),
                manner = next_manner(&user.stream, user.manner) => {
                    let Some(manner) = manner else {
                        return debug!(user = %user.address, port = tunnel.port, "user left while it waited");
                    };
                    user.manner = manner;
                    user.until = Instant::now() + limits.member_wait;
                    None
                }
                () = sleep_until(user.until) => {
                    if user.manner == Manner::Silent {
                        return debug!(user = %user.address, port = tunnel.port, "user closed: silent too long");
                    }
                    return tunnel.refused(user.stream, user.address, "no member came in time");
                }
                () = user.place.pushed_out() => return tunnel.crowded_out(user.stream, user.address),
                () = tunnel.over.cancelled() => return reset(user.stream),
            };
            // Before the user is given away: a member that dies sends it back to the matching.
            drop(leave);
            if let Some(seat) = seat {
                match seat.send(user) {
                    Ok(()) => return,
                    // The member died meanwhile.
                    Err(back) => user = back,
                }
            }
        }
    }
}

/// Waits until a user behaves otherwise than in the given manner, or aborts: then there is none. Cancel safe.
async fn next_manner(stream: &TcpStream, manner: Manner) -> Option<Manner> {
    if manner != Manner::Silent {
        aborted(stream).await;
        return None;
    }
    // A look is enough: until there is a member, the user's bytes wait in the kernel.
    match stream.peek(&mut [0]).await {
        Ok(0) => Some(Manner::Finished),
        Ok(_) => Some(Manner::Eager),
        Err(_) => None,
    }
}

/// Takes a user out of the matching when dropped.
struct Leave<'a> {
    pool: &'a Pool,
    key: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        lock(&self.pool.matching).remove_user(self.key);
    }
}

/// A member, idle or in use.
struct Member {
    /// Counts it until it is gone.
    counted: Counted,
    stream: Socket,
    peer: SocketAddr,
    /// What it said ahead of its user.
    early: Vec<u8>,
    key: u64,
}

impl Member {
    /// Waits for the member's user, then carries it.
    async fn serve(mut self, seat: oneshot::Receiver<User>) {
        let pool = self.counted.0.clone();
        self.stream = match pool.tunnel.home.bring(self.stream) {
            Ok(stream) => stream,
            Err(error) => {
                debug!(peer = %self.peer, port = pool.tunnel.port, "member gone: {error}");
                return pool.stand_up(self.key, seat);
            }
        };
        let Some(user) = self.wait(&pool, seat).await else { return };
        let _ = self.stream.watch_carrying();
        self.stream.bound_unread_of_member();
        let service = self.stream;
        // An end-of-file may stand behind bytes that nobody has read.
        if service.read_closed() {
            debug!(peer = %self.peer, port = pool.tunnel.port, "member gone: it closed when its user came");
            return pool.send_back(user);
        }
        let User { stream, address, beginning, place, stay, .. } = user;
        drop(place);
        let service = Party { socket: service, early: self.early };
        let user = Party { socket: Socket::from(stream), early: beginning.ahead };
        let tunnel = &pool.tunnel;
        let (idle, rate) = (tunnel.limits().half_closed_idle, tunnel.rate.clone());
        tunnel.carry(address, pipe_at_rate(user, service, &tunnel.moved, idle, rate, beginning.refuses)).await;
        drop(stay);
    }

    /// Waits for the member's user. There is none when the member dies first, or the pool is over.
    async fn wait(&mut self, pool: &Arc<Pool>, mut seat: oneshot::Receiver<User>) -> Option<User> {
        let limits = pool.tunnel.limits();
        let mut contested = pool.contested.subscribe();
        let mut settling = pin!(sleep(limits.member_settled));
        let mut settled = false;
        loop {
            let spoke = || pool.change(|matching| matching.speaks(self.key));
            tokio::select! {
                biased;
                user = &mut seat => match user {
                    Ok(user) => return Some(user),
                    // Who was to sit here left first.
                    Err(_) => seat = pool.sit_down(self.key, !self.early.is_empty(), settled),
                },
                why = watch(&self.stream, &mut self.early, limits.early_bytes, spoke) => {
                    debug!(peer = %self.peer, port = pool.tunnel.port, "member gone: {why}");
                    break;
                }
                () = &mut settling, if !settled => {
                    settled = true;
                    pool.change(|matching| matching.settles(self.key));
                }
                Ok(()) = contested.changed() => drop(self.stream.watch_closely()),
                () = pool.tunnel.over.cancelled() => break,
            }
        }
        pool.stand_up(self.key, seat);
        None
    }
}

impl Pool {
    /// A member leaves its seat for good. Who was just sent there looks for another.
    fn stand_up(self: &Arc<Self>, key: u64, mut seat: oneshot::Receiver<User>) {
        lock(&self.matching).remove_member(key);
        seat.close();
        if let Ok(user) = seat.try_recv() {
            self.send_back(user);
        }
    }

    /// A user whose member turned out dead waits on as before.
    fn send_back(self: &Arc<Self>, user: User) {
        self.tunnel.relay.tasks.spawn(self.clone().serve_user(user));
    }
}

/// Reads what an idle member says ahead of its user, as far as `limit`. Returns when it is dead, and
/// why. Cancel safe.
async fn watch(stream: &Socket, early: &mut Vec<u8>, limit: usize, spoke: impl Fn()) -> String {
    while early.len() < limit {
        let read = match stream.readable().await {
            Ok(()) => read_some(stream, early, limit),
            Err(error) => Err(error),
        };
        match read {
            Ok(0) => return "it closed".into(),
            Ok(_) => spoke(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return error.to_string(),
        }
    }
    // The rest waits in the kernel. It keeps the socket readable, so nothing wakes us for an end-of-file
    // behind it.
    loop {
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if ready.is_read_closed() => return "it closed".into(),
            Ok(_) => {}
            Err(error) => return error.to_string(),
        }
        if timeout(LOOK_AGAIN, stream.aborted()).await.is_ok() {
            return "it was lost".into();
        }
    }
}

/// Reads once, to at most `limit` bytes in all.
fn read_some(stream: &Socket, early: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
    let mut piece = [0; 4096];
    let room = piece.len().min(limit - early.len());
    let read = stream.try_read(&mut piece[..room])?;
    early.extend_from_slice(&piece[..read]);
    Ok(read)
}

/// Counts a member of the pool until it is dropped.
struct Counted(Arc<Pool>);

impl Counted {
    fn new(pool: Arc<Pool>) -> Self {
        pool.members.send_modify(|count| *count += 1);
        Self(pool)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.members.send_modify(|count| *count -= 1);
    }
}
