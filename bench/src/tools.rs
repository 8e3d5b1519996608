//! The programs' executables: built, installed, or found on the system.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::programs::Program;

/// Where the executables are; a name without a folder was not found.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) relay: PathBuf,
    pub(crate) rathole: PathBuf,
    pub(crate) bore: PathBuf,
    pub(crate) ssh: PathBuf,
    pub(crate) sshd: PathBuf,
    pub(crate) haproxy: PathBuf,
    /// A folder of ours for all that is made on the way.
    pub(crate) work: PathBuf,
}

impl Tools {
    /// Builds what of this is ours, unless one is given, and installs the peers that cargo has. A peer that
    /// cannot be installed is missing, which [`missing`](Self::missing) tells.
    pub(crate) fn prepare(programs: &[Program], relay: Option<PathBuf>) -> io::Result<Self> {
        let target = target()?;
        let tools = target.join("bench-tools");
        let work = target.join("bench-work");
        std::fs::create_dir_all(&work)?;
        let relay = match relay {
            Some(relay) => relay.canonicalize()?,
            None if programs.iter().any(|program| program.is_ours()) => {
                build(&target)?;
                target.join("release/relay")
            }
            None => "relay".into(),
        };
        let peer = |name, of: &[Program], package: &str, extra: &[&str]| {
            let path = tools.join("bin").join(name);
            if programs.iter().any(|program| of.contains(program)) && !path.exists() {
                install(&tools, &target, package, extra);
            }
            path
        };
        Ok(Self {
            relay,
            // Without `--locked`: of its own Cargo.lock, `time` no longer compiles.
            rathole: peer(
                "rathole",
                &[Program::Rathole, Program::RatholeNoise],
                "rathole@0.5.0",
                &["--no-default-features", "--features", "server,client,noise"],
            ),
            bore: peer("bore", &[Program::Bore], "bore-cli@0.6.0", &["--locked"]),
            ssh: find("ssh"),
            sshd: find("sshd"),
            haproxy: find("haproxy"),
            work,
        })
    }

    /// Where results go: into the source tree if they are whole, else out of the way.
    pub(crate) fn results(&self, whole: bool) -> PathBuf {
        if whole {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("results")
        } else {
            self.work.with_file_name("bench-results")
        }
    }

    /// What a program lacks here, if anything.
    pub(crate) fn missing(&self, program: Program) -> Option<String> {
        let needs: &[&Path] = match program {
            Program::None => &[],
            Program::Multiplex
            | Program::Pool
            | Program::Event
            | Program::MultiplexTls
            | Program::PoolTls
            | Program::EventTls => &[&self.relay],
            Program::Rathole | Program::RatholeNoise => &[&self.rathole],
            Program::Bore => &[&self.bore],
            Program::Ssh => &[&self.ssh, &self.sshd],
            Program::Haproxy => &[&self.haproxy],
        };
        let lacking = needs.iter().find(|path| !path.is_absolute() || !path.exists())?;
        Some(format!("{} is not there", lacking.display()))
    }
}

/// Cargo's target folder: this executable is in a profile's folder of it.
fn target() -> io::Result<PathBuf> {
    let here = env::current_exe()?;
    let target = here.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    target.map(Path::to_owned).ok_or_else(|| io::Error::other("this executable is not in a target folder of cargo's"))
}

fn cargo(target: &Path) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "19", "cargo"]).env("CARGO_TARGET_DIR", target);
    command
}

fn build(target: &Path) -> io::Result<()> {
    println!("Building relay");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let mut command = cargo(target);
    command.args(["build", "--quiet", "--release", "--package", "relay-tunnel", "--manifest-path"]).arg(manifest);
    match command.status()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("cargo build: {status}"))),
    }
}

fn install(root: &Path, target: &Path, package: &str, extra: &[&str]) {
    println!("Installing {package}");
    let mut command = cargo(&target.join("bench-build"));
    command.args(["install", "--quiet", package, "--root"]).arg(root).args(extra);
    // A peer that is not there is named as missing.
    if let Err(error) = command.status() {
        println!("{package}: {error}");
    }
}

/// On the path, or where Debian keeps daemons.
fn find(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file()).unwrap_or_else(|| name.into())
}
