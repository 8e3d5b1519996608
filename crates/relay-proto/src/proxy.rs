//! The PROXY protocol: what a proxy says ahead of a user's first byte about where the user is.
//!
//! Both versions of haproxy's `proxy-protocol.txt`, for streams over TCP. Version 1 is a line of text (section 2.1) and
//! part of our own wire, from the relay to clients that ask for it; version 2 is binary (section 2.2). Forwarders write
//! either for services, and relays behind a load balancer take either.
//!
//! ```text
//! PROXY TCP4 203.0.113.7 198.51.100.1 40112 1235\r\n
//! PROXY TCP6 2001:db8::7 2001:db8::1 40112 1235\r\n
//! PROXY UNKNOWN\r\n
//! ```

mod error;
mod reader;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

pub use error::ProxyError;
pub use reader::Reader;

/// The longest header of version 1, in bytes, its end included (section 2.1).
pub const MAX_V1: usize = 107;

/// The longest block of addresses and what is added to them that is taken behind the first 16 bytes of version 2, in
/// bytes. 4 096: the specification has senders stay below 536 in all, and some add a client's certificate since. None
/// of it is kept but the addresses.
pub const MAX_BLOCK: usize = 4096;

/// How version 1 begins.
const V1: &[u8] = b"PROXY ";

/// How version 2 begins: what no other protocol takes for its own (section 2.2).
pub(crate) const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The bytes of version 2 ahead of its addresses.
const V2_FIXED: usize = 16;

/// What the thirteenth byte of version 2 says: its version above, a command below.
const VERSION_2: u8 = 2;
const LOCAL: u8 = 0;
const PROXY: u8 = 1;

/// Families of addresses and transports, as version 2 has them: TCP over IPv4, over IPv6, and nothing known.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;

/// Where a user is, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Somebody connected from there to here. When read, IPv4-mapped addresses are IPv4 ones.
    Proxied {
        /// The user's address.
        user: SocketAddr,
        /// The address that the user connected to.
        public: SocketAddr,
    },
    /// Nothing: the sender does not know, or the connection is its own.
    Unknown,
}

/// The two forms of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl Header {
    /// The header in bytes, at most [`MAX_V1`]. IPv4-mapped addresses are written as IPv4; where one address is IPv4 and
    /// the other is not, which neither version can say, it is written as IPv4-mapped.
    pub fn encode(self, version: Version) -> Vec<u8> {
        let Self::Proxied { user, public } = self else {
            return match version {
                Version::V1 => b"PROXY UNKNOWN\r\n".into(),
                Version::V2 => v2(LOCAL, UNSPECIFIED, &[]),
            };
        };
        let (user_ip, public_ip) = one_family(user.ip(), public.ip());
        let (user_port, public_port) = (user.port(), public.port());
        match version {
            Version::V1 => {
                let family = if user_ip.is_ipv4() { "TCP4" } else { "TCP6" };
                format!("PROXY {family} {user_ip} {public_ip} {user_port} {public_port}\r\n").into()
            }
            Version::V2 => {
                let mut block = Vec::new();
                for ip in [user_ip, public_ip] {
                    match ip {
                        IpAddr::V4(ip) => block.extend(ip.octets()),
                        IpAddr::V6(ip) => block.extend(ip.octets()),
                    }
                }
                block.extend(user_port.to_be_bytes());
                block.extend(public_port.to_be_bytes());
                v2(PROXY, if user_ip.is_ipv4() { TCP4 } else { TCP6 }, &block)
            }
        }
    }
}

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    // A block has the addresses of one family, at most 36 bytes.
    let length = u8::try_from(block.len()).unwrap_or(u8::MAX);
    [V2, &[VERSION_2 << 4 | command, family, 0, length], block].concat()
}

/// Both as IPv4, if both are, else both as IPv6.
fn one_family(a: IpAddr, b: IpAddr) -> (IpAddr, IpAddr) {
    let (a, b) = (a.to_canonical(), b.to_canonical());
    if a.is_ipv4() == b.is_ipv4() { (a, b) } else { (v6(a).into(), v6(b).into()) }
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// Whether bytes begin as a header of either version does. With fewer than that takes they do not.
pub fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(V1) || bytes.starts_with(V2)
}

impl FromStr for Version {
    type Err = NotVersion;

    fn from_str(text: &str) -> Result<Self, NotVersion> {
        match text {
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            _ => Err(NotVersion),
        }
    }
}

/// A text that is neither `v1` nor `v2`. The writer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotVersion;

impl fmt::Display for NotVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is v1 or v2")
    }
}

impl std::error::Error for NotVersion {}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxied(user: &str, public: &str) -> Header {
        Header::Proxied { user: user.parse().unwrap(), public: public.parse().unwrap() }
    }

    fn line(header: Header) -> String {
        String::from_utf8(header.encode(Version::V1)).unwrap()
    }

    #[test]
    fn version_1_is_a_line() {
        for (header, wanted) in [
            (proxied("203.0.113.7:40112", "198.51.100.1:1235"), "PROXY TCP4 203.0.113.7 198.51.100.1 40112 1235\r\n"),
            (
                proxied("[::ffff:203.0.113.7]:1", "[::ffff:198.51.100.1]:65535"),
                "PROXY TCP4 203.0.113.7 198.51.100.1 1 65535\r\n",
            ),
            (proxied("[2001:db8::7]:40112", "[::1]:1235"), "PROXY TCP6 2001:db8::7 ::1 40112 1235\r\n"),
            (proxied("203.0.113.7:1", "[::1]:2"), "PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n"),
            (proxied("[fe80::1%7]:1", "[fe80::2%7]:2"), "PROXY TCP6 fe80::1 fe80::2 1 2\r\n"),
            (Header::Unknown, "PROXY UNKNOWN\r\n"),
        ] {
            assert_eq!(line(header), wanted);
        }
        let longest = "[1111:2222:3333:4444:5555:6666:7777:8888]:65535";
        assert!(line(proxied(longest, longest)).len() <= MAX_V1);
    }

    #[test]
    fn version_2_is_binary() {
        let v4 = proxied("203.0.113.7:258", "[::ffff:198.51.100.1]:1235").encode(Version::V2);
        assert_eq!(v4, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x07\xc6\x33\x64\x01\x01\x02\x04\xd3");
        let v6 = proxied("[2001:db8::7]:1", "[::1]:2").encode(Version::V2);
        assert_eq!(v6[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24");
        assert_eq!(v6[16..20], *b"\x20\x01\x0d\xb8");
        assert_eq!(v6[47..], *b"\x01\x00\x01\x00\x02");
        assert_eq!(Header::Unknown.encode(Version::V2), b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00");
    }

    #[test]
    fn a_beginning_is_all_of_a_signature() {
        for header in [Header::Unknown, proxied("[::1]:1", "[::1]:2")] {
            assert!(begins(&header.encode(Version::V1)) && begins(&header.encode(Version::V2)));
        }
        for other in ["", "PROXY", "PROXYING", "proxy TCP4", "\r\n\r\n\0\r\nQUIT", "GET / HTTP/1.1\r\n"] {
            assert!(!begins(other.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn versions_have_names() {
        assert_eq!(("v1".parse(), "v2".parse()), (Ok(Version::V1), Ok(Version::V2)));
        assert_eq!("V1".parse::<Version>(), Err(NotVersion));
    }
}
