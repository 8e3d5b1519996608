//! Ours: `relay server` and `relay forward`, in plain text for everyone, or under TLS for whom it invited.

use std::fs;
use std::io;
use std::net::SocketAddr;

use super::{Stage, Standing, loopback};
use crate::process::{Running, printed};

/// What the loads need beyond the server's defaults: 18 000 users of one tunnel, also where a process may have no more
/// than 20 000 descriptors.
const CONFIGURATION: &str = "[limits]\nusers_per_tunnel = 20000\ndescriptors = 19000\n";
/// The same for an identity: 5 000 idle users.
const MAX_USERS: &str = "20000";

/// How a client reaches the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Plain,
    Tls,
}

pub(super) fn start(stage: &Stage<'_>, mode: &str, transport: Transport) -> io::Result<Standing> {
    let (control, public) = (stage.near.port()?, stage.near.port()?);
    let server = server(stage, transport, control, public, public)?;
    let mut forwarder = match transport {
        Transport::Plain => forwarder(stage, mode, &address(stage, control), "forwarder")?,
        Transport::Tls => forwarder(stage, mode, &invite(stage, control)?, "forwarder")?,
    };
    established(&mut forwarder)?;
    Ok(Standing { address: loopback(public), processes: vec![server, forwarder] })
}

/// Starts a relay with this control port, these public ports, and a state of its own.
pub(crate) fn server(
    stage: &Stage<'_>,
    transport: Transport,
    control: u16,
    first: u16,
    last: u16,
) -> io::Result<Running> {
    let configuration = stage.folder.join("relay.toml");
    fs::write(&configuration, CONFIGURATION)?;
    let mut command = stage.near.command(&stage.tools.relay);
    command.args(["server", "--listen", &format!("0.0.0.0:{control}"), "--ports", &format!("{first}-{last}")]);
    command.arg("--state").arg(stage.folder.join("state")).arg("--config").arg(configuration);
    if transport == Transport::Plain {
        command.arg("--open");
    }
    Running::start_silent(command, "server", &stage.folder)
}

/// Where a forwarder finds that relay.
pub(crate) fn address(stage: &Stage<'_>, control: u16) -> String {
    SocketAddr::new(stage.near_address, control).to_string()
}

/// The same, with the certificate that is expected there and a new identity.
fn invite(stage: &Stage<'_>, control: u16) -> io::Result<String> {
    // There is a state once it listens.
    stage.near.wait_for_listener(control)?;
    let mut command = stage.near.command(&stage.tools.relay);
    command.args(["invite", "bench", "--max-users", MAX_USERS, "--host", &address(stage, control)]);
    printed(command.arg("--state").arg(stage.folder.join("state")))
}

/// Starts a forwarder. In plain text it may come before the relay listens.
pub(crate) fn forwarder(stage: &Stage<'_>, mode: &str, relay: &str, name: &str) -> io::Result<Running> {
    let mut command = stage.far.command(&stage.tools.relay);
    command.args(["forward", &stage.service().to_string(), relay, "--mode", mode]);
    Running::start(command, name, &stage.folder)
}

/// Waits until the forwarder says that its tunnel stands, and gives the public port.
pub(crate) fn established(forwarder: &mut Running) -> io::Result<u16> {
    let line = forwarder.line()?;
    let port = line.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    port.ok_or_else(|| io::Error::other(format!("the forwarder said {line:?}")))
}
