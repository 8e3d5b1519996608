//! Where a relay is, and where it makes a service reachable.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The control port of a relay when none is given.
pub const DEFAULT_PORT: u16 = 7000;

/// A host, as its owner typed it, and a port.
///
/// Parsed from `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT` or a bare IPv6 address; the port is
/// [`DEFAULT_PORT`] when none is given. Shown as `HOST:PORT`, with brackets around an IPv6 address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RelayAddr {
    host: Box<str>,
    port: u16,
}

impl RelayAddr {
    /// An address from its parts. An IPv6 address may stand in brackets.
    ///
    /// # Errors
    /// `host` can be neither a name nor an address, or `port` is 0.
    pub fn new(host: &str, port: u16) -> Result<Self, AddressError> {
        let fail = |problem| Err(AddressError { input: host.into(), problem });
        let bare = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            None => host,
            Some(Some(inner)) if inner.parse::<Ipv6Addr>().is_ok() => inner,
            Some(_) => return fail(Problem::Brackets),
        };
        if bare.is_empty() {
            return fail(Problem::NoHost);
        }
        if bare.contains("://") {
            return fail(Problem::Scheme);
        }
        if bare.matches(':').count() == 1 {
            return fail(Problem::PortInHost);
        }
        let is_name = bare.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'));
        if !is_name && bare.parse::<Ipv6Addr>().is_err() {
            return fail(if bare.contains(':') { Problem::Brackets } else { Problem::Host });
        }
        if port == 0 {
            return Err(AddressError { input: format!("{host}:{port}").into(), problem: Problem::Port });
        }
        Ok(Self { host: bare.into(), port })
    }

    /// The name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the host is this machine by its name or address alone; nothing is resolved.
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
    }

    /// The same host with another port, which must not be 0: where its users connect.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }
}

impl fmt::Display for RelayAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for RelayAddr {
    type Err = AddressError;

    fn from_str(input: &str) -> Result<Self, AddressError> {
        // More than one colon outside brackets is an IPv6 address, never a port.
        let colon = input
            .rfind(':')
            .filter(|&at| input[..at].ends_with(']') || (!input[..at].contains(':') && !input.starts_with('[')));
        let (host, port) = match colon {
            None => (input, Some(DEFAULT_PORT)),
            Some(at) => (&input[..at], parse_port(&input[at + 1..])),
        };
        match port {
            _ if input.contains("://") => Err(AddressError { input: input.into(), problem: Problem::Scheme }),
            None => Err(AddressError { input: input.into(), problem: Problem::Port }),
            Some(port) => Self::new(host, port).map_err(|error| AddressError { input: input.into(), ..error }),
        }
    }
}

/// A decimal number from 1 to 65535, without a sign.
pub(crate) fn parse_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|&port| port != 0 && text.bytes().all(|b| b.is_ascii_digit()))
}

/// A text that is no address. The caller's fault; shown with what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    input: Box<str>,
    problem: Problem,
}

impl AddressError {
    /// What is wrong, without the text that it is wrong with: that may hold a secret.
    pub fn problem(&self) -> Problem {
        self.problem
    }
}

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// There is none.
    NoHost,
    /// The host is neither a name nor an address.
    Host,
    /// The port is no number, or 0.
    Port,
    /// An IPv6 address without brackets, or brackets around something else.
    Brackets,
    /// A URL.
    Scheme,
    /// A port where only a host is taken.
    PortInHost,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHost => "the host is missing",
            Self::Host => "the host is neither a name nor an IP address",
            Self::Port => "the port is not a number from 1 to 65535",
            Self::Brackets => "an IPv6 address goes in brackets, as in [::1]:7000",
            Self::Scheme => "only plain HOST:PORT is understood, without a scheme",
            Self::PortInHost => "a port goes apart from it",
        })
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { input, problem } = self;
        let form = if *problem == Problem::PortInHost { "HOST" } else { "HOST:PORT" };
        write!(f, "{input:?} is not {form}: {problem}")
    }
}

impl std::error::Error for AddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood() {
        for (typed, shown, host) in [
            ("relay.example", "relay.example:7000", "relay.example"),
            ("relay.example:1", "relay.example:1", "relay.example"),
            ("192.0.2.1", "192.0.2.1:7000", "192.0.2.1"),
            ("192.0.2.1:65535", "192.0.2.1:65535", "192.0.2.1"),
            ("[2001:db8::1]", "[2001:db8::1]:7000", "2001:db8::1"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80", "2001:db8::1"),
            ("2001:db8::1", "[2001:db8::1]:7000", "2001:db8::1"),
            ("::1", "[::1]:7000", "::1"),
            ("VPS_1:80", "VPS_1:80", "VPS_1"),
            ("größe.example:80", "größe.example:80", "größe.example"),
        ] {
            let address: RelayAddr = typed.parse().unwrap();
            assert_eq!((address.to_string().as_str(), address.host()), (shown, host), "{typed}");
        }
    }

    #[test]
    fn what_is_no_address_is_named_with_its_problem() {
        for (typed, problem) in [
            ("", Problem::NoHost),
            (":80", Problem::NoHost),
            ("[]:80", Problem::Brackets),
            ("host:", Problem::Port),
            ("host:0", Problem::Port),
            ("host:65536", Problem::Port),
            ("host:+80", Problem::Port),
            ("host:http", Problem::Port),
            ("[::1]:x", Problem::Port),
            ("[::1", Problem::Brackets),
            ("[host]:80", Problem::Brackets),
            ("::1:x:80", Problem::Brackets),
            ("a host:80", Problem::Host),
            ("user@host:80", Problem::Host),
            ("host/path", Problem::Host),
            ("tls://host:80", Problem::Scheme),
            ("relay://name:token@host", Problem::Scheme),
            ("a\x1bb:80", Problem::Host),
        ] {
            let error = typed.parse::<RelayAddr>().unwrap_err();
            assert_eq!(error.problem, problem, "{typed:?}");
            assert!(error.to_string().chars().all(|c| !c.is_control()), "{typed:?}");
        }
    }

    #[test]
    fn a_host_that_brings_a_port_is_told_so() {
        let said = |host, port| RelayAddr::new(host, port).unwrap_err().to_string();
        assert_eq!(said("host:1", 2), "\"host:1\" is not HOST: a port goes apart from it");
        assert_eq!(said("host", 0), "\"host:0\" is not HOST:PORT: the port is not a number from 1 to 65535");
        assert!(said("::1:x", 2).contains("in brackets") && said("tls://h", 2).contains("without a scheme"));
    }

    #[test]
    fn loopback_is_told_without_resolving() {
        for (typed, loopback) in [
            ("localhost", true),
            ("LOCALHOST:1", true),
            ("127.0.0.2", true),
            ("[::1]:9", true),
            ("[::ffff:127.0.0.1]:9", true),
            ("192.0.2.1", false),
            ("localhost.example", false),
        ] {
            assert_eq!(typed.parse::<RelayAddr>().unwrap().is_loopback(), loopback, "{typed}");
        }
    }
}
