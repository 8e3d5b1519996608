//! Peers written in Rust, installed with cargo.

use std::fs;
use std::io;
use std::net::SocketAddr;

use super::{Stage, Standing, loopback};
use crate::process::Running;

/// A connection for each user, opened ahead by the client.
pub(super) fn rathole(stage: &Stage<'_>) -> io::Result<Standing> {
    let (control, public) = (stage.near.port()?, stage.near.port()?);
    let server = stage.folder.join("rathole-server.toml");
    fs::write(
        &server,
        format!(
            "[server]\nbind_addr = \"0.0.0.0:{control}\"\ndefault_token = \"bench\"\n\
             [server.services.bench]\nbind_addr = \"{}\"\nnodelay = true\n",
            loopback(public)
        ),
    )?;
    let client = stage.folder.join("rathole-client.toml");
    fs::write(
        &client,
        format!(
            "[client]\nremote_addr = \"{}\"\ndefault_token = \"bench\"\n\
             [client.services.bench]\nlocal_addr = \"{}\"\nnodelay = true\n",
            SocketAddr::new(stage.near_address, control),
            stage.service()
        ),
    )?;
    let mut command = stage.near.command(&stage.tools.rathole);
    command.arg("--server").arg(server);
    let server = Running::start_silent(command, "server", &stage.folder)?;
    let mut command = stage.far.command(&stage.tools.rathole);
    command.arg("--client").arg(client);
    let client = Running::start_silent(command, "forwarder", &stage.folder)?;
    Ok(Standing { address: loopback(public), processes: vec![server, client] })
}

/// A connection for each user, opened when it comes. Its control port is always 7835.
pub(super) fn bore(stage: &Stage<'_>) -> io::Result<Standing> {
    let public = stage.near.port()?;
    let mut command = stage.near.command(&stage.tools.bore);
    command.arg("server");
    let server = Running::start_silent(command, "server", &stage.folder)?;
    // The client does not try again.
    stage.near.wait_for_listener(7835)?;
    let mut command = stage.far.command(&stage.tools.bore);
    command.args(["local", &stage.service_port.to_string(), "--local-host", "127.0.0.1"]);
    command.args(["--to", &stage.near_address.to_string(), "--port", &public.to_string()]);
    let client = Running::start_silent(command, "forwarder", &stage.folder)?;
    Ok(Standing { address: loopback(public), processes: vec![server, client] })
}
