//! Where an invite says that the relay is.

use std::fmt;
use std::str::FromStr;

use relay_client::{AddressError, RelayAddr};

/// A host that clients reach the relay by, with a port if that is not the one that it listens on.
///
/// Parsed from `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT` or a bare IPv6 address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host(String);

impl Host {
    /// The address, at `port` unless the host brings its own.
    pub(super) fn at(&self, port: u16) -> Result<RelayAddr, AddressError> {
        // With a port of its own it is no host but an address.
        RelayAddr::new(&self.0, port).or_else(|_| self.0.parse())
    }
}

impl FromStr for Host {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        text.parse::<RelayAddr>().map(|_| Self(text.into()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
