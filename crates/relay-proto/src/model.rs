//! Models of what drives this crate: the bodies of the fuzz targets, which `cargo test` runs too, with a
//! bounded number of random cases.
//!
//! Everything here is a function of its arguments alone, so a printed case or a fuzzer's input replays
//! what happened.

#![allow(
    clippy::cast_possible_truncation,
    clippy::needless_pass_by_value,
    clippy::struct_excessive_bools,
    reason = "numbers here are small, and a model is read more than it is run"
)]

pub mod frames;
pub mod invite;
pub mod lines;
pub mod peers;
pub mod proxy;
pub mod session;

/// An operation as random bytes say it: which, on what, how much.
pub type RawOp = (u8, u8, u16);

/// Splits `bytes` into pieces whose lengths repeat `lengths`; a zero counts as one.
fn pieces<'a>(mut bytes: &'a [u8], lengths: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = lengths.iter().cycle();
    std::iter::from_fn(move || {
        let length = usize::from(lengths.next().copied().unwrap_or(u8::MAX)).max(1);
        let (piece, rest) = bytes.split_at(length.min(bytes.len()));
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}
