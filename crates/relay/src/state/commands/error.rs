//! Why a command did not do what was asked.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use relay_client::AddressError;
use relay_proto::identity::Name;

use crate::state::{ChangeError, Directory, StateError};

/// Why a command failed. `Display` says what to do. Unless it says otherwise, nothing was changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum CommandError {
    /// The state is refused.
    State(StateError),
    /// The change cannot be made.
    Refused {
        /// Of whom.
        name: Name,
        /// Why.
        error: ChangeError,
        /// A running server said so.
        running: bool,
    },
    /// A server holds the lock and does not answer: its fault. The change may have been made.
    Unanswered {
        /// Its directory.
        path: PathBuf,
        /// How that was noticed.
        source: io::Error,
    },
    /// The server is of another version, and the two have no words in common.
    NotUnderstood {
        /// Its directory.
        path: PathBuf,
    },
    /// The configured host is none: the fault of the configuration or of this machine's name.
    Host(AddressError),
    /// The result cannot be shown. The change was made.
    Output(io::Error),
}

impl CommandError {
    pub(super) fn not_understood(directory: &Directory) -> Self {
        Self::NotUnderstood { path: directory.path().into() }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(error) => error.fmt(f),
            Self::Refused { name, error, running } => {
                write!(f, "{name}: {error}")?;
                match error {
                    ChangeError::Unknown if !running => {
                        f.write_str("; for one of a configuration file, name that with --config FILE")
                    }
                    _ => Ok(()),
                }
            }
            Self::Unanswered { path, source } => write!(
                f,
                "the relay that runs with the state in {} does not answer: {source}; restart it, and see by `relay \
                 identities` whether the change was made",
                path.display()
            ),
            Self::NotUnderstood { path } => write!(
                f,
                "the relay that runs with the state in {} is of another version than this program: restart it",
                path.display()
            ),
            Self::Host(error) => write!(f, "{error}; name the relay's host with --host HOST[:PORT]"),
            Self::Output(error) => write!(f, "done, but the result cannot be shown: {error}"),
        }
    }
}

impl Error for CommandError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::State(error) => Some(error),
            Self::Refused { error, .. } => Some(error),
            Self::Unanswered { source, .. } | Self::Output(source) => Some(source),
            Self::Host(error) => Some(error),
            Self::NotUnderstood { .. } => None,
        }
    }
}

impl From<StateError> for CommandError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}
