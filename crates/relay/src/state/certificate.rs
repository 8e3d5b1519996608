//! The certificate that invites are pinned to.

use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::file::{self, Document};
use super::{Directory, Locked, StateError};

/// The file that a state begins with.
pub(super) const FILE: &str = "certificate.toml";
/// What it is issued to. Nobody compares it: clients know the certificate itself.
const SUBJECT: &str = "relay";

/// The relay's self-signed certificate and its key.
#[derive(Debug)]
pub struct Certificate {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

/// As it is kept: both in PEM (RFC 7468).
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    certificate: String,
    key: String,
}

impl Document for Stored {
    const NAME: &'static str = FILE;
    const REMEDY: &'static str = "put back a copy of it; without one, move the whole directory away, start the server \
                                  and invite everyone anew";
}

impl Certificate {
    /// The certificate of this state, made if there is none yet.
    ///
    /// # Errors
    /// It is damaged, or cannot be read or written.
    pub fn load_or_make(locked: &Locked) -> Result<Self, StateError> {
        if let Some(certificate) = Self::load(locked)? {
            return Ok(certificate);
        }
        let (certificate, stored) = Self::made()?;
        file::write(locked, &stored)?;
        Ok(certificate)
    }

    /// A new one, of no state.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(crate) fn fresh() -> Result<Self, StateError> {
        Self::made().map(|(certificate, _)| certificate)
    }

    fn made() -> Result<(Self, Stored), StateError> {
        let stored = make().map_err(|error| StateError::Certificate(error.into()))?;
        let certificate = stored.parse().ok_or_else(|| StateError::Certificate("it cannot be read back".into()))?;
        Ok((certificate, stored))
    }

    /// The certificate of this state, if there is one.
    pub(super) fn load(directory: &Directory) -> Result<Option<Self>, StateError> {
        let Some(stored) = file::read::<Stored>(directory)? else {
            return Ok(None);
        };
        let damaged = || StateError::Damaged { path: directory.path().join(FILE), line: None, remedy: Stored::REMEDY };
        stored.parse().map(Some).ok_or_else(damaged)
    }

    /// The certificate.
    pub fn der(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// Its key. Secret.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    /// What clients know it by: SHA-256 of the whole certificate.
    pub fn pin(&self) -> [u8; 32] {
        Sha256::digest(&self.certificate).into()
    }
}

impl Stored {
    fn parse(&self) -> Option<Certificate> {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).ok()?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).ok()?;
        // Fails also when they do not belong together.
        CertifiedKey::from_der(vec![certificate.clone()], key.clone_key(), &default_provider()).ok()?;
        Some(Certificate { certificate, key })
    }
}

/// On the curve P-256, which every TLS library knows.
fn make() -> Result<Stored, rcgen::Error> {
    let mut params = CertificateParams::new([SUBJECT.into()])?;
    params.distinguished_name.push(DnType::CommonName, SUBJECT);
    // Says that it does not expire (RFC 5280, section 4.1.2.5): the last second of the year 9999.
    params.not_after = date_time_ymd(9999, 12, 31) + Duration::from_secs(24 * 60 * 60 - 1);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    Ok(Stored { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::rig;
    use super::*;

    #[test]
    fn it_is_made_once() {
        let place = tempfile::tempdir().unwrap();
        let locked = rig::lock(place.path());
        assert!(Certificate::load(&locked).unwrap().is_none());
        let made = Certificate::load_or_make(&locked).unwrap();
        let again = Certificate::load_or_make(&locked).unwrap();
        assert_eq!((made.der(), made.pin(), made.key()), (again.der(), again.pin(), again.key()));
        assert_eq!(made.pin()[..], Sha256::digest(made.der())[..]);
        assert_eq!(super::super::certificate_names(&made.der()), ["relay"]);
        // Its end, as ASN.1 has it.
        assert!(made.der().windows(15).any(|bytes| bytes == b"99991231235959Z"));
        let shown = format!("{made:?}");
        let key = made.key();
        let secret = format!("{:?}", key.secret_der());
        assert!(!shown.contains(&secret[1..40]), "{shown}");
    }

    #[test]
    fn one_that_has_lost_its_key_is_refused_and_kept() {
        let (one, other) = (rig::state(), rig::state());
        let read = |place: &tempfile::TempDir| fs::read_to_string(place.path().join(FILE)).unwrap();
        let (mine, theirs) = (read(&one), read(&other));
        let key = |text: &str| text[text.find("key = ").unwrap()..].to_owned();
        for damaged in
            [mine.replace(&key(&mine), &key(&theirs)), mine.replace("BEGIN PRIVATE", "BEGIN"), mine.replace("MI", "M!")]
        {
            assert_ne!(damaged, mine);
            fs::write(one.path().join(FILE), &damaged).unwrap();
            let error = Certificate::load_or_make(&rig::lock(one.path())).unwrap_err();
            assert!(matches!(error, StateError::Damaged { .. }), "{error}");
            assert_eq!(read(&one), damaged);
        }
    }
}
