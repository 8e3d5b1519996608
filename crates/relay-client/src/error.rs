//! What can go wrong between a client and its relay.

use std::fmt;
use std::io;
use std::time::Duration;

use relay_proto::handshake::HandshakeError;

use crate::{DialError, RelayAddr};

/// Why there is no tunnel, or no longer. `Display` says what was tried, what went wrong and, where
/// something can be done, what.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The relay cannot be reached: the network's fault, or the relay is not running.
    Dial(DialError),
    /// The relay closed the connection instead of answering. An open relay never does that to a client
    /// of the protocol's; it may be one that wants an identity.
    Unanswered {
        /// Who was asked.
        relay: RelayAddr,
    },
    /// The relay took the connection and stayed silent: its fault, or it is no relay.
    Silent {
        /// Who was asked.
        relay: RelayAddr,
        /// How long it was given.
        waited: Duration,
    },
    /// The relay's fault: what it said is not the protocol. It may be no relay at all.
    Misbehaved {
        /// Who was asked.
        relay: RelayAddr,
        /// What it said.
        source: HandshakeError,
    },
    /// The tunnel stood and is gone.
    Lost {
        /// Who served it.
        relay: RelayAddr,
        /// How that was noticed.
        reason: Lost,
    },
    /// A connection to the relay failed.
    Io {
        /// Whose it was.
        relay: RelayAddr,
        /// How.
        source: io::Error,
    },
    /// The caller's doing: the listener is closed.
    Closed,
}

/// How the loss of a tunnel was noticed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Lost {
    /// The relay closed the connection.
    Closed,
    /// The relay said that no more users will come.
    GoAway,
    /// The multiplexed link ended: the relay fell silent or broke the protocol.
    Link(Box<str>),
    /// The connection failed.
    Io(io::Error),
    /// The relay's fault: it announced a user with something else than a ticket.
    Misbehaved(HandshakeError),
    /// The relay refused that many new members of the pool in a row.
    MembersRefused(u32),
    /// The last idle member of the pool is gone and for long none could join. Why the last try failed.
    NoMembers(Box<Error>),
}

impl Error {
    /// Whether a later try may work.
    pub fn is_temporary(&self) -> bool {
        !matches!(self, Self::Closed)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dial(error) => error.fmt(f),
            Self::Unanswered { relay } => write!(
                f,
                "{relay} closed without an answer; it may serve only invited clients: ask its operator for an invite"
            ),
            Self::Silent { relay, waited } => {
                write!(f, "{relay} gave no answer in {} s; is it a relay?", waited.as_secs())
            }
            Self::Misbehaved { relay, source } => write!(f, "{relay} {source}; is it a relay?"),
            Self::Lost { relay, reason } => write!(f, "lost the tunnel at {relay}: {reason}"),
            Self::Io { relay, source } => write!(f, "the connection to {relay} failed: {source}"),
            Self::Closed => f.write_str("the listener is closed"),
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the relay closed the connection"),
            Self::GoAway => f.write_str("the relay sends no more users"),
            Self::Link(reason) => f.write_str(reason),
            Self::Io(error) => error.fmt(f),
            Self::Misbehaved(error) => write!(f, "the relay {error}"),
            Self::MembersRefused(count) => write!(f, "the relay refused {count} members in a row"),
            Self::NoMembers(cause) => write!(f, "the pool has no member left and none can join: {cause}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Dial(error) => Some(error),
            Self::Misbehaved { source, .. } => Some(source),
            Self::Io { source, .. } | Self::Lost { reason: Lost::Io(source), .. } => Some(source),
            Self::Lost { reason: Lost::NoMembers(cause), .. } => Some(cause),
            Self::Lost { .. } | Self::Unanswered { .. } | Self::Silent { .. } | Self::Closed => None,
        }
    }
}

impl From<DialError> for Error {
    fn from(error: DialError) -> Self {
        Self::Dial(error)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Dial(error) => error.kind(),
            Error::Unanswered { .. } => io::ErrorKind::ConnectionAborted,
            Error::Silent { .. } => io::ErrorKind::TimedOut,
            Error::Misbehaved { .. } => io::ErrorKind::InvalidData,
            Error::Lost { .. } => io::ErrorKind::ConnectionReset,
            Error::Io { source, .. } => source.kind(),
            Error::Closed => io::ErrorKind::NotConnected,
        };
        Self::new(kind, error)
    }
}
