//! The values of options and keys: written the same way on the command line, in the environment and in a file.
//!
//! No error shows the text that it is about, which may be a secret that was put in the wrong place.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use relay_client::{DEFAULT_PORT, Protocol};

/// `ADDR:PORT`, or one of both.
pub(crate) fn listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = text.parse().ok();
    let address = address.or_else(|| bare.parse().ok().map(|ip: IpAddr| (ip, DEFAULT_PORT).into()));
    let address = address.or_else(|| text.parse().ok().map(|port: u16| (Ipv6Addr::UNSPECIFIED, port).into()));
    address.ok_or("give an IP address and a port, as in 0.0.0.0:7000 or [::]:7000")
}

/// An IP address; an IPv6 one may stand in brackets.
pub(crate) fn address(text: &str) -> Result<IpAddr, &'static str> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| "give an IP address, as in 192.0.2.1 or [::]")
}

/// `FROM-TO`, both included, or one port.
pub(crate) fn port_range(text: &str) -> Result<(u16, u16), &'static str> {
    let port = |text: &str| text.trim().parse().ok().filter(|&port: &u16| port != 0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err("give two ports from 1 to 65535, the lower first, as in 8000-8999"),
    }
}

/// The name of a protocol.
pub(crate) fn mode(text: &str) -> Result<Protocol, &'static str> {
    text.parse().map_err(|_| "it is multiplex, pool or event")
}

/// A number of bytes with its unit: `64 MiB`, `10 MB`, `4096`.
pub(crate) fn bytes(text: &str) -> Result<u64, &'static str> {
    const WANTED: &str = "give bytes, as in 64 MiB, 10 MB or 4096; units are B, kB, MB, GB, KiB, MiB and GiB";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" => 1000,
        "MB" => 1000 * 1000,
        "GB" => 1000 * 1000 * 1000,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        "GiB" => 1024 * 1024 * 1024,
        _ => return Err(WANTED),
    };
    number.parse().ok().and_then(|number: u64| number.checked_mul(unit)).filter(|&bytes| bytes > 0).ok_or(WANTED)
}

/// 64 hex digits of SHA-256.
pub(crate) fn sha256(text: &str) -> Result<[u8; 32], &'static str> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut hash = [0; 32];
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(SHA256) };
    if pairs.len() != hash.len() {
        return Err(SHA256);
    }
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        *byte = digit(*high).zip(digit(*low)).map(|(high, low)| high << 4 | low).ok_or(SHA256)?;
    }
    Ok(hash)
}

const SHA256: &str = "give SHA-256 of the certificate (DER) as 64 hex digits, without colons";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units() {
        for (typed, wanted) in [
            ("1", 1),
            ("64 MiB", 64 << 20),
            ("64MiB", 64 << 20),
            ("10 MB", 10_000_000),
            ("2kB", 2000),
            ("1 GiB", 1 << 30),
        ] {
            assert_eq!(bytes(typed), Ok(wanted), "{typed}");
        }
        for bad in
            ["", "0", "-1", "MiB", "1 mib", "1.5 MB", "18446744073709551615 GiB", "1 MB/s", "99999999999999999999"]
        {
            assert!(bytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_hash_is_64_hex_digits() {
        assert_eq!(sha256(&"0f".repeat(32)), Ok([15; 32]));
        assert_eq!(sha256(&"0F".repeat(32)), Ok([15; 32]));
        for bad in ["", &"0f".repeat(31), &"0f".repeat(33), &"0".repeat(63), &"0g".repeat(32), &"+1".repeat(32)] {
            assert!(sha256(bad).is_err(), "{bad:?}");
        }
    }
}
