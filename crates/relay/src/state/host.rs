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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood() {
        for (typed, shown) in [
            ("vps.example", "vps.example:9"),
            ("vps.example:443", "vps.example:443"),
            ("192.0.2.1", "192.0.2.1:9"),
            ("192.0.2.1:7000", "192.0.2.1:7000"),
            ("[2001:db8::1]", "[2001:db8::1]:9"),
            ("[2001:db8::1]:7000", "[2001:db8::1]:7000"),
            ("2001:db8::1", "[2001:db8::1]:9"),
        ] {
            assert_eq!(typed.parse::<Host>().unwrap().at(9).unwrap().to_string(), shown);
        }
        for bad in ["", "host:", "host:0", "a b", "[::1", "https://host", "a@b", "a?b"] {
            assert!(bad.parse::<Host>().is_err(), "{bad:?}");
        }
    }
}
