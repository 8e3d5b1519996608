//! Any text as an invite, and inside of a good one: see `relay_proto::model::invite`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_proto::model::invite;

fuzz_target!(|input: (u8, &[u8])| invite::run(input.1, usize::from(input.0)));
