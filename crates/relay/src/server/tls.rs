//! What the relay shows of itself over TLS.
//!
//! Two certificates may be there: the relay's own, self-signed, which clients with a pin ask for, and one from
//! files, which all others get. A pinned client asks by the name `<half>.<half>.pin.invalid`, whose halves are the
//! 64 hex digits of the pin.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use relay_proto::auth::Binding;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use sha2::{Digest, Sha256};

use super::registry::lock;

/// The protocol's name for TLS (RFC 7301).
pub(crate) const ALPN: &[u8] = b"relay/1";

/// A certificate chain and its key.
#[derive(Debug)]
pub struct Certificate {
    certified: Arc<CertifiedKey>,
    hash: [u8; 32],
}

impl Certificate {
    /// From a chain, the relay's own certificate first.
    ///
    /// # Errors
    /// The key is of no known kind or is not that of the certificate; or there is no certificate.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, rustls::Error> {
        let certified = CertifiedKey::from_der(chain, key, &provider())?;
        let hash = Sha256::digest(certified.end_entity_cert()?).into();
        Ok(Self { certified: Arc::new(certified), hash })
    }

    /// From PEM files.
    ///
    /// # Errors
    /// What is wrong, and with which file.
    pub fn from_files(files: &Files) -> Result<Self, FileError> {
        let wrong = |path: &Path, problem| FileError { path: path.to_owned(), problem };
        let chain: Vec<_> = CertificateDer::pem_file_iter(&files.certificate)
            .and_then(Iterator::collect)
            .map_err(|error| wrong(&files.certificate, Problem::Pem(error)))?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, Problem::Pem(error)))?;
        Self::new(chain, key).map_err(|error| wrong(&files.certificate, Problem::Pair(error)))
    }

    /// The relay's own, without those that vouch for it.
    pub fn der(&self) -> &CertificateDer<'static> {
        // Checked when it was made.
        &self.certified.cert[0]
    }
}

/// Where a certificate and its key are, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The chain, the relay's own certificate first.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Files {
    fn changed(&self) -> Option<[SystemTime; 2]> {
        let changed = |path: &Path| path.metadata().and_then(|metadata| metadata.modified()).ok();
        Some([changed(&self.certificate)?, changed(&self.key)?])
    }
}

/// A file of a certificate that cannot be used. The operator's to mend.
#[derive(Debug)]
pub struct FileError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug)]
enum Problem {
    Pem(rustls::pki_types::pem::Error),
    Pair(rustls::Error),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.problem {
            Problem::Pem(error) => write!(f, "cannot use {path}: {error}; it must be readable, and PEM"),
            Problem::Pair(error) => write!(f, "cannot use the certificate {path} with its key: {error}"),
        }
    }
}

impl std::error::Error for FileError {}

/// What the operator decides about TLS.
#[derive(Debug)]
pub struct Settings {
    /// The relay's own certificate, for clients that have its pin, and for all if there are no files.
    pub own: Certificate,
    /// The one for all others.
    pub files: Option<Files>,
    /// Whether TLS 1.2 will do, too.
    pub tls12: bool,
}

/// The relay's side of TLS.
pub struct Tls {
    current: RwLock<Arc<Generation>>,
    /// When the files had been changed that were read last, whether or not they could be used.
    seen: Mutex<Option<[SystemTime; 2]>>,
    files: Option<Files>,
    tls12: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

/// The certificates of a time. Sessions can be resumed only within it, so that each is tied to one certificate.
pub(super) struct Generation {
    pub(super) config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn new(settings: Settings) -> Result<Self, FileError> {
        let Settings { own, files, tls12 } = settings;
        let seen = files.as_ref().and_then(Files::changed);
        let current = Generation::new(Arc::new(own), files.as_ref(), tls12)?;
        Ok(Self { current: RwLock::new(Arc::new(current)), seen: Mutex::new(seen), files, tls12 })
    }

    pub(super) fn current(&self) -> Arc<Generation> {
        // Nothing panics while it holds the lock.
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again if they have changed; gives whether they had. What is alive is not touched.
    ///
    /// # Errors
    /// They cannot be used, which is told once for each change; the ones of before go on being shown.
    pub(super) fn reload(&self) -> Result<bool, FileError> {
        let Some(files) = &self.files else { return Ok(false) };
        let changed = files.changed();
        if std::mem::replace(&mut *lock(&self.seen), changed) == changed {
            return Ok(false);
        }
        let next = Generation::new(self.current().certificates.own.clone(), Some(files), self.tls12)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(true)
    }
}

fn provider() -> CryptoProvider {
    ring::default_provider()
}

impl Generation {
    fn new(own: Arc<Certificate>, files: Option<&Files>, tls12: bool) -> Result<Self, FileError> {
        let given = files.map(Certificate::from_files).transpose()?;
        let certificates = Arc::new(Certificates { own, given });
        let provider = Arc::new(provider());
        let versions = if tls12 { &[&TLS13, &TLS12][..] } else { &[&TLS13] };
        // Fails only for versions that the provider does not have.
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .unwrap_or_else(|error| unreachable!("{error}"));
        let mut config =
            config.with_client_cert_verifier(Arc::new(AnyClient(provider))).with_cert_resolver(certificates.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Without randomness for its keys there are no tickets, and sessions are not resumed.
        if let Ok(ticketer) = ring::Ticketer::new() {
            config.ticketer = ticketer;
        }
        // One for a dial-back of now, one for the next.
        config.send_tls13_tickets = 2;
        Ok(Self { config: Arc::new(config), certificates })
    }

    /// What proofs are bound to for a client that asked for that name.
    pub(super) fn binding(&self, name: Option<&str>) -> Binding {
        Binding::Certificate(self.certificates.pick(name).hash)
    }
}

#[derive(Debug)]
struct Certificates {
    own: Arc<Certificate>,
    given: Option<Certificate>,
}

impl Certificates {
    fn pick(&self, name: Option<&str>) -> &Certificate {
        let pin = name.and_then(pin_in);
        let given = self.given.as_ref();
        match pin {
            Some(pin) if pin == self.own.hash => &self.own,
            _ => given.unwrap_or(&self.own),
        }
    }
}

/// The pin that a client asks for.
fn pin_in(name: &str) -> Option<[u8; 32]> {
    let (high, low) = name.strip_suffix(".pin.invalid")?.split_once('.')?;
    let digits = |half: &str| (half.len() == 32).then(|| u128::from_str_radix(half, 16).ok()).flatten();
    let mut pin = [0; 32];
    pin[..16].copy_from_slice(&digits(high)?.to_be_bytes());
    pin[16..].copy_from_slice(&digits(low)?.to_be_bytes());
    Some(pin)
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.pick(hello.server_name()).certified.clone())
    }
}

/// Takes any certificate of a client whose key it has: whose it is, is told by its hash.
#[derive(Debug)]
struct AnyClient(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pem() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["relay.example".into()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn certificate() -> Certificate {
        let (certificate, key) = pem();
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        Certificate::new(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
    }

    fn asked_for(pin: [u8; 32]) -> String {
        let half = |bytes: &[u8]| u128::from_be_bytes(bytes.try_into().unwrap());
        format!("{:032x}.{:032x}.pin.invalid", half(&pin[..16]), half(&pin[16..]))
    }

    #[test]
    fn a_pin_is_asked_for_by_name() {
        let pin = std::array::from_fn(|at| u8::try_from(at * 7).unwrap());
        assert_eq!(pin_in(&asked_for(pin)), Some(pin));
        for other in ["relay.example", "pin.invalid", "a.b.pin.invalid", &format!("x{}", asked_for(pin))] {
            assert_eq!(pin_in(other), None, "{other}");
        }
    }

    #[test]
    fn who_has_the_pin_gets_the_own_certificate_and_all_others_that_of_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files { certificate: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
        let write = || {
            let (certificate, key) = pem();
            fs::write(&files.certificate, certificate).unwrap();
            fs::write(&files.key, key).unwrap();
            Certificate::from_files(&files).unwrap().hash
        };
        let first = write();
        let own = certificate();
        let own_hash = own.hash;
        let tls = Tls::new(Settings { own, files: Some(files.clone()), tls12: false }).unwrap();
        let generation = tls.current();
        let bound = |generation: &Generation, name: Option<&str>| match generation.binding(name) {
            Binding::Certificate(hash) => hash,
            Binding::None => panic!("bound to nothing"),
        };
        assert_eq!(bound(&generation, Some(&asked_for(own_hash))), own_hash);
        assert_eq!(bound(&generation, Some("relay.example")), first);
        assert_eq!(bound(&generation, None), first);
        assert!(!tls.reload().unwrap(), "nothing has changed");

        let second = write();
        // The system's clock may not have moved on between both.
        fs::File::open(&files.key).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert!(tls.reload().unwrap());
        assert_eq!(bound(&tls.current(), None), second);
        assert_eq!(bound(&generation, None), first, "who is there keeps what it was shown");

        fs::write(&files.key, "no key").unwrap();
        assert!(tls.reload().is_err());
        assert!(!tls.reload().unwrap(), "it is told once");
        assert_eq!(bound(&tls.current(), None), second);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let ((certificate, _), (_, key)) = (pem(), pem());
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        assert!(Certificate::new(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).is_err());
    }
}
