//! Fewer descriptors than peers want.

use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::rig::{Relay, chat, from};
use crate::support::{MIB, PATIENCE, RELAY};

const MANY: usize = 200;

fn flood(to: std::net::SocketAddr) -> Vec<TcpStream> {
    (0..MANY).filter_map(|at| from(["127.0.0.2", "127.0.0.3"][at % 2], to).ok()).collect()
}

/// The operator's commands reach the running server.
fn commands_work(relay: &Relay) {
    let mut command = Command::new(RELAY);
    let output = command.args(["identities", "--state"]).arg(relay.state()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("laptop") && err.is_empty(), "{out}{err}");
}

#[test]
fn sixty_four_descriptors_are_enough_for_those_who_are_served() {
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\"", RELAY]);
    let mut relay = Relay::run("", &mut limited);
    let before = relay.program.peak_memory();
    let (mut control, public) = relay.event();
    let mut user = from("127.0.0.1", public).unwrap();
    let mut service = relay.claim(&mut control);
    chat(&mut user, &mut service);
    // Those who only connect, on both ports.
    for to in [relay.control, public] {
        let crowd = flood(to);
        for _ in 0..5 {
            chat(&mut user, &mut service);
            commands_work(&relay);
        }
        drop(crowd);
        relay.program.assert_runs();
        // They are noticed to be gone.
        let begun = Instant::now();
        while relay.prove().is_err() {
            assert!(begun.elapsed() < PATIENCE, "it does not recover");
            thread::sleep(Duration::from_millis(50));
        }
    }
    relay.serves();
    let cost = relay.cost(before);
    assert!(cost < 16 * MIB, "{cost} bytes");
}
