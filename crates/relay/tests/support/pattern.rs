//! Bytes that both ends of a test can make, so that every one that arrives is compared.

use std::io::{self, Read, Write};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

/// A prime, so that bytes which are lost, doubled or moved by any amount the relay works in are noticed.
const BLOCK: usize = 1_048_573;

/// Endless bytes: one block over and over, from a place in it that the seed gives.
#[derive(Copy, Clone)]
pub(crate) struct Pattern(usize);

fn block() -> &'static [u8] {
    static MADE: OnceLock<Vec<u8>> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64; // xorshift
        let words = (0..=BLOCK / 8).flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        words.take(BLOCK).collect()
    })
}

impl Pattern {
    pub(crate) fn new(seed: usize) -> Self {
        Pattern(seed * 7919 % BLOCK)
    }

    /// The first `bytes` in pieces of at most `at_most`.
    fn pieces(self, bytes: usize, at_most: usize) -> impl Iterator<Item = &'static [u8]> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let start = (self.0 + done) % BLOCK;
            let length = (bytes - done).min(BLOCK - start).min(at_most);
            done += length;
            (length > 0).then(|| &block()[start..start + length])
        })
    }

    pub(crate) fn write(self, bytes: usize, to: &mut impl Write) -> io::Result<()> {
        self.pieces(bytes, BLOCK).try_for_each(|piece| to.write_all(piece))
    }

    /// Reads `bytes` and panics at the first that differs.
    pub(crate) fn expect(self, bytes: usize, from: &mut impl Read) -> io::Result<()> {
        let mut buffer = vec![0; 256 * 1024];
        let mut at = 0;
        for piece in self.pieces(bytes, buffer.len()) {
            from.read_exact(&mut buffer[..piece.len()])?;
            assert!(&buffer[..piece.len()] == piece, "bytes {at} to {} differ", at + piece.len());
            at += piece.len();
        }
        Ok(())
    }

    /// The SHA-256 of the first `bytes`, in hex.
    pub(crate) fn hash(self, bytes: usize) -> String {
        let mut hash = Sha256::new();
        self.pieces(bytes, BLOCK).for_each(|piece| hash.update(piece));
        hex(hash)
    }
}

pub(crate) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
}
