//! The pipe between the sockets of a user and of a service.

use crate::socket::Socket;
use std::fmt;
use std::io;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// How long a pipe whose one direction has ended may be silent in the other.
pub const HALF_CLOSED_IDLE: Duration = Duration::from_secs(5 * 60);

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
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::UserAborted(kind) => write!(f, "user aborted: {kind}"),
            Self::ServiceAborted(kind) => write!(f, "service aborted: {kind}"),
            Self::Idle => f.write_str("half closed and silent"),
            Self::Stalled => f.write_str("stalled: took no bytes while room was short"),
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

/// Joins two sockets until both directions have ended. Dropping the future resets both.
pub fn pipe(user: Party, service: Party, moved: &Moved, idle: Duration) -> impl Future<Output = End> + Send {
    async move {
        let _ = (user, service, moved, idle);
        todo!()
    }
}
