//! Arbitrary bytes from the link, whole and in pieces: see `relay_proto::model::frames`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_proto::model::frames;

fuzz_target!(|input: ([u8; 4], &[u8])| frames::run(input.1, &input.0));
