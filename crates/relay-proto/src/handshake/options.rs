//! What a client may want of a new tunnel.

use std::fmt;

use ipnet::IpNet;

use super::HandshakeError;
use super::line::words;
use crate::address::parse_port;
use crate::network;

/// How many networks a client may allow: with options it narrows, and each user's address is looked up in all.
pub const MAX_NETWORKS: usize = 64;

/// The longest word for a service, in bytes: as many as the digits of a SHA-256.
pub const MAX_SERVICE: usize = 64;

/// The only form in which a client can be told where users are.
const PROXY: &str = "v1";

/// What a client wants of a new tunnel, behind the word that names the protocol. `Display` writes each option
/// with a blank before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The public port that it must be: another is of no use to the client. Never 0.
    pub port: Option<u16>,
    /// The public port that it had before: another will do. Never 0. Means nothing beside a demand.
    pub wish: Option<u16>,
    /// A word that stands for the service behind the client, the same each time: the port that the last tunnel for
    /// it had will do best. 1 to [`MAX_SERVICE`] letters, digits, dots, dashes and underscores.
    pub service: Option<Box<str>>,
    /// Whom the relay is to let in; everyone when empty. At most [`MAX_NETWORKS`]; when read from the wire they
    /// are [canonical](network::canonical).
    pub allow: Vec<IpNet>,
    /// Where each user is, is to be said ahead of its first byte: a line of [`proxy`](crate::proxy), version 1.
    pub proxy: bool,
}

impl Options {
    /// Takes the options from the words behind the first one.
    pub(super) fn parse(rest: &str) -> Result<Self, HandshakeError> {
        let mut options = Self::default();
        for word in words(rest) {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "port" => set(&mut options.port, "port", value)?,
                "wish" => set(&mut options.wish, "wish", value)?,
                "service" if options.service.is_some() => return Err(HandshakeError::Repeated("service")),
                "service" => {
                    let word = Some(value).filter(|word| is_service(word));
                    let word = word.ok_or_else(|| HandshakeError::unexpected(value, "a word for the service"))?;
                    options.service = Some(word.into());
                }
                "allow" if options.allow.len() == MAX_NETWORKS => return Err(HandshakeError::TooManyNetworks),
                "allow" => options.allow.push(
                    network::parse(value)
                        .map_err(|_| HandshakeError::unexpected(word, "allow= and a network such as 10.0.0.0/8"))?,
                ),
                "proxy" if value != PROXY => return Err(HandshakeError::unexpected(value, PROXY)),
                "proxy" if options.proxy => return Err(HandshakeError::Repeated("proxy")),
                "proxy" => options.proxy = true,
                _ => return Err(HandshakeError::unknown(key)),
            }
        }
        Ok(options)
    }
}

fn is_service(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=MAX_SERVICE).contains(&word.len()) && word.bytes().all(plain)
}

fn set(option: &mut Option<u16>, key: &'static str, value: &str) -> Result<(), HandshakeError> {
    let port = parse_port(value).ok_or_else(|| HandshakeError::unexpected(value, "a port number"))?;
    if option.replace(port).is_some() { Err(HandshakeError::Repeated(key)) } else { Ok(()) }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.port.iter().try_for_each(|port| write!(f, " port={port}"))?;
        self.wish.iter().try_for_each(|port| write!(f, " wish={port}"))?;
        self.service.iter().try_for_each(|word| write!(f, " service={word}"))?;
        self.allow.iter().try_for_each(|network| write!(f, " allow={network}"))?;
        if self.proxy { write!(f, " proxy={PROXY}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::MAX_REQUEST_LINE;

    #[test]
    fn options_are_read_as_written() {
        let text = " port=16379 wish=1 service=a.B-1_ allow=10.0.0.0/8 allow=2001:db8::/32 proxy=v1";
        let options = Options::parse(text).unwrap();
        assert_eq!((options.port, options.wish, options.allow.len()), (Some(16379), Some(1), 2));
        assert!(options.proxy);
        assert_eq!(options.to_string(), text);
        assert_eq!(Options::parse("\t allow=10.1.2.3 \t wish=7 ").unwrap().to_string(), " wish=7 allow=10.1.2.3/32");
        assert_eq!(Options::parse(""), Ok(Options::default()));
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for (bad, error) in [
            ("udp", HandshakeError::unknown("udp")),
            ("ports=1", HandshakeError::unknown("ports")),
            ("PORT=1", HandshakeError::unknown("PORT")),
            ("=1", HandshakeError::unknown("")),
            ("port=1 port=1", HandshakeError::Repeated("port")),
            ("wish=1 port=1 wish=2", HandshakeError::Repeated("wish")),
            ("port", HandshakeError::unexpected("", "a port number")),
            ("port=0", HandshakeError::unexpected("0", "a port number")),
            ("service=a service=a", HandshakeError::Repeated("service")),
            ("service=", HandshakeError::unexpected("", "a word for the service")),
            ("service=a:1", HandshakeError::unexpected("a:1", "a word for the service")),
            ("proxy=v1 proxy=v1", HandshakeError::Repeated("proxy")),
            ("proxy=v2", HandshakeError::unexpected("v2", "v1")),
            ("proxy", HandshakeError::unexpected("", "v1")),
            ("wish=+1", HandshakeError::unexpected("+1", "a port number")),
        ] {
            assert_eq!(Options::parse(bad), Err(error), "{bad}");
        }
        for bad in ["allow", "allow=", "allow=10.0.0.0/33", "allow=example.org", "allow=10.0.0.0/8,::/0"] {
            assert!(matches!(Options::parse(bad), Err(HandshakeError::Unexpected { .. })), "{bad}");
        }
    }

    #[test]
    fn the_most_networks_fit_a_line() {
        let network = "2001:0db8:1111:2222:3333:4444:5555:6666/128";
        let most = format!(" allow={network}").repeat(MAX_NETWORKS);
        assert_eq!(Options::parse(&most).unwrap().allow.len(), MAX_NETWORKS);
        assert!(format!("multiplex port=65535 wish=65535 service={:064}{most} proxy=v1\n", 0).len() < MAX_REQUEST_LINE);
        assert_eq!(Options::parse(&(most + " allow=::/0")), Err(HandshakeError::TooManyNetworks));
    }
}
