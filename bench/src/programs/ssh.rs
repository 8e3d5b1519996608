//! `ssh -R` against an sshd of our own: its configuration, its host key, its port, nothing of the system's.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use super::{Stage, Standing, loopback};
use crate::process::{Running, printed};

pub(super) fn start(stage: &Stage<'_>) -> io::Result<Standing> {
    let (control, public) = (stage.near.port()?, stage.near.port()?);
    let folder = &stage.folder;
    let (host_key, user_key) = (folder.join("host_key"), folder.join("user_key"));
    key(&host_key)?;
    key(&user_key)?;
    let configuration = folder.join("sshd_config");
    fs::write(
        &configuration,
        format!(
            "Port {control}\nListenAddress 0.0.0.0\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n",
            host_key.display(),
            user_key.with_extension("pub").display()
        ),
    )?;
    // Where Debian's sshd leaves its privileges; only a service's start makes it. It says so if it is missing.
    let _ = fs::create_dir_all("/run/sshd");
    let mut command = stage.near.command(&stage.tools.sshd);
    command.args(["-D", "-e", "-f"]).arg(configuration);
    let server = Running::start_silent(command, "server", folder)?.forking();
    stage.near.wait_for_listener(control)?;
    let mut command = stage.far.command(&stage.tools.ssh);
    command.args(["-N", "-T", "-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
    command.args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-i"]);
    command.arg(user_key).args(["-p", &control.to_string()]);
    command.args(["-R", &format!("{}:{}", loopback(public), stage.service())]);
    command.arg(stage.near_address.to_string());
    let client = Running::start_silent(command, "forwarder", folder)?;
    Ok(Standing { address: loopback(public), processes: vec![server, client] })
}

fn key(path: &Path) -> io::Result<()> {
    printed(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path)).map(drop)
}
