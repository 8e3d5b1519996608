//! The PROXY header's reader: no bytes harm it, pieces are as good as the whole, and what it takes is what is written.

use std::net::SocketAddr;

use super::pieces;
use crate::proxy::{Header, ProxyError, Reader, Version};

/// Takes `bytes` for a header, as they are and in the place of `at` in a good one for these addresses.
pub fn run(bytes: &[u8], at: usize, user: SocketAddr, public: SocketAddr, lengths: &[u8]) {
    let _ = read(bytes, lengths);
    for version in [Version::V1, Version::V2] {
        let good = Header::Proxied { user, public }.encode(version);
        let (header, taken) = read(&good, lengths).expect("good").expect("whole");
        assert_eq!(taken, good.len());
        assert_eq!(header.encode(version), good);
        let at = at % (good.len() + 1);
        let _ = read(&[&good[..at], bytes, &good[at..]].concat(), lengths);
    }
}

/// What is read, in pieces as in the whole, and how many bytes that took.
fn read(bytes: &[u8], lengths: &[u8]) -> Result<Option<(Header, usize)>, ProxyError> {
    let mut input = bytes;
    let whole = Reader::default().read(&mut input);
    let whole = whole.map(|header| header.map(|header| (header, bytes.len() - input.len())));

    let mut reader = Reader::default();
    let mut used = 0;
    let mut in_pieces = Ok(None);
    for piece in pieces(bytes, lengths) {
        let mut input = piece;
        let header = reader.read(&mut input);
        used += piece.len() - input.len();
        in_pieces = header.map(|header| header.map(|header| (header, used)));
        if in_pieces != Ok(None) {
            break;
        }
        assert!(input.is_empty());
    }
    assert_eq!(in_pieces, whole);

    if let Ok(Some((header, used))) = whole {
        assert!(used <= bytes.len());
        for version in [Version::V1, Version::V2] {
            assert_eq!(Reader::default().read(&mut &header.encode(version)[..]), Ok(Some(header)));
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_harm(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..200).boxed(),
                "PROXY (TCP4|TCP6|UNKNOWN)( [0-9.:a-f]{1,8}){0,5}\r\n".prop_map(String::into_bytes).boxed(),
                prop::collection::vec(any::<u8>(), 4..80).prop_map(|rest| [crate::proxy::V2, &rest].concat()).boxed(),
            ],
            at in any::<usize>(),
            user in any::<std::net::SocketAddr>(),
            public in any::<std::net::SocketAddr>(),
            lengths in prop::collection::vec(any::<u8>(), 1..4),
        ) {
            super::run(&bytes, at, user, public, &lengths);
        }
    }
}
