//! Our own relay in the test's process, open or for one who is invited.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use relay::identity::{Identity, Rights};
use relay::server::{Anonymous, Certificate, Identities, Tls, TlsSettings};
use relay::{Config, Limits, PortRange, Server};
use relay_proto::identity::Token;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A relay that ends with the test.
pub(crate) struct Own {
    pub(crate) control: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Own {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Own {
    pub(crate) async fn start(config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let control = listener.local_addr().unwrap();
        let task = tokio::spawn(async { Server::run(listener, config, std::future::pending()).await.unwrap() });
        Self { control, task }
    }

    /// One that serves everyone.
    pub(crate) async fn open() -> Self {
        Self::start(config(60)).await
    }

    /// One that serves `laptop` alone.
    pub(crate) async fn closed(certificate: &OwnCertificate, plain_text: bool) -> Self {
        let tls = TlsSettings { own: certificate.for_server(), files: None, tls12: false };
        let laptop = Identity {
            name: "laptop".parse().unwrap(),
            verifier: Some(token().verifier()),
            certificate: None,
            // Ports that were its own count for as long as they are kept.
            rights: Rights { max_tunnels: 1000, ..Rights::default() },
            revoked: false,
        };
        let config = Config {
            anonymous: Anonymous::default(),
            tls: Some(Arc::new(Tls::new(tls).unwrap())),
            identities: Identities::new([laptop]),
            plain_text,
            // Each that was used is kept for a while.
            ..config(400)
        };
        Self::start(config).await
    }
}

fn config(ports: u16) -> Config {
    let limits = Limits {
        // It is waited for; loopback needs a fraction of it.
        handshake: Duration::from_secs(3),
        // Ports of pools are to be had again.
        pool_grace: Duration::from_millis(300),
        ..Limits::default()
    };
    Config { ports: own_ports(ports), public_address: [127, 0, 0, 1].into(), limits, ..Config::default() }
}

/// So many ports that no other test is given, above those of outgoing connections: a port that was freed stays free.
fn own_ports(count: u16) -> PortRange {
    const FIRST: u16 = 61_000;
    const ALL: u16 = u16::MAX - FIRST;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run at the same time have neighbouring ids.
    let start = u16::try_from(std::process::id() % 100 * 17 % u32::from(ALL - count)).unwrap();
    let taken = |next: u16| Some(if next + count > ALL - start { count } else { next + count });
    let first = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).unwrap();
    let first = if first + count > ALL - start { 0 } else { first };
    PortRange::FromTo(FIRST + start + first, FIRST + start + first + count - 1)
}

fn token() -> Token {
    Token::from_random([7; 32])
}

/// A certificate, and its key.
pub(crate) struct OwnCertificate {
    pub(crate) der: CertificateDer<'static>,
    key: String,
}

impl OwnCertificate {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["relay.test".into()]).unwrap();
        Self { der: params.self_signed(&key).unwrap().der().clone(), key: key.serialize_pem() }
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }

    fn for_server(&self) -> Certificate {
        Certificate::new(vec![self.der.clone()], self.key()).unwrap()
    }

    /// The invite of `laptop` to whoever has this certificate there.
    pub(crate) fn invite(&self, relay: SocketAddr) -> String {
        use sha2::{Digest, Sha256};
        let pin = Sha256::digest(&self.der).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        format!("relay://laptop:{}@{relay}?pin=sha256-{pin}", token().expose())
    }
}
