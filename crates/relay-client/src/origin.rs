//! Where a user is: the line with which a relay says so, ahead of the user's first byte.

use std::time::Duration;

use relay_net::mux::Stream;
use relay_net::socket::Socket;
use relay_proto::handshake::HandshakeError;
use relay_proto::proxy::{Header, ProxyError, Reader};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::reach::next_bytes;
use crate::{Error, RelayAddr};

/// How long a relay that tells where users are may take to say it of one that it has brought. It has the line at hand,
/// so a path that stalls is all that delays it.
pub const ADDRESS_WAIT: Duration = Duration::from_secs(10);

/// Why it is not said where a user is.
#[derive(Debug)]
pub(crate) enum NoLine {
    /// The connection ended before: the user has left, or the relay has.
    Gone,
    Late,
    Bad(ProxyError),
}

impl NoLine {
    /// What to tell of it; nothing if it is nobody's fault.
    pub(crate) fn error(self, relay: &RelayAddr) -> Option<Error> {
        let relay = relay.clone();
        match self {
            Self::Gone => None,
            Self::Late => Some(Error::NoAddress { relay, waited: ADDRESS_WAIT }),
            Self::Bad(source) => Some(Error::Misbehaved { relay, source: HandshakeError::BadProxy(source) }),
        }
    }
}

/// Reads the line, of which `unread` has arrived already, and leaves there what came behind.
pub(crate) async fn from_socket(socket: &Socket, unread: &mut Vec<u8>) -> Result<Header, NoLine> {
    let reading = async {
        let mut reader = Reader::v1();
        loop {
            let mut input = &unread[..];
            if let Some(header) = reader.read(&mut input).map_err(NoLine::Bad)? {
                *unread = input.to_vec();
                return Ok(header);
            }
            *unread = next_bytes(socket).await.map_err(|_| NoLine::Gone)?;
            if unread.is_empty() {
                return Err(NoLine::Gone);
            }
        }
    };
    timeout(ADDRESS_WAIT, reading).await.unwrap_or(Err(NoLine::Late))
}

/// Reads the line and no byte behind it, which stays with the stream.
pub(crate) async fn from_stream(stream: &mut Stream) -> Result<Header, NoLine> {
    let reading = async {
        let mut reader = Reader::v1();
        loop {
            let byte = stream.read_u8().await.map_err(|_| NoLine::Gone)?;
            if let Some(header) = reader.read(&mut &[byte][..]).map_err(NoLine::Bad)? {
                return Ok(header);
            }
        }
    };
    timeout(ADDRESS_WAIT, reading).await.unwrap_or(Err(NoLine::Late))
}
