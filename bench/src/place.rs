//! Where programs run: a network namespace of the runner's own, or the system's.
//!
//! A namespace lives as long as its holder, a process of ours that was started in it. Everything else is
//! started there by `nsenter`, which replaces itself by the program, so process ids are the programs' own.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::Duration;

use crate::load::wait_for_end_of_input;
use crate::process::printed;

const DEFAULT_ALGORITHM: &str = "/proc/sys/net/ipv4/tcp_congestion_control";
const ALLOWED_ALGORITHMS: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// Where programs run.
#[derive(Debug)]
pub(crate) struct Place {
    holder: Option<Child>,
    /// The congestion control that sockets get there.
    pub(crate) congestion: String,
}

impl Place {
    /// Where this process runs.
    pub(crate) fn here() -> io::Result<Self> {
        Ok(Self { holder: None, congestion: fs::read_to_string(DEFAULT_ALGORITHM)?.trim().to_owned() })
    }

    /// A new network namespace with its own loopback and this congestion control.
    ///
    /// # Errors
    /// Not root, or an algorithm that the kernel does not have.
    pub(crate) fn namespace(congestion: &str) -> io::Result<Self> {
        let mut holder = Command::new("unshare")
            .arg("--net")
            .arg(std::env::current_exe()?)
            .args(["hold", congestion])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut answer = String::new();
        if let Some(stdout) = holder.stdout.take() {
            BufReader::new(stdout).read_line(&mut answer)?;
        }
        match answer.trim() {
            "" => {
                let output = holder.wait_with_output()?;
                Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
            }
            congestion => Ok(Self { holder: Some(holder), congestion: congestion.to_owned() }),
        }
    }

    pub(crate) fn is_namespace(&self) -> bool {
        self.holder.is_some()
    }

    /// The process to enter the namespace by; this one when there is none.
    pub(crate) fn pid(&self) -> u32 {
        self.holder.as_ref().map_or_else(std::process::id, Child::id)
    }

    /// A command that runs there, and ends when the runner does.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut words: Vec<&OsStr> = Vec::new();
        let pid = self.pid().to_string();
        if self.is_namespace() {
            words.extend(["nsenter", "--net", "--target", &pid, "--"].map(OsStr::new));
        }
        if Path::new("/usr/bin/setpriv").exists() {
            words.extend(["setpriv", "--pdeathsig", "KILL", "--"].map(OsStr::new));
        }
        words.push(program.as_ref());
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command
    }

    /// A command that is this program with another task, run there.
    pub(crate) fn own(&self, task: &str) -> io::Result<Command> {
        let mut command = self.command(std::env::current_exe()?);
        command.arg(task);
        Ok(command)
    }

    /// A port that nothing has used for a while.
    pub(crate) fn port(&self) -> io::Result<u16> {
        self.ports(1)
    }

    /// The first of so many, which follow each other.
    pub(crate) fn ports(&self, count: u16) -> io::Result<u16> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        /// Below those that the kernel gives to connections, above those that programs are known for.
        const FIRST: u16 = 10_000;
        const COUNT: u16 = 9_000;
        for _ in 0..COUNT / count {
            let offset = NEXT.fetch_add(count, Ordering::Relaxed) % COUNT;
            let ports = FIRST + offset..FIRST + offset + count;
            let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
            if self.is_namespace() || ports.clone().all(free) {
                return Ok(ports.start);
            }
        }
        Err(io::Error::other("no free port from 10000 to 19000"))
    }

    /// Waits until someone listens on this port.
    pub(crate) fn wait_for_listener(&self, port: u16) -> io::Result<()> {
        const LISTENING: &str = "0A";
        let wanted = format!(":{port:04X}");
        let listens = |line: &str| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next().is_some_and(|local| local.ends_with(&wanted)) && fields.nth(1) == Some(LISTENING)
        };
        for _ in 0..500 {
            for table in ["tcp", "tcp6"] {
                let table = fs::read_to_string(format!("/proc/{}/net/{table}", self.pid())).unwrap_or_default();
                if table.lines().any(listens) {
                    return Ok(());
                }
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(io::Error::other(format!("nothing listens on port {port}")))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(holder) = &mut self.holder {
            // It ends with its input. An error says that it is gone.
            drop(holder.stdin.take());
            let _ = holder.wait();
        }
    }
}

/// Sets up the namespace that this process was started in, says so with its congestion control, and keeps
/// it until standard input ends.
pub(crate) fn hold(congestion: &str) -> io::Result<()> {
    tool("ip", &["link", "set", "lo", "up"])?;
    fs::write(DEFAULT_ALGORITHM, congestion)
        .map_err(|error| io::Error::new(error.kind(), format!("congestion control {congestion}: {error}")))?;
    // Room for 18 000 connections to one address: the kernel takes ports of one parity first.
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "20000 65535")?;
    println!("{}", fs::read_to_string(DEFAULT_ALGORITHM)?.trim());
    wait_for_end_of_input();
    Ok(())
}

/// Runs a tool of the system's to its end.
pub(crate) fn tool(name: &str, words: &[&str]) -> io::Result<()> {
    printed(Command::new(name).args(words)).map(drop)
}

/// Congestion controls that namespaces may choose: the system's list, made longer while this lives.
///
/// The kernel lets a namespace choose only what everyone may choose, and a system whose default is BBR
/// has not got cubic on that list.
#[derive(Debug)]
pub(crate) struct Allowed {
    before: Option<String>,
}

impl Allowed {
    /// Adds them where that is possible: [`Place::namespace`] tells where it was not.
    pub(crate) fn with(algorithms: &[&str]) -> Self {
        let Ok(before) = fs::read_to_string(ALLOWED_ALGORITHMS) else { return Self { before: None } };
        let mut list: Vec<&str> = before.split_whitespace().collect();
        list.extend(algorithms.iter().filter(|name| !before.split_whitespace().any(|word| word == **name)));
        let longer = list.join(" ");
        // It is the system's, so the whole list may not be allowed to us.
        let written = longer != before.trim() && fs::write(ALLOWED_ALGORITHMS, longer).is_ok();
        Self { before: written.then_some(before) }
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // What could be written can be written back.
            let _ = fs::write(ALLOWED_ALGORITHMS, before.trim());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_never_given_twice_in_a_row() {
        let here = Place::here().unwrap();
        let (first, second) = (here.ports(3).unwrap(), here.port().unwrap());
        assert!(!(first..first + 3).contains(&second));
    }

    #[test]
    fn a_listener_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Place::here().unwrap().wait_for_listener(listener.local_addr().unwrap().port()).unwrap();
    }
}
