//! Why a state is refused, or cannot be kept.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why a state cannot be used. `Display` says what is wrong and what to do about it; nothing was changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum StateError {
    /// There is no place for a state: none was named, and the user has no home directory.
    NoPlace,
    /// No relay has kept a state where one was looked for.
    Missing {
        /// Where.
        looked: Vec<PathBuf>,
        /// Those of them that this user may not look into.
        hidden: Vec<PathBuf>,
        /// The caller named the place.
        named: bool,
    },
    /// Several places hold a state, and none was named.
    Several {
        /// Those.
        found: Vec<PathBuf>,
    },
    /// Others than its owner may read or write it.
    Exposed {
        /// What.
        path: PathBuf,
        /// What its permissions should be.
        mode: u32,
    },
    /// It belongs to another user.
    Foreign {
        /// What.
        path: PathBuf,
        /// The user's number.
        owner: u32,
    },
    /// Something else stands where the directory or a file should be.
    OutOfPlace {
        /// Where.
        path: PathBuf,
        /// What should be there.
        expected: &'static str,
    },
    /// Another server uses the directory.
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// A newer relay wrote it.
    Newer {
        /// Which file.
        path: PathBuf,
        /// The version of its format.
        version: u64,
    },
    /// It was cut short or changed so that it makes no sense.
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where in it, if that can be said; lines count from 1.
        line: Option<usize>,
        /// What can be done.
        remedy: &'static str,
    },
    /// The system failed us.
    Io {
        /// What was tried: "read", "write".
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
    /// The certificate cannot be made: the fault of a library.
    Certificate(Box<dyn Error + Send + Sync>),
}

impl StateError {
    /// For `map_err`: what was tried with `path` failed.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}

/// Paths as part of a sentence.
struct List<'a>(&'a [PathBuf], &'a str);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, path) in self.0.iter().enumerate() {
            let between = match at {
                0 => "",
                _ if at + 1 == self.0.len() => self.1,
                _ => ", ",
            };
            write!(f, "{between}{}", path.display())?;
        }
        Ok(())
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPlace => {
                f.write_str("there is no place for the state, as this user has no home: name one with --state DIR")
            }
            Self::Missing { looked, hidden, .. } if !hidden.is_empty() => write!(
                f,
                "no relay's state is in {}, but this user may not look into {}: try as root, or as the server's user",
                List(looked, " or "),
                List(hidden, " and ")
            ),
            Self::Missing { looked, named: true, .. } => {
                let path = List(looked, " or ");
                write!(f, "no relay's state is in {path}: start `relay server --state {path}` first, which makes it")
            }
            Self::Missing { looked, .. } => write!(
                f,
                "no relay's state is in {}: start `relay server` first, which makes it, or name another place with \
                 --state DIR",
                List(looked, " or ")
            ),
            Self::Several { found } => {
                write!(f, "relays have kept states in {}: name the right one with --state DIR", List(found, " and "))
            }
            Self::Exposed { path, mode } => {
                let path = path.display();
                write!(f, "{path} is open to other users of this machine; to close it, type: chmod {mode:o} {path}")
            }
            Self::Foreign { path, owner } => write!(
                f,
                "{} belongs to the user with number {owner}: run relay as that user, or give it to this one by chown",
                path.display()
            ),
            Self::OutOfPlace { path, expected } => {
                write!(f, "{} is not {expected}: move it away, or name another place with --state DIR", path.display())
            }
            Self::InUse { path } => write!(
                f,
                "another relay runs with the state in {}: stop it, or name another place with --state DIR",
                path.display()
            ),
            Self::Newer { path, version } => write!(
                f,
                "{} was written by a newer relay (format {version}) and is left as it is: run that version",
                path.display()
            ),
            Self::Damaged { path, line, remedy } => {
                write!(f, "{} is damaged", path.display())?;
                if let Some(line) = line {
                    write!(f, " at line {line}")?;
                }
                write!(f, " and left as it is: {remedy}")
            }
            Self::Io { doing, path, source } => {
                write!(f, "cannot {doing} {}: {source}{}", path.display(), advice(source.kind()))
            }
            Self::Certificate(error) => write!(f, "cannot make a certificate: {error}"),
        }
    }
}

fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space: nothing was changed",
        io::ErrorKind::ReadOnlyFilesystem => "; make it writable, or name another place with --state DIR",
        io::ErrorKind::PermissionDenied => "; try as root, or as the user that the state belongs to",
        // Of a socket, the only path whose length matters to us.
        io::ErrorKind::InvalidInput => "; choose a shorter path with --state DIR",
        _ => "",
    }
}

impl Error for StateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Certificate(error) => Some(&**error),
            _ => None,
        }
    }
}
