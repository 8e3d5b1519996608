//! How a relay is reached: over TCP, and TLS if it is set up. Never one in place of the other.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use relay_net::socket::Socket;
use relay_net::tls::{self, TlsError};
use relay_proto::handshake::Request;
use rustls::CertificateError;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::tls::{Tls, Trust, mismatch};
use crate::tunnel::ANSWER_WAIT;
use crate::{DialError, Error, Relay, RelayAddr, TlsSetupError, dial, dial_addr};

/// How much of what a relay sends is read at once.
const READ_AHEAD: usize = 4096;

/// A relay, and what protects the connections to it.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    pub(crate) relay: RelayAddr,
    /// Nothing in plain text.
    pub(crate) tls: Option<Tls>,
}

impl Reach {
    /// As the relay was written, except for what `tls` says.
    pub(crate) fn to(relay: Relay, tls: Option<Tls>) -> Result<Self, TlsSetupError> {
        let address = relay.address().clone();
        let tls = match (tls, relay) {
            (None, Relay::Plain(_)) => None,
            (None, Relay::Tls(_)) => Some(Tls::new(Trust::System, None)?),
            (Some(tls), Relay::Plain(_) | Relay::Tls(_)) => Some(tls),
            (tls, Relay::Invite(invite)) => {
                let as_written = || Tls::new(invite.pin.map_or(Trust::System, Trust::Pin), None);
                Some(tls.map_or_else(as_written, Ok)?.identity(invite.name, invite.token))
            }
        };
        Ok(Self { relay: address, tls })
    }

    /// Dials the relay by its name, for a connection on which it always reads. Gives with it which of the name's
    /// addresses answered.
    pub(crate) async fn dial(&self) -> Result<(Socket, SocketAddr), Error> {
        let (socket, peer) = self.secured(dial(self.relay.host(), self.relay.port())).await?;
        socket.watch_always_reading().map_err(|error| self.failed(error))?;
        Ok((socket, peer))
    }

    /// Dials the relay that a tunnel stands at, and says what the connection is for. Over TLS its id is all the
    /// relay needs: it gave it to none but us.
    pub(crate) async fn dial_back(&self, peer: SocketAddr, request: &Request) -> Result<Socket, Error> {
        let (socket, _) = self.secured(dial_addr(peer)).await?;
        socket.write_all(request.to_string().as_bytes()).await.map_err(|error| self.failed(error))?;
        Ok(socket)
    }

    /// Dials, and speaks TLS if it is set up.
    async fn secured(
        &self,
        dialling: impl Future<Output = Result<TcpStream, DialError>>,
    ) -> Result<(Socket, SocketAddr), Error> {
        let relay = || self.relay.clone();
        let tls = match &self.tls {
            None => None,
            Some(tls) => match tls.server_name(self.relay.host()) {
                None => return Err(Error::NoCertificateName { relay: relay() }),
                Some(name) => Some((tls, name)),
            },
        };
        let tcp = dialling.await?;
        let peer = tcp.peer_addr().map_err(|error| self.failed(error))?;
        let Some((tls, name)) = tls else { return Ok((tcp.into(), peer)) };
        // Large, and soon over.
        let handshake = Box::pin(tls::connect(tcp, tls.config().clone(), name));
        match timeout(ANSWER_WAIT, handshake).await {
            Ok(Ok(stream)) => Ok((stream.into(), peer)),
            Ok(Err(TlsError::Certificate(source))) => {
                let expected = tls.trust().clone();
                let came = mismatch(&expected, &source).into();
                Err(Error::Certificate { relay: relay(), expected, came, only_not_now: is_about_time(&source) })
            }
            Ok(Err(error)) => Err(Error::Tls { relay: relay(), source: Arc::new(error.into()) }),
            Err(_) => Err(Error::Silent { relay: relay(), waited: ANSWER_WAIT }),
        }
    }

    pub(crate) fn failed(&self, source: io::Error) -> Error {
        Error::Io { relay: self.relay.clone(), source: Arc::new(source) }
    }
}

/// The right certificate at the wrong time: it is renewed, or our clock is set.
fn is_about_time(error: &CertificateError) -> bool {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    matches!(error, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
}

impl Tls {
    /// A connection to the relay on which nothing has been said, for programs that say the lines themselves.
    /// Cancel safe.
    ///
    /// # Errors
    /// The relay cannot be reached, or is not the one that is trusted.
    // Hidden as its type is one of the data path, which promises nothing to others than the conformance kit.
    #[doc(hidden)]
    pub async fn dial(&self, relay: &RelayAddr) -> Result<Socket, Error> {
        let reach = Reach { relay: relay.clone(), tls: Some(self.clone()) };
        Ok(reach.dial().await?.0)
    }
}

/// What arrives next; nothing at an end. Holds no memory while it waits. Cancel safe.
pub(crate) async fn next_bytes(socket: &Socket) -> io::Result<Vec<u8>> {
    loop {
        socket.readable().await?;
        let mut bytes = vec![0; READ_AHEAD];
        match socket.try_read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => {
                bytes.truncate(read?);
                return Ok(bytes);
            }
        }
    }
}
