//! Two sessions against each other: see `relay_proto::model::peers`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_proto::model::{RawOp, peers};

fuzz_target!(|input: (u8, Vec<RawOp>)| {
    let (latency, ops) = input;
    peers::run(latency, ops.into_iter().map(peers::Op::from));
});
