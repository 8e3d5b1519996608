//! A server with identities and TLS, and clients of it that speak raw lines.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use relay::identity::{Identity, Rights};
use relay::server::{Anonymous, Certificate, Identities, Tls, TlsSettings};
use relay::{Config, Limits};
use relay_net::socket::Socket;
use relay_net::tls::{self, TlsStream};
use relay_proto::auth::{Binding, Nonce, Proof};
use relay_proto::identity::{Name, Token};
use rustls::client::WantsClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use tokio::net::TcpStream;

use crate::support::{Peer, Relay, own_ports, within};

/// The token of everybody whose name begins with that byte.
pub(crate) fn token(name: &str) -> Token {
    Token::from_random([name.as_bytes()[0]; 32])
}

pub(crate) fn identity(name: &str, rights: Rights) -> Identity {
    let verifier = Some(token(name).verifier());
    Identity { name: name.parse().unwrap(), verifier, certificate: None, rights, revoked: false }
}

/// A certificate and its key in PEM.
pub(crate) fn self_signed() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["relay.test".into()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

/// A relay that serves these identities.
pub(crate) struct Secure {
    pub(crate) relay: Relay,
    pub(crate) identities: Identities,
    der: CertificateDer<'static>,
    /// What its clients without a certificate share: the sessions that they can resume, too.
    pub(crate) client: Arc<ClientConfig>,
}

impl Secure {
    pub(crate) async fn start(identities: impl IntoIterator<Item = Identity>) -> Self {
        Self::configured(identities, |_| {}).await
    }

    pub(crate) async fn configured(
        identities: impl IntoIterator<Item = Identity>,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        let (certificate, key) = self_signed();
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let own = Certificate::new(vec![der.clone()], key).unwrap();
        let tls = Tls::new(TlsSettings { own, files: None, tls12: false }).unwrap();
        let identities = Identities::new(identities);
        let mut config = Config {
            ports: own_ports(),
            limits: Limits::default(),
            anonymous: Anonymous::default(),
            tls: Some(Arc::new(tls)),
            identities: identities.clone(),
            ..Config::default()
        };
        configure(&mut config);
        let client = trusting(&der).with_no_client_auth();
        Self { relay: Relay::configured(config).await, identities, der, client: Arc::new(client) }
    }

    pub(crate) fn binding(&self) -> Binding {
        Binding::to_certificate(&self.der)
    }

    /// How somebody with that certificate and key, in PEM, speaks TLS.
    pub(crate) fn with_certificate(&self, (certificate, key): &(String, String)) -> Arc<ClientConfig> {
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        Arc::new(trusting(&self.der).with_client_auth_cert(chain, key).unwrap())
    }

    /// A connection under TLS to that address, which leads to the relay.
    pub(crate) async fn connect_to(&self, address: SocketAddr, client: &Arc<ClientConfig>) -> TlsStream {
        let stream = within("a connection", TcpStream::connect(address)).await.unwrap();
        self.over(stream, client).await
    }

    /// TLS over a connection that leads to the relay.
    pub(crate) async fn over(&self, stream: TcpStream, client: &Arc<ClientConfig>) -> TlsStream {
        let name = ServerName::try_from("relay.test").unwrap();
        within("TLS", tls::connect(stream, client.clone(), name)).await.unwrap()
    }

    /// A connection under TLS that has sent `lines`.
    pub(crate) async fn say(&self, lines: impl AsRef<[u8]>) -> Line {
        self.say_as(&self.client, lines).await
    }

    /// The same with a client certificate.
    pub(crate) async fn say_with(&self, certificate: &(String, String), lines: &str) -> Line {
        self.say_as(&self.with_certificate(certificate), lines).await
    }

    async fn say_as(&self, client: &Arc<ClientConfig>, lines: impl AsRef<[u8]>) -> Line {
        let line = Line(Socket::from(self.connect_to(self.relay.control, client).await));
        line.send(lines).await;
        line
    }

    /// A connection in plain text that has sent `lines`.
    pub(crate) async fn say_plainly(&self, lines: impl AsRef<[u8]>) -> Line {
        let peer: Peer = self.relay.say(lines).await;
        Line(Socket::from(peer.0))
    }

    /// Over TLS, has proven to be `name` with the token of `known`; asked for what the lines say.
    pub(crate) async fn prove(&self, name: &str, known: &str, lines: &str) -> Line {
        let line = self.say(format!("relay/1\nauth {name}\n")).await;
        line.proven(name, &token(known), &self.binding(), lines).await;
        line
    }

    /// A control connection of event, and its port.
    pub(crate) async fn event(&self, name: &str, options: &str) -> (Line, u16) {
        let line = self.prove(name, name, &format!("event{options}\nnew\n")).await;
        line.expect("ok").await;
        let port = line.line().await.parse().unwrap();
        (line, port)
    }
}

/// Trusts that certificate alone.
fn trusting(der: &CertificateDer<'static>) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(der.clone()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
}

/// One end of a connection to the relay.
pub(crate) struct Line(pub(crate) Socket);

impl Line {
    pub(crate) async fn send(&self, bytes: impl AsRef<[u8]>) {
        within("bytes leave", self.0.write_all(bytes.as_ref())).await.unwrap();
    }

    /// The next line; nothing behind it is lost.
    pub(crate) async fn line(&self) -> String {
        let mut line = String::new();
        loop {
            let mut byte = [0];
            match within("a line", self.0.read(&mut byte)).await.unwrap() {
                0 => panic!("ended after {line:?}"),
                _ if byte == *b"\n" => return line,
                _ => line.push(byte[0].into()),
            }
        }
    }

    pub(crate) async fn expect(&self, line: &str) {
        assert_eq!(self.line().await, line);
    }

    /// The relay has said no, with that code, and closed.
    pub(crate) async fn refused(&self, code: &str) {
        let line = self.line().await;
        assert!(line.starts_with(&format!("error {code}")), "{line}");
        assert_eq!(within("the close", self.0.read(&mut [0])).await.unwrap(), 0);
    }

    /// The relay has closed or reset it, without a word.
    pub(crate) async fn gone(&self) {
        let end = within("the end", self.0.read(&mut [0])).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }

    /// It has ended, whatever came before.
    pub(crate) async fn ended(&self) {
        while within("the end", self.0.read(&mut [0; 64])).await.is_ok_and(|read| read > 0) {}
    }

    pub(crate) async fn nonce(&self) -> Nonce {
        self.features().await;
        self.line().await.parse().unwrap()
    }

    pub(crate) async fn features(&self) {
        let features = self.line().await;
        assert!(features.starts_with("relay/1 auth"), "{features}");
    }

    /// The relay has asked for a proof, and gets it; then it is asked for what the lines say.
    pub(crate) async fn proven(&self, name: &str, token: &Token, binding: &Binding, lines: &str) -> (Nonce, Proof) {
        let nonce = self.nonce().await;
        let name: Name = name.parse().unwrap();
        let proof = token.prove(&name, &nonce, binding);
        self.send(format!("{proof}\n{lines}")).await;
        (nonce, proof)
    }

    /// Both say something that the other one hears.
    pub(crate) async fn chat(&self, user: &mut Peer) {
        user.send("question").await;
        let mut heard = [0; 8];
        let mut got = 0;
        while got < heard.len() {
            got += within("the question", self.0.read(&mut heard[got..])).await.unwrap();
        }
        assert_eq!(&heard, b"question");
        self.send("answer").await;
        user.expect("answer").await;
    }
}
