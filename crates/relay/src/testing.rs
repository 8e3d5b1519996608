//! A relay for tests, in one line.

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use relay_client::{Invite, Name, RelayAddr, Token};
use relay_net::socket;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::identity::{Identity, Rights};
use crate::server::{Certificate, Identities, Reservation, Tls, TlsSettings, WriteReservations};
use crate::{Config, Server, state};

/// A relay on a free port of the loopback interface, as one that runs elsewhere: open to everyone in plain text, and
/// over TLS for those who have an [invite](Self::invite). Dropping it ends it, and resets whoever is connected.
///
/// ```
/// use relay::testing::Relay;
/// use relay_client::Listener;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let relay = Relay::start()?;
/// let mut listener = Listener::builder(&relay.url())?.bind().await?;
/// let user = tokio::net::TcpStream::connect(listener.public_address().to_string()).await?;
/// let connection = listener.accept().await?;
/// # drop((user, connection));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Relay {
    address: RelayAddr,
    config: Config,
    /// What the certificate is known by.
    pin: [u8; 32],
    /// The ports that are kept for those who were invited.
    kept: Arc<Mutex<Vec<Reservation>>>,
    server: Option<AbortOnDropHandle<io::Result<()>>>,
}

impl Relay {
    /// Starts it, in the current tokio runtime.
    ///
    /// # Errors
    /// The system has no port or no randomness to give.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start() -> io::Result<Self> {
        let certificate = state::Certificate::fresh().map_err(io::Error::other)?;
        let pin = certificate.pin();
        let own = Certificate::new(vec![certificate.der()], certificate.key()).map_err(io::Error::other)?;
        let tls = Tls::new(TlsSettings { own, files: None, tls12: false }).map_err(io::Error::other)?;
        let kept = Arc::new(Mutex::new(Vec::new()));
        let written = kept.clone();
        let write = move |reservations| {
            *written.lock().unwrap_or_else(PoisonError::into_inner) = reservations;
            Ok(())
        };
        let config = Config {
            public_address: Ipv4Addr::LOCALHOST.into(),
            tls: Some(Arc::new(tls)),
            identities: Identities::new([]),
            write_reservations: Some(WriteReservations(Arc::new(write))),
            ..Config::default()
        };
        let listener = socket::listen((Ipv4Addr::LOCALHOST, 0).into())?;
        let port = listener.local_addr()?.port();
        let address = RelayAddr::new(&Ipv4Addr::LOCALHOST.to_string(), port).map_err(io::Error::other)?;
        let mut relay = Self { address, config, pin, kept, server: None };
        relay.serve(listener);
        Ok(relay)
    }

    /// Its control port.
    pub fn address(&self) -> &RelayAddr {
        &self.address
    }

    /// The same, as [`Listener::builder`](relay_client::Listener::builder) takes it: in plain text, without an
    /// identity.
    pub fn url(&self) -> String {
        self.address.to_string()
    }

    /// Invites somebody, who comes over TLS; in place of who was invited by that name before.
    ///
    /// # Panics
    /// That is no [`Name`].
    pub fn invite(&self, name: &str) -> String {
        let name: Name = name.parse().unwrap_or_else(|error| panic!("{name:?}: {error}"));
        let token = Token::from_random(rand::random());
        self.config.identities.put(Identity {
            name: name.clone(),
            verifier: Some(token.verifier()),
            certificate: None,
            rights: Rights::default(),
            revoked: false,
        });
        Invite { name, token, relay: self.address.clone(), pin: Some(self.pin) }.to_string()
    }

    /// Revokes an invite: whoever uses it is cut off, and told so when he comes again. Nothing, if nobody has that
    /// name.
    pub fn revoke(&self, name: &str) {
        if let Ok(name) = name.parse() {
            self.config.identities.revoke(&name);
        }
    }

    /// Ends it, as a crash would: everybody is reset, and its port refuses until it is [started
    /// again](Self::restart).
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            // It was told to.
            let _ = server.await;
        }
    }

    /// Ends it, if it runs, and starts it again on the same port. Who was invited stays so, and has the public port
    /// that it had.
    ///
    /// # Errors
    /// Another program has taken the port in the meantime.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.stop().await;
        self.serve(socket::listen((Ipv4Addr::LOCALHOST, self.address.port()).into())?);
        Ok(())
    }

    fn serve(&mut self, listener: TcpListener) {
        let reservations = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let config = Config { reservations, ..self.config.clone() };
        let server = Server::run(listener, config, std::future::pending());
        self.server = Some(AbortOnDropHandle::new(tokio::spawn(server)));
    }
}
