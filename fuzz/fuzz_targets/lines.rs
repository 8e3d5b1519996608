//! The handshake's lines, whole and in pieces: see `relay_proto::model::lines`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_proto::model::lines;

fuzz_target!(|input: ([u8; 4], [u8; 8], &[u8])| lines::run(input.2, &input.0, &input.1));
