//! A forwarder whose service is its own public port.

use std::io::{Read, Write};

use crate::rig::{Relay, from};
use crate::support::{MIB, MODES, Program, RELAY, established};

#[test]
fn a_service_that_is_its_own_public_port_ends_bounded() {
    const USERS: usize = 200;
    let mut relay = Relay::start(&format!("open = true\n[limits]\nusers_per_tunnel = {USERS}"));
    for (mode, above) in MODES.into_iter().zip(1..) {
        // Among those for clients without an identity.
        let port = relay.control.port() + 620 + above;
        let (service, control) = (format!("127.0.0.1:{port}"), relay.control.to_string());
        let arguments = ["forward", &service, &control, "--mode", mode, "--port", &port.to_string()];
        let mut forwarder = Program::start(RELAY, arguments);
        let public = established(&forwarder);
        let before = (relay.program.peak_memory(), forwarder.peak_memory());
        let mut user = from("127.0.0.1", public).unwrap();
        user.write_all(b"round").unwrap();
        // The one for whom there is no more room is reset, and so are all before it.
        assert!(user.read(&mut [0]).is_err(), "{mode}");
        let cost = (relay.cost(before.0), forwarder.peak_memory() - before.1);
        eprintln!("{mode}: {} and {} KiB", cost.0 / 1024, cost.1 / 1024);
        assert!(cost.0 < 16 * MIB && cost.1 < 16 * MIB, "{mode}: {cost:?}");
        relay.program.assert_runs();
        forwarder.assert_runs();
        relay.serves();
    }
}
