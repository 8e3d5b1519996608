//! A user who says nothing for longer than any peer's keepalive waits is still served afterwards.

use std::thread;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::support::{self, MODES, User};
use crate::{go, rust_yamux};

/// Three of the 30 s after which the peers send a ping.
const SILENCE: Duration = Duration::from_secs(90);

/// One test for all peers, so that the time passes once.
#[test]
fn for_ninety_seconds() {
    let runtime = Runtime::new().unwrap();
    let (_relay, port) = support::relay();
    let local = support::serve();
    let mut kept = Vec::new();
    let mut users = vec![User::of(rust_yamux::service(&runtime, port))];

    for version in [go::OLD, go::NEW] {
        let Some((service, at)) = go::service(version, port, &[]) else { continue };
        kept.push(service);
        users.push(User::of(at));
        let Some((relay, old_port)) = go::relay(version, &[]) else { continue };
        kept.push(relay);
        for mode in MODES {
            let (forwarder, at) = support::forwarder(local, old_port, mode);
            kept.push(forwarder);
            users.push(User::of(at));
        }
    }
    for example in ["python/event.py", "python/pool.py"] {
        let args = ["localhost", &port.to_string()];
        let Some((example, at)) = support::interpreted("python3", example, &args) else { continue };
        kept.push(example);
        users.push(User::of_echo(at));
    }
    for (port, mode) in [(rust_yamux::relay(&runtime), "multiplex")].into_iter().chain(MODES.map(|mode| (port, mode))) {
        let (forwarder, at) = support::forwarder(local, port, mode);
        kept.push(forwarder);
        users.push(User::of(at));
    }

    let users = users.into_iter().map(|user| thread::spawn(move || user.pause(SILENCE)));
    users.collect::<Vec<_>>().into_iter().for_each(|user| user.join().unwrap());
    kept.iter_mut().for_each(support::Program::assert_runs);
}
