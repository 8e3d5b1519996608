//! haproxy with splice(2): one hop, the limit of what a proxy of this kind reaches.

use std::fs;
use std::io;

use super::{Stage, Standing, loopback};
use crate::process::Running;

pub(super) fn start(stage: &Stage<'_>) -> io::Result<Standing> {
    let public = stage.near.port()?;
    let configuration = stage.folder.join("haproxy.cfg");
    fs::write(
        &configuration,
        format!(
            "global\n    maxconn 6000\ndefaults\n    mode tcp\n    option splice-request\n    option splice-response\n    \
             timeout connect 10s\n    timeout client 1h\n    timeout server 1h\n\
             frontend users\n    bind {}\n    default_backend service\nbackend service\n    server service {}\n",
            loopback(public),
            stage.service()
        ),
    )?;
    let mut command = stage.near.command(&stage.tools.haproxy);
    command.args(["-db", "-f"]).arg(configuration);
    let proxy = Running::start_silent(command, "server", &stage.folder)?;
    Ok(Standing { address: loopback(public), processes: vec![proxy] })
}
