//! Fewer descriptors than peers want.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::rig::{Relay, chat, from};
use crate::support::{MIB, PATIENCE, RELAY};

const LIMIT: usize = 64;
const MANY: usize = 200;

fn flood(to: SocketAddr) -> Vec<TcpStream> {
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
    limited.args(["-c", &format!("ulimit -n {LIMIT}; exec \"$0\" \"$@\""), RELAY]);
    let mut relay = Relay::run("", &mut limited);
    let before = relay.program.peak_memory();
    let (mut control, public) = relay.event();
    let mut user = from("127.0.0.1", public).unwrap();
    let mut service = relay.claim(&mut control);
    chat(&mut user, &mut service);
    let open = relay.program.descriptors();
    // Those who only connect, on both ports.
    for to in [relay.control, public] {
        let crowd = flood(to);
        for _ in 0..5 {
            chat(&mut user, &mut service);
            commands_work(&relay);
        }
        let most = relay.program.descriptors();
        assert!(open < most && most < LIMIT, "{open}, then {most}");
        for peer in crowd {
            // A reset: it is noticed at once that they are gone.
            SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        }
        relay.program.assert_runs();
        let begun = Instant::now();
        while relay.program.descriptors() > open {
            assert!(begun.elapsed() < PATIENCE, "it does not recover");
            thread::sleep(Duration::from_millis(20));
        }
    }
    relay.serves();
    let cost = relay.cost(before);
    assert!(cost < 16 * MIB, "{cost} bytes");
}
