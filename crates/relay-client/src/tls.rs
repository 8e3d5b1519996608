//! TLS to a relay: which certificate is taken for its own, and who we are.
//!
//! TLS 1.3 only, and nothing skips the check. Sessions are resumed, which makes dialling back cheap; there is no
//! early data.

mod sessions;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use relay_proto::auth::Binding;
use relay_proto::identity::{Name, Token};
use relay_proto::invite;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption, WantsClientCert};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, CipherSuite, ConfigBuilder, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
};
use sessions::Sessions;

/// What clients offer as their protocol (ALPN, RFC 7301).
pub const ALPN: &[u8] = b"relay/1";

/// Which certificate is taken for the relay's own.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trust {
    /// The one whose DER, whole, has this SHA-256. Its names and dates do not matter.
    Pin([u8; 32]),
    /// One for the relay's host, signed by a CA of this PEM file.
    CaFile(PathBuf),
    /// One for the relay's host, signed by a CA that this system trusts.
    System,
}

/// The certificate by which the relay knows a client, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// A PEM file: the certificate, then those that lead from it to its CA.
    pub chain: PathBuf,
    /// A PEM file with the certificate's private key.
    pub key: PathBuf,
}

/// How TLS to a relay is spoken. Cheap to clone; clones share the sessions that can be resumed.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    trust: Arc<Trust>,
    identity: Option<Arc<Identity>>,
}

/// A name, and the token that proves it.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) name: Name,
    pub(crate) token: Token,
}

impl Tls {
    /// TLS to the relay that has a trusted certificate. Reads the files that are named, now and never again.
    ///
    /// # Errors
    /// A file cannot be used, or the system trusts nobody: the caller's to mend.
    pub fn new(trust: Trust, client: Option<&ClientCertificate>) -> Result<Self, TlsSetupError> {
        let provider = Arc::new(provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsSetupError::Library(Arc::new(error)))?;
        let builder: ConfigBuilder<_, WantsClientCert> = match &trust {
            Trust::Pin(pin) => {
                let pinned = Pinned { pin: *pin, provider };
                builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned))
            }
            Trust::CaFile(file) => builder.with_root_certificates(roots_of(file)?),
            Trust::System => builder.with_root_certificates(system_roots()?),
        };
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(ClientCertificate { chain, key }) => {
                let shown = builder.with_client_auth_cert(certificates(chain)?, private_key(key)?);
                shown.map_err(|error| unusable(chain, error))?
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::store(Arc::new(Sessions::default()));
        Ok(Self { config: Arc::new(config), trust: Arc::new(trust), identity: None })
    }

    /// The same, for a client that proves an identity. The token itself is never sent.
    pub(crate) fn identity(mut self, name: Name, token: Token) -> Self {
        self.identity = Some(Arc::new(Identity { name, token }));
        self
    }

    pub(crate) fn proves(&self) -> Option<&Identity> {
        self.identity.as_deref()
    }

    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    pub(crate) fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// What the relay at `host` is asked for (SNI, RFC 6066). By the pin it is told which of its certificates is
    /// expected. `None` when `host` can be in no certificate.
    pub(crate) fn server_name(&self, host: &str) -> Option<ServerName<'static>> {
        let name = match &*self.trust {
            Trust::Pin(pin) => invite::server_name(pin),
            Trust::CaFile(_) | Trust::System => host.to_owned(),
        };
        name.try_into().ok()
    }
}

/// AES-128 goes first: nobody can tell it from AES-256 by what it keeps secret today, and it costs a quarter less.
fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    // The order of the others stays.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config: _, trust, identity } = self;
        f.debug_struct("Tls").field("trust", trust).field("identity", identity).finish_non_exhaustive()
    }
}

impl Trust {
    /// What can be done when another certificate came.
    pub(crate) fn advice(&self) -> &'static str {
        match self {
            Self::Pin(_) => "ask the operator for a new invite",
            Self::CaFile(_) => "ask the operator for the file of its CA",
            Self::System => "ask the operator for an invite, or for the file of its CA",
        }
    }
}

/// As digits.
struct Hex<'a>(&'a [u8; 32]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Trust {
    /// As what the relay's certificate is expected to be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pin(pin) => write!(f, "the one with SHA-256 {}", Hex(pin)),
            Self::CaFile(file) => write!(f, "one for its host, signed by a CA of {}", file.display()),
            Self::System => f.write_str("one for its host, signed by a CA that this system trusts"),
        }
    }
}

/// How much is told of a certificate, in characters: some of its names, not hundreds.
const MAX_CAME: usize = 256;

/// What came instead of a certificate that is trusted.
pub(crate) fn mismatch(expected: &Trust, error: &CertificateError) -> String {
    match (expected, error) {
        (_, CertificateError::Other(OtherError(other))) => other.to_string(),
        (_, CertificateError::UnknownIssuer) => "another CA has signed it".into(),
        // Only the handshake's signature is checked.
        (Trust::Pin(_), CertificateError::BadSignature) => "whoever shows it does not have its key".into(),
        (_, CertificateError::BadSignature) => {
            "another CA of the same name has signed it, or whoever shows it does not have its key".into()
        }
        // The names in a certificate are its owner's to choose, and as many as he likes.
        (_, error) => error.to_string().chars().take(MAX_CAME).map(printable).collect(),
    }
}

fn printable(c: char) -> char {
    if c.is_ascii_graphic() || c == ' ' { c } else { char::REPLACEMENT_CHARACTER }
}

/// Takes one certificate, whoever signed it and whatever it says, from one who has its key.
#[derive(Debug)]
struct Pinned {
    pin: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match Binding::to_certificate(end_entity) {
            Binding::Certificate(hash) if hash != self.pin => {
                Err(CertificateError::Other(OtherError(Arc::new(Other(hash)))).into())
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A certificate that is not the pinned one: its SHA-256.
#[derive(Debug)]
struct Other([u8; 32]);

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it has SHA-256 {}", Hex(&self.0))
    }
}

impl std::error::Error for Other {}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsSetupError> {
    let unread = |error| unread(file, "certificate", error);
    let all: Vec<_> = CertificateDer::pem_file_iter(file).map_err(unread)?.collect::<Result<_, _>>().map_err(unread)?;
    if all.is_empty() { Err(unread(PemError::NoItemsFound)) } else { Ok(all) }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, TlsSetupError> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| unread(file, "private key", error))
}

/// What a PEM file holds instead is not shown: it may be a key.
fn unread(file: &Path, what: &'static str, error: PemError) -> TlsSetupError {
    match error {
        PemError::Io(source) => TlsSetupError::Unreadable { file: file.into(), source: Arc::new(source) },
        _ => TlsSetupError::NotPem { file: file.into(), what },
    }
}

fn unusable(file: &Path, error: rustls::Error) -> TlsSetupError {
    TlsSetupError::Unusable { file: file.into(), source: Arc::new(error) }
}

fn roots_of(file: &Path) -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| unusable(file, error))?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, TlsSetupError> {
    let mut roots = RootCertStore::empty();
    // Every system has some that are too old to be understood.
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 { Err(TlsSetupError::NoSystemRoots) } else { Ok(roots) }
}

/// TLS cannot be set up: the caller's to mend, before anything was sent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TlsSetupError {
    /// A file cannot be read.
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// A file does not hold what it should, in PEM.
    NotPem {
        /// Which.
        file: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// A certificate that is of no use, or does not belong to the key beside it.
    Unusable {
        /// In which file.
        file: PathBuf,
        /// Why.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// This system trusts no CA.
    NoSystemRoots,
    /// The TLS library refuses to work.
    Library(Arc<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for TlsSetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, source } => write!(f, "cannot read {}: {source}", file.display()),
            Self::NotPem { file, what } => write!(f, "{} holds no {what} in PEM", file.display()),
            Self::Unusable { file, source } => {
                write!(f, "the certificate in {} cannot be used: {source}", file.display())
            }
            Self::NoSystemRoots => {
                f.write_str("this system trusts no CA: install its package of CA certificates, or name a CA file")
            }
            Self::Library(source) => write!(f, "TLS cannot be set up: {source}"),
        }
    }
}

impl std::error::Error for TlsSetupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::Unusable { source, .. } | Self::Library(source) => Some(source),
            Self::NotPem { .. } | Self::NoSystemRoots => None,
        }
    }
}
