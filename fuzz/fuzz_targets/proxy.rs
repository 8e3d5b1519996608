//! Any bytes as a PROXY header, and inside of a good one: see `relay_proto::model::proxy`.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use relay_proto::model::proxy;

type Input<'a> = ([u8; 4], u8, SocketAddr, SocketAddr, &'a [u8]);

fuzz_target!(|input: Input<'_>| proxy::run(input.4, usize::from(input.1), input.2, input.3, &input.0));
