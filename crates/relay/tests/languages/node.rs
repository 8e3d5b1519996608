//! `examples/node`: net and http servers behind a relay, by event and pool.

use std::process::Command;

use crate::rig::{self, Invited};
use crate::support;

#[test]
fn http_server() {
    let invited = Invited::new();
    let Some(example) = support::interpreted("node", "node/relayed_hello.mjs", &[&invited.invite]) else { return };
    rig::is_a_web_service(example, |from| format!("hello, {}\n", from.ip()));
}

#[test]
fn http_server_of_an_open_relay() {
    let (_relay, port) = support::relay();
    let at = format!("localhost:{port}");
    let Some(example) = support::interpreted("node", "node/relayed_hello.mjs", &[&at]) else { return };
    rig::is_a_web_service(example, |from| format!("hello, {}\n", from.ip()));
}

/// How the forwarder is started, given its relay and the port of its service.
pub(crate) fn forward(protocol: &str) -> impl Fn(&str, &str) -> Command {
    move |relay, service| {
        let mut command = Command::new("node");
        command.args([&support::example("node/forward.mjs"), protocol, relay, service]);
        command
    }
}

#[test]
fn forwarders() {
    if support::have(&["node"]) {
        rig::forwards(forward("event"));
        rig::forwards(forward("pool"));
    }
}

#[test]
fn forwarders_carry_an_abort() {
    if support::have(&["node"]) {
        rig::carries_an_abort(forward("event"));
        rig::carries_an_abort(forward("pool"));
    }
}

#[test]
fn forwarders_to_a_service_that_speaks_first() {
    if support::have(&["node"]) {
        rig::speaks_first(forward("event"));
        rig::speaks_first(forward("pool"));
    }
}

/// Its server is one as Node makes it by default: it ends when the user has.
#[test]
fn close_frees_the_port() {
    if support::have(&["node"]) {
        for protocol in ["Event", "Pool"] {
            let program = format!(
                r"import net from 'node:net';
                const {{ relay{protocol} }} = await import(process.argv[1]);
                const server = net.createServer((user) => {{
                    tunnel.close();
                    user.on('data', (data) => user.write(data));
                }});
                const tunnel = await relay{protocol}(server, process.argv[2]);
                console.log('reachable at', tunnel.address);
                setInterval(() => {{}}, 1000);"
            );
            rig::closes(|relay| {
                let mut command = Command::new("node");
                command.args(["--input-type=module", "-e", &program, &support::example("node/relay.mjs"), relay]);
                command
            });
        }
    }
}
