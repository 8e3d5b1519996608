//! Peers written in Rust, installed with cargo.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::process::Command;

use super::{Stage, Standing, loopback};
use crate::process::{Running, printed};

/// What rathole encrypts by, `Noise_NK_25519_ChaChaPoly_BLAKE2s` as it comes: the client knows the server's key.
pub(super) struct NoiseKeys {
    private: String,
    public: String,
}

/// New ones, of a rathole that was built with its feature `noise`.
pub(super) fn noise_keys(stage: &Stage<'_>) -> io::Result<NoiseKeys> {
    let said = printed(Command::new(&stage.tools.rathole).arg("--genkey"))?;
    // Titles and keys, a line each.
    let mut keys = said.lines().filter(|line| !line.is_empty() && !line.ends_with(':'));
    match (keys.next(), keys.next()) {
        (Some(private), Some(public)) => Ok(NoiseKeys { private: private.into(), public: public.into() }),
        _ => Err(io::Error::other(format!("rathole --genkey said {said:?}"))),
    }
}

/// A connection for each user, opened ahead by the client; in plain text if there are no keys.
pub(super) fn rathole(stage: &Stage<'_>, keys: Option<NoiseKeys>) -> io::Result<Standing> {
    let (control, public) = (stage.near.port()?, stage.near.port()?);
    let (server_transport, client_transport) = match keys {
        None => Default::default(),
        Some(NoiseKeys { private, public }) => (
            format!("[server.transport]\ntype = \"noise\"\nnoise.local_private_key = \"{private}\"\n"),
            format!("[client.transport]\ntype = \"noise\"\nnoise.remote_public_key = \"{public}\"\n"),
        ),
    };
    let server = stage.folder.join("rathole-server.toml");
    fs::write(
        &server,
        format!(
            "[server]\nbind_addr = \"0.0.0.0:{control}\"\ndefault_token = \"bench\"\n{server_transport}\
             [server.services.bench]\nbind_addr = \"{}\"\nnodelay = true\n",
            loopback(public)
        ),
    )?;
    let client = stage.folder.join("rathole-client.toml");
    fs::write(
        &client,
        format!(
            "[client]\nremote_addr = \"{}\"\ndefault_token = \"bench\"\n{client_transport}\
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
