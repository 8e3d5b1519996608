//! The pipe between the sockets of a user and of a service.

mod flow;
mod silence;
mod turns;

use crate::rate::Bucket;
use crate::socket::Socket;
#[doc(hidden)]
pub use flow::Manner;
use flow::{Fault, Flow};
use silence::Silence;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{Interest, Ready};
use tokio::task::coop::consume_budget;
use tokio::task::yield_now;
use turns::Turns;

/// How long a pipe whose one direction has ended may be silent in the other.
pub const HALF_CLOSED_IDLE: Duration = Duration::from_mins(5);

/// Bytes moved so far; counted as the receiving socket takes them.
#[derive(Debug, Default)]
pub struct Moved {
    /// From the user to the service.
    pub up: AtomicU64,
    /// From the service to the user.
    pub down: AtomicU64,
}

/// How a pipe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// Both parties finished, and each was given all that the other sent.
    Done,
    /// The user's connection was reset or failed; the service was reset.
    UserAborted(io::ErrorKind),
    /// The service's connection was reset or failed; the user was reset.
    ServiceAborted(io::ErrorKind),
    /// One direction had ended and the other was silent for too long; both parties were reset.
    Idle,
    /// The user took nothing while others needed the room of a multiplexed link; both parties were reset.
    Stalled,
    /// The same, when others needed the room of all links together.
    CrowdedOut,
    /// The user began with what is [refused](Refuses); both parties were reset.
    Refused,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::UserAborted(kind) => write!(f, "user aborted: {kind}"),
            Self::ServiceAborted(kind) => write!(f, "service aborted: {kind}"),
            Self::Idle => f.write_str("half closed and silent"),
            Self::Stalled => f.write_str("stalled: took no bytes while its link's room was short"),
            Self::Refused => f.write_str("refused: began with what this place does not take"),
            Self::CrowdedOut => f.write_str("stalled: took no bytes while the room of all links was short"),
        }
    }
}

/// One end of a pipe.
#[derive(Debug)]
pub struct Party {
    /// The connection.
    pub socket: Socket,
    /// What was read from it already, and which the other party gets first.
    pub early: Vec<u8>,
}

/// Whether a user may not begin with these bytes: asked once, about what the first read gives, however little.
pub type Refuses = fn(&[u8]) -> bool;

/// How what a user sends begins.
#[derive(Debug, Default)]
pub struct Beginning {
    /// What the service gets ahead of the user's first byte.
    pub ahead: Vec<u8>,
    /// What the user may not begin with.
    pub refuses: Option<Refuses>,
}

/// Joins two sockets until both directions have ended.
///
/// Each party's end-of-file is passed to the other behind all its bytes, and the other direction lives on. An
/// abort of one party, noticed at once, becomes a reset of the other, which first gets what had arrived
/// before, as far as it takes it. When both directions have ended the sockets close as soon as the kernel
/// has delivered what it holds, however long the parties pause.
///
/// When one direction has ended and no byte has moved in the other for `idle`, both parties are reset, but
/// never while one of them has bytes to take.
///
/// Nothing is held for a silent pipe; for one whose reader is slow, at most 64 KiB each way, or 256 KiB in the
/// kernel where bytes are spliced. Dropping the future, polled or not, resets both parties; so does the death of
/// the process.
pub fn pipe(user: Party, service: Party, moved: &Moved, idle: Duration) -> impl Future<Output = End> + Send {
    Pipe::start(user, service, moved, idle, None, None, Manner::Suited)
}

/// [`pipe`], which moves no more than `rate` gives, if there is one: both ways, and together with all others of the
/// same rate, among whom it has fair turns. Only what an aborted party left behind goes at once. A user who begins with
/// what `refuses` tells is reset with the service, which gets nothing of it.
pub fn pipe_at_rate(
    user: Party,
    service: Party,
    moved: &Moved,
    idle: Duration,
    rate: Option<Arc<Bucket>>,
    refuses: Option<Refuses>,
) -> impl Future<Output = End> + Send {
    Pipe::start(user, service, moved, idle, rate, refuses, Manner::Suited)
}

/// [`pipe_at_rate`] that refuses nobody, with the choice of how bytes are moved taken from it: for tests.
#[doc(hidden)]
pub fn pipe_in_manner(
    user: Party,
    service: Party,
    moved: &Moved,
    idle: Duration,
    rate: Option<Arc<Bucket>>,
    manner: Manner,
) -> impl Future<Output = End> + Send {
    Pipe::start(user, service, moved, idle, rate, None, manner)
}

/// Two sockets that reset when dropped, and the flows between them.
struct Pipe<'a> {
    user: Socket,
    service: Socket,
    up: Flow<'a>,
    down: Flow<'a>,
    turns: Option<Turns>,
}

impl<'a> Pipe<'a> {
    fn start(
        user: Party,
        service: Party,
        moved: &'a Moved,
        idle: Duration,
        rate: Option<Arc<Bucket>>,
        refuses: Option<Refuses>,
        manner: Manner,
    ) -> impl Future<Output = End> + Send + 'a {
        user.socket.reset_on_close();
        service.socket.reset_on_close();
        let pipe = Self {
            user: user.socket,
            service: service.socket,
            up: Flow::new(user.early, manner, &moved.up).refusing(refuses),
            down: Flow::new(service.early, manner, &moved.down),
            turns: rate.map(Turns::new),
        };
        pipe.run(idle)
    }

    async fn run(mut self, idle: Duration) -> End {
        let Err(end) = self.carry(idle).await else { return End::Done };
        let (flow, from, to) = match end {
            End::UserAborted(_) => (&mut self.up, &self.user, &self.service),
            End::ServiceAborted(_) => (&mut self.down, &self.service, &self.user),
            _ => return end,
        };
        loop {
            let turn = flow.drain(from, to);
            if let Some(turns) = &self.turns {
                turns.moved(turn.moved);
            }
            if !turn.more {
                return end;
            }
            yield_now().await;
        }
    }

    async fn carry(&mut self, idle: Duration) -> Result<(), End> {
        let mut silence = Silence::new(idle);
        loop {
            // Costs a wait only when this task has gone on for long; tokio does not count tries by itself.
            consume_budget().await;
            let reads = self.up.reads(&self.service) || self.down.reads(&self.user);
            let allowance = self.turns.as_mut().map_or(usize::MAX, |turns| turns.allowance(reads));
            let up = self.up.advance(&self.user, &self.service, allowance).map_err(|fault| match fault {
                Fault::From(kind) => End::UserAborted(kind),
                Fault::To(kind) => End::ServiceAborted(kind),
                Fault::Refused => End::Refused,
            })?;
            let down = self.down.advance(&self.service, &self.user, allowance).map_err(|fault| match fault {
                Fault::From(kind) => End::ServiceAborted(kind),
                Fault::To(kind) => End::UserAborted(kind),
                Fault::Refused => End::Refused,
            })?;
            if let Some(turns) = &self.turns {
                turns.moved(up.moved + down.moved);
            }
            match (self.up.ended(), self.down.ended()) {
                (true, true) => return self.close().await,
                (false, false) => {}
                _ => silence.note(up.moved + down.moved > 0),
            }
            if up.more || down.more {
                yield_now().await;
            } else if self.wait(&mut silence).await? == Waited::Silence {
                if !self.queues() {
                    return Err(End::Idle);
                }
                silence.note(true);
            }
        }
    }

    /// Waits until a flow can go on. An error of either socket ends the pipe, also while nobody reads it.
    async fn wait(&mut self, silence: &mut Silence) -> Result<Waited, End> {
        let Self { user, service, up, down, turns } = self;
        let reads = !turns.as_ref().is_some_and(Turns::waits);
        let mut user_ready = pin!(user.ready(interest(reads && up.reads(service), down.holds(), user)));
        let mut service_ready = pin!(service.ready(interest(reads && down.reads(user), up.holds(), service)));
        poll_fn(|context| {
            let user_ready = user_ready.as_mut().poll(context);
            let service_ready = service_ready.as_mut().poll(context);
            if let Poll::Ready(ready) = &user_ready
                && let Some(kind) = failure(user, ready)
            {
                return Poll::Ready(Err(End::UserAborted(kind)));
            }
            if let Poll::Ready(ready) = &service_ready
                && let Some(kind) = failure(service, ready)
            {
                return Poll::Ready(Err(End::ServiceAborted(kind)));
            }
            let has_turn = turns.as_mut().is_some_and(|turns| turns.poll(context).is_ready());
            if user_ready.is_ready() || service_ready.is_ready() || has_turn {
                return Poll::Ready(Ok(Waited::Moves));
            }
            silence.poll(context).map(|()| Ok(Waited::Silence))
        })
        .await
    }

    /// Whether bytes wait for a party to take them, or for the rate.
    fn queues(&self) -> bool {
        let limited = self.turns.as_ref().is_some_and(Turns::waits);
        limited || self.up.holds() || self.down.holds() || self.user.unsent() > 0 || self.service.unsent() > 0
    }

    async fn close(&mut self) -> Result<(), End> {
        // Both get what they are owed, even when the other one fails meanwhile, and neither waits for the other.
        let (service, user) = tokio::join!(self.service.flushed(), self.user.flushed());
        service.map_err(|error| End::ServiceAborted(error.kind()))?;
        user.map_err(|error| End::UserAborted(error.kind()))?;
        self.user.deliver_on_close();
        self.service.deliver_on_close();
        Ok(())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Waited {
    Moves,
    Silence,
}

/// What a socket is waited for, of which one flow `reads`, and another `holds` bytes that it has to take.
fn interest(reads: bool, holds: bool, socket: &Socket) -> Interest {
    let mut interest = Interest::ERROR;
    if reads {
        interest |= Interest::READABLE;
    }
    if holds || socket.is_unflushed() {
        interest |= Interest::WRITABLE;
    }
    interest
}

/// The error that a socket's readiness tells of.
fn failure(socket: &Socket, ready: &io::Result<Ready>) -> Option<io::ErrorKind> {
    match ready {
        Ok(ready) if ready.is_error() => Some(socket.failure().kind()),
        Ok(_) => None,
        Err(error) => Some(error.kind()),
    }
}
