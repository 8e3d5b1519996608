//! Pool: spare connections of the client, each of which becomes one user's.
//!
//! A user's task waits for the user to want a member and for the matching to name one, then sends
//! the user to that member's task, which carries it. A member's task watches the idle member: it
//! keeps what the service says ahead of its user, and takes a dead one out at once.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relay_net::pipe::{Party, pipe};
use relay_net::socket::{self, Socket};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::debug;

use super::matching::Matching;
use super::pending::{Pending, Place};
use super::registry::{Name, lock};
use super::tunnel::{PublicPort, Tunnel};
use super::{aborted, reset};

/// Where a member waits for its user.
type Seat = oneshot::Sender<User>;

/// One pool: its tunnel, and who in it waits for whom.
pub(super) struct Pool {
    tunnel: Arc<Tunnel>,
    matching: Mutex<Matching<oneshot::Sender<Seat>, Seat>>,
    /// Permits for eager users.
    waiting: Semaphore,
    /// Members, idle and in use.
    members: watch::Sender<usize>,
}

/// The pool has as many idle members as it may.
#[derive(Debug)]
pub(super) struct PoolFull;

/// A user without a member.
struct User {
    stream: TcpStream,
    address: SocketAddr,
    key: u64,
}

/// Serves a pool's public port until nobody has served it for a while or the server stops.
pub(super) async fn serve(pool: Arc<Pool>, public: PublicPort, name: Name<Arc<Pool>>) {
    let tunnel = &pool.tunnel;
    let silent = Pending::new(tunnel.limits().silent_users, tunnel.limits().crowding_grace);
    let mut abandoned = pin!(abandoned(pool.members.subscribe(), tunnel.limits().pool_grace));
    let reason = loop {
        let newcomer = async {
            silent.settle().await;
            public.accept().await
        };
        tokio::select! {
            (stream, address) = newcomer => {
                let place = silent.enter(address.ip());
                let key = lock(&pool.matching).key();
                tunnel.relay.tasks.spawn(pool.clone().serve_user(User { stream, address, key }, place));
            }
            () = &mut abandoned => break "it had no member for too long",
            () = tunnel.over.cancelled() => break "the relay stops",
        }
    };
    drop((name, public));
    tunnel.end(&reason);
}

/// Returns once there has been no member, idle or in use, for as long as `grace`.
async fn abandoned(mut members: watch::Receiver<usize>, grace: Duration) {
    // The sender is never gone: the pool outlives its own task.
    while members.wait_for(|&count| count == 0).await.is_ok() {
        if timeout(grace, members.wait_for(|&count| count > 0)).await.is_err() {
            return;
        }
    }
}

impl Pool {
    pub(super) fn new(tunnel: Arc<Tunnel>) -> Arc<Self> {
        Arc::new(Self {
            matching: Mutex::default(),
            waiting: Semaphore::new(tunnel.limits().waiting_users),
            members: watch::Sender::new(0),
            tunnel,
        })
    }

    /// Makes a connection a member. `early` was read from it already.
    pub(super) fn join(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, early: Vec<u8>) -> Result<(), PoolFull> {
        let key = {
            let mut matching = lock(&self.matching);
            if matching.idle() >= self.tunnel.limits().idle_members {
                return Err(PoolFull);
            }
            matching.key()
        };
        let _ = socket::watch_always_reading(&stream);
        let seat = self.sit_down(key, !early.is_empty());
        let member = Member { counted: Counted::new(self.clone()), stream, peer, early, key };
        self.tunnel.relay.tasks.spawn(member.serve(seat));
        Ok(())
    }

    /// An idle member takes its seat.
    fn sit_down(&self, key: u64, speaks: bool) -> oneshot::Receiver<User> {
        let (seat, user) = oneshot::channel();
        self.change(|matching| matching.add_member(key, seat, speaks));
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

    /// Serves a user from the accept on: waits until it wants a member, or a member speaks to it.
    async fn serve_user(self: Arc<Self>, user: User, mut place: Place) {
        let (give, mut given) = oneshot::channel();
        self.change(|matching| matching.add_silent(user.key, give));
        let leave = Leave { pool: &self, key: user.key };
        // A look is enough: until there is a member, the user's bytes wait in the kernel.
        let mut byte = [0];
        let seat = tokio::select! {
            biased;
            seat = &mut given => seat.ok(),
            wants = user.stream.peek(&mut byte) => match wants {
                Ok(_) => None,
                Err(_) => return debug!(user = %user.address, port = self.tunnel.port, "user left while it was silent"),
            },
            () = sleep(self.tunnel.limits().silent) => {
                return debug!(user = %user.address, port = self.tunnel.port, "user closed: silent too long");
            }
            () = place.pushed_out() => return self.refused(user, "too many silent users"),
            () = self.tunnel.over.cancelled() => return reset(user.stream),
        };
        drop((leave, place));
        let seat = seat.or_else(|| given.try_recv().ok());
        self.place(user, seat).await;
    }

    /// Finds a member for a user who wants one now, and gives the user to it. Begins with `seat`,
    /// if there is one already.
    async fn place(self: Arc<Self>, mut user: User, mut seat: Option<Seat>) {
        let Ok(_waits) = self.waiting.try_acquire() else {
            return self.refused(user, "too many users wait for a member");
        };
        let deadline = Instant::now() + self.tunnel.limits().member_wait;
        loop {
            if let Some(seat) = seat.take() {
                match seat.send(user) {
                    Ok(()) => return,
                    // The member died meanwhile.
                    Err(back) => user = back,
                }
            }
            let (give, mut given) = oneshot::channel();
            self.change(|matching| matching.add_eager(user.key, give));
            let _leave = Leave { pool: &self, key: user.key };
            tokio::select! {
                biased;
                given = &mut given => seat = given.ok(),
                () = aborted(&user.stream) => {
                    return debug!(user = %user.address, port = self.tunnel.port, "user left while it waited");
                }
                () = sleep_until(deadline) => return self.refused(user, "no member came in time"),
                () = self.tunnel.over.cancelled() => return reset(user.stream),
            }
        }
    }

    fn refused(&self, user: User, why: &'static str) {
        self.tunnel.refused(user.stream, user.address, why);
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
    stream: TcpStream,
    peer: SocketAddr,
    /// What it said ahead of its user.
    early: Vec<u8>,
    key: u64,
}

impl Member {
    /// Waits for the member's user, then carries it.
    async fn serve(mut self, mut seat: oneshot::Receiver<User>) {
        let pool = self.counted.0.clone();
        let user = loop {
            let spoke = || pool.change(|matching| matching.speaks(self.key));
            let watch = watch(&self.stream, &mut self.early, pool.tunnel.limits().early_bytes, spoke);
            let taken = tokio::select! {
                biased;
                user = &mut seat => user.ok(),
                why = watch => {
                    debug!(peer = %self.peer, port = pool.tunnel.port, "member gone: {why}");
                    return pool.stand_up(self.key, seat);
                }
                () = pool.tunnel.over.cancelled() => return pool.stand_up(self.key, seat),
            };
            match taken {
                Some(user) => break user,
                // Who was to sit here left first.
                None => seat = pool.sit_down(self.key, !self.early.is_empty()),
            }
        };
        let _ = socket::watch_carrying(&self.stream);
        let service = Socket::from(self.stream);
        // An end-of-file may stand behind bytes that nobody has read.
        if service.read_closed() {
            debug!(peer = %self.peer, port = pool.tunnel.port, "member gone: it closed when its user came");
            pool.tunnel.relay.tasks.spawn(pool.clone().place(user, None));
            return;
        }
        let service = Party { socket: service, early: self.early };
        let party = Party { socket: Socket::from(user.stream), early: Vec::new() };
        let tunnel = &pool.tunnel;
        let pipe = pipe(party, service, &tunnel.moved, tunnel.limits().half_closed_idle);
        tunnel.carry(user.address, pipe).await;
    }
}

impl Pool {
    /// A member leaves its seat for good. Who was just sent there looks for another.
    fn stand_up(self: &Arc<Self>, key: u64, mut seat: oneshot::Receiver<User>) {
        lock(&self.matching).remove_member(key);
        seat.close();
        if let Ok(user) = seat.try_recv() {
            self.tunnel.relay.tasks.spawn(self.clone().place(user, None));
        }
    }
}

/// Reads what an idle member says ahead of its user, as far as `limit`. Returns when it is dead, and
/// why. Cancel safe.
async fn watch(stream: &TcpStream, early: &mut Vec<u8>, limit: usize, spoke: impl Fn()) -> String {
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
    // The rest waits in the kernel; an end-of-file behind it is found when a user comes.
    aborted(stream).await;
    "it was lost".into()
}

/// Reads once, to at most `limit` bytes in all.
fn read_some(stream: &TcpStream, early: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
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
