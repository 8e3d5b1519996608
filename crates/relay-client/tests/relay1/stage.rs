//! A relay that the test plays, and the certificates that it shows.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use relay_client::{Builder, Error, Event, Events, Listener, Relay, RelayAddr, Tls, Trust};
use relay_net::socket::Socket;
use relay_net::tls::{TlsError, TlsStream, accept};
use relay_proto::auth::Binding;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// A certificate and a key, which may be another's.
pub(crate) struct Shown {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: KeyPair,
}

impl Shown {
    /// One that nobody else has signed.
    pub(crate) fn self_signed(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        Self { certificate: params.self_signed(&key).unwrap().der().clone(), key }
    }

    /// One for a host, or an address, that a CA has signed.
    pub(crate) fn signed(host: &str, ca: &CertifiedIssuer<'_, KeyPair>) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.into()]).unwrap();
        Self { certificate: params.signed_by(&key, ca).unwrap().der().clone(), key }
    }

    pub(crate) fn pin(&self) -> [u8; 32] {
        match Binding::to_certificate(&self.certificate) {
            Binding::Certificate(hash) => hash,
            Binding::None => unreachable!(),
        }
    }
}

/// A certificate for nobody.
pub(crate) fn any() -> Shown {
    Shown::self_signed(&CertificateParams::new(Vec::new()).unwrap())
}

pub(crate) fn ca() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // As none that signs itself is called.
    params.distinguished_name.push(DnType::CommonName, "a CA");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A relay's control port.
pub(crate) struct Stage {
    pub(crate) control: TcpListener,
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) pin: [u8; 32],
}

impl Stage {
    /// That shows a certificate of its own.
    pub(crate) async fn new() -> Self {
        Self::showing(&any()).await
    }

    pub(crate) async fn showing(shown: &Shown) -> Self {
        let key = PrivateKeyDer::try_from(shown.key.serialize_der()).unwrap();
        let key = ring::sign::any_supported_type(&key).unwrap();
        let certified = CertifiedKey::new(vec![shown.certificate.clone()], key);
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        Self::configured(config, shown.pin()).await
    }

    pub(crate) async fn configured(mut config: ServerConfig, pin: [u8; 32]) -> Self {
        config.alpn_protocols = vec![b"relay/1".to_vec()];
        Self { control: TcpListener::bind("127.0.0.1:0").await.unwrap(), config: Arc::new(config), pin }
    }

    pub(crate) fn address(&self) -> RelayAddr {
        self.control.local_addr().unwrap().to_string().parse().unwrap()
    }

    /// TLS that trusts the certificate shown here.
    pub(crate) fn tls(&self) -> Tls {
        Tls::new(Trust::Pin(self.pin), None).unwrap()
    }

    /// A listener here, over TLS.
    pub(crate) fn builder(&self) -> Builder {
        Listener::to(Relay::Tls(self.address())).tls(self.tls())
    }

    /// The next connection, as it comes.
    pub(crate) async fn tcp(&self) -> TcpStream {
        within("a connection", self.control.accept()).await.unwrap().0
    }

    /// The next connection in plain text.
    pub(crate) async fn plain(&self) -> Peer {
        Peer(self.tcp().await.into())
    }

    pub(crate) async fn shake_hands(&self) -> Result<TlsStream, TlsError> {
        within("a handshake", Box::pin(accept(self.tcp().await, Vec::new(), self.config.clone()))).await
    }

    /// The next connection, over TLS.
    pub(crate) async fn secure(&self) -> Peer {
        Peer(self.shake_hands().await.unwrap().into())
    }

    /// Nobody else has connected, or does while others have their turns.
    pub(crate) async fn is_left_alone(&self) {
        let soon = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = self.control.accept() => panic!("one more connection"),
            () = soon => {}
        }
    }

    /// What comes of a try whose relay is played.
    pub(crate) async fn tried<T>(
        &self,
        builder: Builder,
        play: impl Future<Output = T>,
    ) -> (Result<Listener, Error>, T) {
        within("an end of the try", async { tokio::join!(builder.bind(), play) }).await
    }
}

/// A client, as its relay has it.
pub(crate) struct Peer(pub(crate) Socket);

impl Peer {
    pub(crate) async fn says(&self, bytes: &str) {
        within(bytes, self.0.write_all(bytes.as_bytes())).await.unwrap();
    }

    /// The client's next bytes must be these.
    pub(crate) async fn hears(&self, bytes: &str) {
        assert_eq!(self.takes(bytes.len()).await, bytes);
    }

    pub(crate) async fn takes(&self, len: usize) -> String {
        let mut heard = vec![0; len];
        let mut at = 0;
        while at < len {
            match within("bytes", self.0.read(&mut heard[at..])).await.unwrap() {
                0 => break,
                read => at += read,
            }
        }
        String::from_utf8_lossy(&heard[..at]).into_owned()
    }

    /// All of the next line.
    pub(crate) async fn line(&self) -> String {
        let mut line = String::new();
        while !line.ends_with('\n') {
            line += &self.takes(1).await;
        }
        line
    }

    /// The connection ends, cleanly or not, without another byte.
    pub(crate) async fn is_closed(&self) {
        let mut byte = [0];
        assert!(matches!(within("the end", self.0.read(&mut byte)).await, Ok(0) | Err(_)), "{byte:?}");
    }
}

pub(crate) async fn event_of(events: &mut Events) -> Event {
    within("an event", events.next()).await.unwrap()
}
