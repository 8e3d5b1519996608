//! Reads a header from pieces of any size.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{
    Header, LOCAL, MAX_BLOCK, MAX_V1, PROXY, ProxyError, TCP4, TCP6, UNSPECIFIED, V1, V2, V2_FIXED, VERSION_2,
};

/// UDP and Unix sockets, over which nobody comes here. Whoever does not support them is to fall back to an unspecified
/// address.
const UDP4: u8 = 0x12;
const UDP6: u8 = 0x22;
const UNIX_STREAM: u8 = 0x31;
const UNIX_DATAGRAM: u8 = 0x32;

/// Reads one header, strictly. Holds no more than the longest line, and allocates nothing.
#[derive(Clone, Debug)]
pub struct Reader {
    takes_v2: bool,
    held: [u8; MAX_V1],
    len: usize,
    /// The header, and how many bytes of it are yet to come that say nothing more.
    found: Option<(Header, usize)>,
}

impl Default for Reader {
    /// Takes either version.
    fn default() -> Self {
        Self { takes_v2: true, held: [0; MAX_V1], len: 0, found: None }
    }
}

impl Reader {
    /// Takes version 1 alone.
    pub fn v1() -> Self {
        Self { takes_v2: false, ..Self::default() }
    }

    /// Takes from `input` what belongs to the header, and no more. `None` when more bytes are needed.
    ///
    /// # Errors
    /// What came is no header; the reader is of no use afterwards.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Header>, ProxyError> {
        loop {
            if let Some((header, rest)) = &mut self.found {
                let skipped = (*rest).min(input.len());
                *rest -= skipped;
                *input = &input[skipped..];
                return Ok((*rest == 0).then_some(*header));
            }
            let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
            *input = rest;
            // A line that fills it is an error, and binary ends before.
            self.held[self.len] = byte;
            self.len += 1;
            self.found = self.find()?;
        }
    }

    fn find(&self) -> Result<Option<(Header, usize)>, ProxyError> {
        let held = &self.held[..self.len];
        let begins = |signature: &[u8]| held.starts_with(signature) || signature.starts_with(held);
        if begins(V1) {
            Ok(line(held)?.map(|header| (header, 0)))
        } else if self.takes_v2 && begins(V2) {
            binary(held)
        } else {
            Err(ProxyError::Signature)
        }
    }
}

/// Version 1, section 2.1.
fn line(held: &[u8]) -> Result<Option<Header>, ProxyError> {
    let Some(line) = held.strip_suffix(b"\n") else {
        return if held.len() < MAX_V1 { Ok(None) } else { Err(ProxyError::LineTooLong) };
    };
    let line = line.strip_suffix(b"\r").ok_or(ProxyError::NoCarriageReturn)?;
    let line = line.strip_prefix(V1).ok_or(ProxyError::Signature)?;
    let mut words = line.split(|&byte| byte == b' ');
    let read = match words.next() {
        // Whatever else it says is to be ignored.
        Some(b"UNKNOWN") => return Ok(Some(Header::Unknown)),
        Some(b"TCP4") => address::<Ipv4Addr>,
        Some(b"TCP6") => address::<Ipv6Addr>,
        _ => return Err(ProxyError::Family),
    };
    let mut word = || words.next().ok_or(ProxyError::Fields);
    let (user, public, user_port, public_port) = (word()?, word()?, word()?, word()?);
    if words.next().is_some() {
        return Err(ProxyError::Fields);
    }
    let user = SocketAddr::new(read(user)?, port(user_port)?);
    let public = SocketAddr::new(read(public)?, port(public_port)?);
    Ok(Some(Header::Proxied { user, public }))
}

fn address<A: FromStr + Into<IpAddr>>(word: &[u8]) -> Result<IpAddr, ProxyError> {
    let address = str::from_utf8(word).ok().and_then(|word| word.parse::<A>().ok());
    address.map(|address| address.into().to_canonical()).ok_or(ProxyError::Address)
}

fn port(word: &[u8]) -> Result<u16, ProxyError> {
    let plain = word == b"0" || !word.starts_with(b"0") && word.iter().all(u8::is_ascii_digit);
    let text = str::from_utf8(word).ok().filter(|_| plain);
    text.and_then(|text| text.parse().ok()).ok_or(ProxyError::Port)
}

/// Version 2, section 2.2: the header, and the length of what stands behind its addresses.
fn binary(held: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    let Some((fixed, block)) = held.split_first_chunk::<V2_FIXED>() else { return Ok(None) };
    let [.., version_and_command, transport, high, low] = *fixed;
    let (version, command) = (version_and_command >> 4, version_and_command & 0xf);
    if version != VERSION_2 {
        return Err(ProxyError::Version(version));
    }
    let (needed, header) = match (command, transport) {
        (LOCAL, _) | (PROXY, UNSPECIFIED | UDP4 | UDP6 | UNIX_STREAM | UNIX_DATAGRAM) => (0, Some(Header::Unknown)),
        (PROXY, TCP4) => (12, addresses::<4, Ipv4Addr>(block)),
        (PROXY, TCP6) => (36, addresses::<16, Ipv6Addr>(block)),
        (PROXY, transport) => return Err(ProxyError::Transport(transport)),
        (command, _) => return Err(ProxyError::Command(command)),
    };
    match usize::from(u16::from_be_bytes([high, low])) {
        length if length < needed => Err(ProxyError::TooShort(length)),
        length if length > MAX_BLOCK => Err(ProxyError::TooLong(length)),
        length => Ok(header.map(|header| (header, length - needed))),
    }
}

/// Two addresses of `N` bytes, then two ports; `None` if not all is there.
fn addresses<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(block: &[u8]) -> Option<Header> {
    let (user, rest) = block.split_first_chunk::<N>()?;
    let (public, rest) = rest.split_first_chunk::<N>()?;
    let (user_port, rest) = rest.split_first_chunk()?;
    let (public_port, _) = rest.split_first_chunk()?;
    let end =
        |address: [u8; N], port| SocketAddr::new(A::from(address).into().to_canonical(), u16::from_be_bytes(port));
    Some(Header::Proxied { user: end(*user, *user_port), public: end(*public, *public_port) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::Version;

    /// The header and how much is left behind it, however it is cut.
    fn read(bytes: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
        let whole = read_by(Reader::default(), bytes, usize::MAX);
        for step in [1, 2, 7] {
            assert_eq!(read_by(Reader::default(), bytes, step), whole);
        }
        whole
    }

    fn read_by(mut reader: Reader, bytes: &[u8], step: usize) -> Result<Option<(Header, usize)>, ProxyError> {
        let mut at = 0;
        while at < bytes.len() {
            let end = bytes.len().min(at.saturating_add(step));
            let mut piece = &bytes[at..end];
            if let Some(header) = reader.read(&mut piece)? {
                return Ok(Some((header, bytes.len() - end + piece.len())));
            }
            assert!(piece.is_empty(), "what is not yet a header is kept by the reader");
            at = end;
        }
        Ok(None)
    }

    fn proxied(user: &str, public: &str) -> Header {
        Header::Proxied { user: user.parse().unwrap(), public: public.parse().unwrap() }
    }

    /// Version 2 with these bytes after its signature.
    fn v2(rest: &[u8]) -> Vec<u8> {
        [V2, rest].concat()
    }

    #[test]
    fn what_is_written_is_read_and_what_follows_is_left() {
        let all = [
            Header::Unknown,
            proxied("203.0.113.7:40112", "198.51.100.1:1235"),
            proxied("[2001:db8::7]:0", "[::1]:65535"),
            proxied("203.0.113.7:1", "[::1]:2"),
        ];
        for header in all {
            for version in [Version::V1, Version::V2] {
                let bytes = header.encode(version);
                assert_eq!(read(&bytes), Ok(Some((header, 0))));
                assert_eq!(read(&bytes[..bytes.len() - 1]), Ok(None));
                assert_eq!(read(&[&bytes[..], &bytes].concat()), Ok(Some((header, bytes.len()))));
            }
        }
    }

    #[test]
    fn an_unknown_line_may_say_more() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_V1 - 16));
        for line in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN \r\n", "PROXY UNKNOWN TCP4 \u{fe} x  y\r\n", &longest] {
            assert_eq!(read(line.as_bytes()), Ok(Some((Header::Unknown, 0))), "{line:?}");
        }
    }

    #[test]
    fn a_bad_line_is_told_by_its_kind() {
        for (line, error) in [
            ("GET / HTTP/1.1\r\n", ProxyError::Signature),
            ("PROXY\r\n", ProxyError::Signature),
            ("Proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n", ProxyError::Signature),
            ("proxy", ProxyError::Signature),
            ("\r\nPROXY", ProxyError::Signature),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", ProxyError::NoCarriageReturn),
            ("PROXY \n", ProxyError::NoCarriageReturn),
            ("PROXY \r\n", ProxyError::Family),
            ("PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n", ProxyError::Family),
            ("PROXY Unknown\r\n", ProxyError::Family),
            ("PROXY UNKNOWNS\r\n", ProxyError::Family),
            ("PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n", ProxyError::Family),
            ("PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", ProxyError::Family),
            ("PROXY TCP4\r\n", ProxyError::Fields),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", ProxyError::Fields),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n", ProxyError::Fields),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n", ProxyError::Fields),
            ("PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n", ProxyError::Fields),
            ("PROXY TCP4 1.2.3.4 ::1 1 2\r\n", ProxyError::Address),
            ("PROXY TCP4 ::1 1.2.3.4 1 2\r\n", ProxyError::Address),
            ("PROXY TCP6 1.2.3.4 ::1 1 2\r\n", ProxyError::Address),
            ("PROXY TCP6 ::1 1.2.3.4 1 2\r\n", ProxyError::Address),
            ("PROXY TCP6 [::1] ::1 1 2\r\n", ProxyError::Address),
            ("PROXY TCP6 fe80::1%lo ::1 1 2\r\n", ProxyError::Address),
            ("PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n", ProxyError::Address),
            ("PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n", ProxyError::Address),
            ("PROXY TCP4 \u{663}.2.3.4 5.6.7.8 1 2\r\n", ProxyError::Address),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n", ProxyError::Port),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n", ProxyError::Port),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n", ProxyError::Port),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n", ProxyError::Port),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1 \r\n", ProxyError::Port),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\t\r\n", ProxyError::Port),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\r\n", ProxyError::Port),
        ] {
            assert_eq!(read(line.as_bytes()), Err(error), "{line:?}");
        }
        for endless in ["PROXY UNKNOWN ", "PROXY "] {
            let endless = endless.to_owned() + &"x".repeat(MAX_V1);
            assert_eq!(read(&endless.as_bytes()[..MAX_V1 - 1]), Ok(None));
            assert_eq!(read(endless.as_bytes()), Err(ProxyError::LineTooLong));
        }
    }

    #[test]
    fn bad_binary_is_told_by_its_kind() {
        for (rest, error) in [
            (&[0x11, 0x11, 0, 12][..], ProxyError::Version(1)),
            (&[0x31, 0x11, 0, 12], ProxyError::Version(3)),
            (&[0x22, 0x11, 0, 12], ProxyError::Command(2)),
            (&[0x2f, 0x00, 0, 0], ProxyError::Command(15)),
            (&[0x21, 0x10, 0, 12], ProxyError::Transport(0x10)),
            (&[0x21, 0x41, 0, 12], ProxyError::Transport(0x41)),
            (&[0x21, 0x13, 0, 12], ProxyError::Transport(0x13)),
            (&[0x21, 0x11, 0, 11], ProxyError::TooShort(11)),
            (&[0x21, 0x21, 0, 35], ProxyError::TooShort(35)),
            (&[0x21, 0x11, 0, 0], ProxyError::TooShort(0)),
            (&[0x21, 0x11, 0x10, 1], ProxyError::TooLong(4097)),
            (&[0x20, 0x00, 0xff, 0xff], ProxyError::TooLong(65535)),
        ] {
            assert_eq!(read(&v2(rest)), Err(error), "{rest:?}");
        }
        let mut almost = V2.to_vec();
        almost[11] = b'\r';
        assert_eq!(read(&almost), Err(ProxyError::Signature));
    }

    #[test]
    fn what_binary_adds_is_skipped() {
        let header = proxied("1.2.3.4:1", "5.6.7.8:2");
        let mut bytes = header.encode(Version::V2);
        bytes[14] = 0x10;
        bytes[15] = 0;
        bytes.extend(vec![0xee; MAX_BLOCK - 12]);
        assert_eq!(read(&bytes[..bytes.len() - 1]), Ok(None));
        bytes.extend(b"rest");
        assert_eq!(read(&bytes), Ok(Some((header, 4))));
    }

    #[test]
    fn who_is_not_there_over_tcp_is_unknown() {
        // Of LOCAL all else is ignored.
        for rest in [[0x20, 0x00], [0x20, 0x11], [0x20, 0xff], [0x21, 0x00], [0x21, 0x12], [0x21, 0x22], [0x21, 0x31]] {
            let bytes = v2(&[&rest[..], &[0, 5], b"block", b"rest"].concat());
            assert_eq!(read(&bytes), Ok(Some((Header::Unknown, 4))), "{rest:?}");
        }
    }

    #[test]
    fn mapped_addresses_are_those_of_ipv4() {
        let header = proxied("1.2.3.4:1", "5.6.7.8:2");
        assert_eq!(read(b"PROXY TCP6 ::ffff:1.2.3.4 ::FFFF:506:708 1 2\r\n"), Ok(Some((header, 0))));
        let mapped = |last: [u8; 4]| [&[0; 10][..], &[0xff; 2], &last].concat();
        let block = [mapped([1, 2, 3, 4]), mapped([5, 6, 7, 8]), vec![0, 1, 0, 2]].concat();
        assert_eq!(read(&v2(&[&[0x21, 0x21, 0, 36], &block[..]].concat())), Ok(Some((header, 0))));
    }

    #[test]
    fn where_a_line_belongs_nothing_else_is_taken() {
        let header = proxied("1.2.3.4:1", "5.6.7.8:2");
        for step in [1, 100] {
            assert_eq!(read_by(Reader::v1(), &header.encode(Version::V1), step), Ok(Some((header, 0))));
            assert_eq!(read_by(Reader::v1(), &header.encode(Version::V2), step), Err(ProxyError::Signature));
        }
    }
}
