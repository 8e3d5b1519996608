//! What a configuration refers to: files and variables of the environment.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// The longest file that is read, in bytes. 4 MiB: 60 000 lines of identities, and no device that never ends.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// What to do with the files and variables that a configuration refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum References {
    /// They are read, and what is wrong with them is a problem of the configuration.
    Read,
    /// They are left alone: tokens are not known then. For who has no right to read them, or no need.
    Leave,
}

impl References {
    /// What a file holds that nobody else may read.
    pub(super) fn secret(self, path: &Path) -> Result<Option<String>, String> {
        match self {
            Self::Read => secret(path).map(Some),
            Self::Leave => Ok(None),
        }
    }

    /// What a variable holds.
    pub(super) fn variable(self, name: &str) -> Result<Option<String>, String> {
        // The system takes no such name, and Rust would panic on some.
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err("no variable of the environment can have that name".into());
        }
        match self {
            Self::Read => match std::env::var(name) {
                Ok(value) if !value.is_empty() => Ok(Some(value)),
                Ok(_) | Err(std::env::VarError::NotPresent) => {
                    Err(format!("the environment has no variable {name:?}: set it for this program"))
                }
                Err(_) => Err(format!("the variable {name:?} is not text")),
            },
            Self::Leave => Ok(None),
        }
    }

    /// Checks a certificate chain and its key.
    pub(super) fn certificate(self, chain: &Path, key: &Path) -> Result<(), String> {
        match self {
            Self::Read => certificate(chain, key),
            Self::Leave => Ok(()),
        }
    }

    /// Checks the certificates of authorities.
    pub(super) fn authorities(self, path: &Path) -> Result<(), String> {
        match self {
            Self::Read => authorities(path).map(drop),
            Self::Leave => Ok(()),
        }
    }
}

/// The text of a file; the error says which file, and what to do.
pub(crate) fn text(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    match read {
        Ok(length) if length as u64 > MAX_FILE => {
            Err(format!("{} has more than {} MiB", path.display(), MAX_FILE >> 20))
        }
        Ok(_) => Ok(text),
        Err(error) => Err(cannot_read(path, &error)),
    }
}

/// The same of a file that nobody but its owner and group may read: a group is how service managers and container
/// platforms hand a secret to a program.
fn secret(path: &Path) -> Result<String, String> {
    let text = text(path)?;
    if is_exposed(path) {
        let path = path.display();
        return Err(format!("others may read or change {path}: type `chmod 600 {path}`, and replace what it holds"));
    }
    Ok(text)
}

/// Whether others may read the file, or more than its owner may change it.
#[cfg(unix)]
pub(crate) fn is_exposed(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o027 != 0)
}

/// Elsewhere access follows from the folder.
#[cfg(not(unix))]
pub(crate) fn is_exposed(_: &Path) -> bool {
    false
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "; is the name right?",
        io::ErrorKind::PermissionDenied => "; let the user that this program runs as read it",
        io::ErrorKind::InvalidData => "; it must be text in UTF-8",
        _ => "",
    };
    format!("cannot read {}: {error}{hint}", path.display())
}

/// Checks that a certificate chain and its key, both PEM, fit each other, and that the key is private.
fn certificate(chain: &Path, key: &Path) -> Result<(), String> {
    let certificates = authorities(chain)?;
    let private = PrivateKeyDer::from_pem_slice(secret(key)?.as_bytes()).map_err(|error| not_pem(key, &error))?;
    let fits = CertifiedKey::from_der(certificates, private, &ring::default_provider());
    fits.map(drop)
        .map_err(|error| format!("the key {} does not fit the certificate {}: {error}", key.display(), chain.display()))
}

/// All certificates of a PEM file; never none.
pub(crate) fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = text(path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let all = all.and_then(|all| if all.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(all) });
    all.map_err(|error| not_pem(path, &error))
}

fn not_pem(path: &Path, error: &pem::Error) -> String {
    let problem = match error {
        pem::Error::NoItemsFound => "nothing of that kind is in it",
        _ => "it is damaged",
    };
    format!("{} is not PEM with a certificate or a key: {problem}", path.display())
}
