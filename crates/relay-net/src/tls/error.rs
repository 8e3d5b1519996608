//! What can go wrong in a TLS session, by who is at fault.

use std::{fmt, io};

use rustls::{AlertDescription, CertificateError, Error};

/// Why a TLS session failed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum TlsError {
    /// The connection beneath failed.
    Io(io::ErrorKind),
    /// The peer closed the connection before the handshake was complete, or later without `close_notify`, so that
    /// nobody can tell whether its last bytes are missing.
    Closed,
    /// The peer's certificate was not accepted: it is not the expected one, nobody trusted vouches for it, or the peer
    /// does not hold its key. To try again changes nothing.
    Certificate(CertificateError),
    /// The peer gave the session up and said why; [`AlertDescription::CertificateRequired`] is that it wants a
    /// certificate of ours.
    Alert(AlertDescription),
    /// The peer does not speak TLS, breaks its rules, or has no version or algorithm in common with us.
    Peer(Error),
    /// Something of ours is at fault, such as a certificate without its key.
    Ours(Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(kind) => write!(f, "the connection under TLS failed: {kind}"),
            Self::Closed => f.write_str("the peer closed the connection in the middle of TLS"),
            Self::Certificate(error) => write!(f, "the peer's certificate was not accepted: {error}"),
            Self::Alert(AlertDescription::CertificateRequired) => {
                f.write_str("the peer demands a certificate of ours, and was given none")
            }
            Self::Alert(alert) => write!(f, "the peer refused TLS with us: {alert:?}"),
            Self::Peer(error) => write!(f, "the peer's TLS is not acceptable: {error}"),
            Self::Ours(error) => write!(f, "TLS is not set up well on our side: {error}"),
        }
    }
}

impl std::error::Error for TlsError {}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => Self::Certificate(error),
            Error::AlertReceived(alert) => Self::Alert(alert),
            Error::UnsupportedNameType
            | Error::EncryptError
            | Error::InvalidCertRevocationList(_)
            | Error::General(_)
            | Error::FailedToGetCurrentTime
            | Error::FailedToGetRandomBytes
            | Error::HandshakeNotComplete
            | Error::BadMaxFragmentSize
            | Error::InconsistentKeys(_)
            | Error::Other(_) => Self::Ours(error),
            _ => Self::Peer(error),
        }
    }
}

impl From<io::Error> for TlsError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}

/// A session that was cut off is a connection reset, all else of TLS invalid data.
impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        match error {
            TlsError::Io(kind) => kind.into(),
            TlsError::Closed => Self::new(io::ErrorKind::ConnectionReset, error),
            _ => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}
