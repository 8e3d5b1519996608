//! The configuration files of the server and of the forwarder: TOML, read into our own types.
//!
//! A file is read whole before anything is done: [`ConfigError`] has all that is wrong with it. docs/CONFIGURATION.md
//! lists every key. Which of both kinds a file is, its keys tell.
//!
//! ```text
//!  server.rs, forwarder.rs  what each kind of file says
//!  reader.rs                tables, read key by key; what nobody reads is unknown
//!  values.rs                values, as the command line has them, too
//!  files.rs                 the files and variables that a configuration refers to
//! ```

pub(crate) mod files;
mod forwarder;
mod problem;
mod reader;
mod server;
pub(crate) mod values;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

pub use self::files::References;
use self::files::text;
pub(crate) use self::forwarder::takes;
pub use self::forwarder::{Forwarder, Service};
pub use self::problem::{ConfigError, Problem};
use self::reader::Source;
pub use self::server::{Anonymous, Limits, Server, Tls};

/// Whose configuration a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// That of `relay server`.
    Server,
    /// That of `relay forward`.
    Forwarder,
}

impl Kind {
    fn other(self) -> Self {
        match self {
            Self::Server => Self::Forwarder,
            Self::Forwarder => Self::Server,
        }
    }

    /// The keys that only this kind has.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Server => server::KEYS,
            Self::Forwarder => forwarder::KEYS,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Forwarder => "forwarder",
        })
    }
}

/// What a file says.
#[derive(Clone, Debug, PartialEq)]
pub enum Configuration {
    /// A server's.
    Server(Box<Server>),
    /// A forwarder's.
    Forwarder(Box<Forwarder>),
}

impl Configuration {
    /// Reads a file of either kind. One with no key of a forwarder's is a server's.
    ///
    /// # Errors
    /// All that is wrong with it, and with what it refers to.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(path, &open(path)?, None, References::Read)
    }

    /// Reads the text of the file `path`, of `kind` if that is known. Without [`References::Read`] nothing outside of
    /// the text is looked at.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(path: &Path, text: &str, kind: Option<Kind>, references: References) -> Result<Self, ConfigError> {
        let source = Source::new(path, text, references);
        let configuration = read(&source, kind);
        let problems = source.into_problems();
        configuration.filter(|_| problems.is_empty()).ok_or(ConfigError(problems))
    }

    /// Whose it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Server(_) => Kind::Server,
            Self::Forwarder(_) => Kind::Forwarder,
        }
    }
}

impl Server {
    /// Reads a server's file.
    ///
    /// # Errors
    /// All that is wrong with it and, with [`References::Read`], with what it refers to.
    pub fn open(path: &Path, references: References) -> Result<Self, ConfigError> {
        match Configuration::parse(path, &open(path)?, Some(Kind::Server), references)? {
            Configuration::Server(server) => Ok(*server),
            Configuration::Forwarder(_) => unreachable!("it was read as a server's"),
        }
    }
}

impl Forwarder {
    /// Reads a forwarder's file, and what it refers to.
    ///
    /// # Errors
    /// All that is wrong with both.
    pub fn open(path: &Path) -> Result<Self, ConfigError> {
        match Configuration::parse(path, &open(path)?, Some(Kind::Forwarder), References::Read)? {
            Configuration::Forwarder(forwarder) => Ok(*forwarder),
            Configuration::Server(_) => unreachable!("it was read as a forwarder's"),
        }
    }
}

fn open(path: &Path) -> Result<String, ConfigError> {
    text(path).map_err(|problem| ConfigError::of(path, problem))
}

/// Reads a source as a file of `kind`, else of the kind that its keys tell. `None` if it is not TOML.
fn read(source: &Source<'_>, kind: Option<Kind>) -> Option<Configuration> {
    let mut root = source.root()?;
    let has = |kind: Kind| kind.keys().iter().any(|&key| root.contains_key(key));
    let is_forwarder = has(Kind::Forwarder) && !has(Kind::Server);
    let kind = kind.unwrap_or(if is_forwarder { Kind::Forwarder } else { Kind::Server });
    for &key in kind.other().keys() {
        if let Some((key, _)) = root.remove_entry(key) {
            let what = format!("`{}` belongs into a {}'s file, and this is a {kind}'s", key.get_ref(), kind.other());
            source.add(Some(source.line(&key.span())), what);
        }
    }
    let mut root = source.table(root);
    Some(match kind {
        Kind::Server => Configuration::Server(Box::new(Server::read(&mut root, source))),
        Kind::Forwarder => Configuration::Forwarder(Box::new(Forwarder::read(&mut root, source))),
    })
}
