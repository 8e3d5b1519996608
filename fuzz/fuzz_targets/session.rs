//! One session and any sequence of operations: see `relay_proto::model::session`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay_proto::model::{RawOp, session};

fuzz_target!(|ops: Vec<RawOp>| session::run(&ops));
