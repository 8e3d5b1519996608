//! What can go wrong between a client and its relay.

use std::fmt;
use std::io;
use std::time::Duration;

use relay_net::tls::TlsError;
use relay_proto::handshake::{Code, HandshakeError};
use rustls::CertificateError;

use crate::tls::{Trust, mismatch};
use crate::{DialError, RelayAddr};

/// Why there is no tunnel, or no longer. `Display` says what was tried, what went wrong and, where
/// something can be done, what.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The relay cannot be reached: the network's fault, or the relay is not running.
    Dial(DialError),
    /// In plain text, the relay closed the connection instead of answering. An open relay never does that to a
    /// client of the protocol's; it may be one that wants an identity.
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
    /// Whoever answers is not the relay that was meant: someone is in between, or the relay has another certificate.
    /// Nothing was said to it. Final, unless the certificate is only not valid now.
    Certificate {
        /// Who was asked.
        relay: RelayAddr,
        /// What would have been taken.
        expected: Trust,
        /// What came.
        source: CertificateError,
    },
    /// No certificate can be for such a host: the caller's fault.
    NoCertificateName {
        /// Who was to be asked.
        relay: RelayAddr,
    },
    /// TLS failed for another reason: the network's fault or the relay's, or it does not speak TLS.
    Tls {
        /// Who was asked.
        relay: RelayAddr,
        /// How.
        source: TlsError,
    },
    /// The relay refuses, and says why.
    Refused {
        /// Who was asked.
        relay: RelayAddr,
        /// Its reason, which tells whether a later try may work.
        code: Code,
        /// Its explanation, safe to show; perhaps empty.
        words: Box<str>,
    },
    /// The public port that was demanded is another's. Told before a tunnel has stood: later it is
    /// [`Refused`](Self::Refused), and may become free again.
    PortTaken {
        /// Who was asked.
        relay: RelayAddr,
        /// For which port.
        port: u16,
    },
    /// The relay is too old for what was asked of it, and so was asked for nothing.
    TooOld {
        /// Who was asked.
        relay: RelayAddr,
        /// For what.
        demand: Demand,
    },
    /// The relay's fault: what it said is not the protocol. It may be no relay at all.
    Misbehaved {
        /// Who was asked.
        relay: RelayAddr,
        /// What it said.
        source: HandshakeError,
    },
    /// The relay's fault: it brought a user and did not say where it is, as it had agreed to. Only that user is lost.
    NoAddress {
        /// Who brought it.
        relay: RelayAddr,
        /// How long it was given.
        waited: Duration,
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

/// What a tunnel must have, or is not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Only users of the networks that were [allowed](crate::Builder::allow).
    Allow,
    /// The public port that was [asked for](crate::Builder::port).
    Port,
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
        match self {
            Self::Certificate { source, .. } => is_about_time(source),
            Self::Refused { code, .. } => code.is_temporary(),
            Self::Closed | Self::NoCertificateName { .. } | Self::PortTaken { .. } | Self::TooOld { .. } => false,
            Self::Dial(_)
            | Self::Unanswered { .. }
            | Self::Silent { .. }
            | Self::Tls { .. }
            | Self::Misbehaved { .. }
            | Self::NoAddress { .. }
            | Self::Lost { .. }
            | Self::Io { .. } => true,
        }
    }
}

/// The right certificate at the wrong time: it is renewed, or our clock is set.
fn is_about_time(error: &CertificateError) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(error, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
}

/// What a refused client can do; nothing to say where it is only to wait.
fn advice(code: &Code) -> &'static str {
    match code {
        Code::IdentityRequired => "; ask its operator for an invite",
        Code::Denied | Code::Revoked | Code::Expired => "; ask its operator for a new invite",
        Code::TlsRequired => "; use its invite, or tls:// and its host",
        Code::PortNotAllowed => "; ask for another port, or its operator for this one",
        Code::Unsupported => "; ask its operator to update it",
        _ => "",
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
            Self::Certificate { relay, expected, source } => {
                let (came, advice) = mismatch(expected, source);
                write!(f, "{relay} does not show the certificate that is expected, {expected}: {came}; {advice}")
            }
            Self::NoCertificateName { relay } => {
                write!(f, "no certificate can be for {:?}: write the name as DNS has it, in ASCII", relay.host())
            }
            Self::Tls { relay, source } => write!(f, "TLS with {relay} failed: {source}"),
            Self::Refused { relay, code, words } => {
                let gap = if words.is_empty() { "" } else { ", " };
                write!(f, "{relay} refuses: {code}{gap}{words}{}", advice(code))
            }
            Self::PortTaken { relay, port } => {
                write!(f, "port {port} of {relay} is taken; ask for another, or for none to get any that is free")
            }
            Self::TooOld { relay, demand: Demand::Allow } => write!(
                f,
                "{relay} is too old to keep users of other networks out, as was asked; ask its operator to update it"
            ),
            Self::TooOld { relay, demand: Demand::Port } => {
                write!(f, "{relay} is too old to give a port that is asked for; ask its operator to update it")
            }
            Self::Misbehaved { relay, source } => write!(f, "{relay} {source}; is it a relay?"),
            Self::NoAddress { relay, waited } => write!(
                f,
                "{relay} brought a user without saying within {} s where it is; the user was reset",
                waited.as_secs()
            ),
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
            Self::Tls { source, .. } => Some(source),
            Self::Io { source, .. } | Self::Lost { reason: Lost::Io(source), .. } => Some(source),
            Self::Lost { reason: Lost::NoMembers(cause), .. } => Some(cause),
            Self::Lost { .. }
            | Self::Unanswered { .. }
            | Self::Silent { .. }
            | Self::NoAddress { .. }
            | Self::Certificate { .. }
            | Self::NoCertificateName { .. }
            | Self::Refused { .. }
            | Self::PortTaken { .. }
            | Self::TooOld { .. }
            | Self::Closed => None,
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
            Error::Silent { .. } | Error::NoAddress { .. } => io::ErrorKind::TimedOut,
            Error::Misbehaved { .. } | Error::Certificate { .. } | Error::Tls { .. } => io::ErrorKind::InvalidData,
            Error::NoCertificateName { .. } => io::ErrorKind::InvalidInput,
            Error::Refused { .. } => io::ErrorKind::ConnectionRefused,
            Error::PortTaken { .. } => io::ErrorKind::AddrInUse,
            Error::TooOld { .. } => io::ErrorKind::Unsupported,
            Error::Lost { .. } => io::ErrorKind::ConnectionReset,
            Error::Io { source, .. } => source.kind(),
            Error::Closed => io::ErrorKind::NotConnected,
        };
        Self::new(kind, error)
    }
}
