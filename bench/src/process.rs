//! Programs under measurement: started, watched through /proc, ended.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::metrics::Metrics;

/// Ticks of /proc/PID/stat in a second: `USER_HZ`, which is 100 on every system that Rust's std runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A program that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    log: PathBuf,
    name: String,
}

impl Running {
    /// Starts a program that answers on standard output; its errors go to `NAME.log` in `logs`.
    pub(crate) fn start(mut command: Command, name: &str, logs: &Path) -> io::Result<Self> {
        command.stdout(Stdio::piped());
        Self::spawn(command, name, logs)
    }

    /// Starts a program whose standard output is a log, too. A pipe that nobody reads would stop it once full.
    pub(crate) fn start_silent(mut command: Command, name: &str, logs: &Path) -> io::Result<Self> {
        command.stdout(File::create(logs.join(format!("{name}.out")))?);
        Self::spawn(command, name, logs)
    }

    fn spawn(mut command: Command, name: &str, logs: &Path) -> io::Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let mut child = command
            .stdin(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
        let stdout = child.stdout.take().map(BufReader::new);
        Ok(Self { child, stdout, log, name: name.to_owned() })
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stdout.as_mut().map(|stdout| stdout.read_line(&mut line)).transpose()? {
            None | Some(0) => Err(self.failed("ended early")),
            Some(_) => Ok(line.trim().to_owned()),
        }
    }

    /// The figures that it prints next.
    pub(crate) fn metrics(&mut self) -> io::Result<Metrics> {
        let read = self.stdout.as_mut().map(Metrics::read);
        read.unwrap_or_else(|| Ok(Metrics::default())).map_err(|error| self.failed(&error.to_string()))
    }

    fn failed(&self, what: &str) -> io::Error {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        let last = said.lines().rev().take(3).collect::<Vec<_>>();
        let last = last.into_iter().rev().collect::<Vec<_>>().join(" | ");
        io::Error::other(format!("{}: {what}; it said: {last}", self.name))
    }

    /// CPU time of it and its descendants, in seconds.
    pub(crate) fn cpu_seconds(&self) -> io::Result<f64> {
        let all = processes()?;
        let tree = tree(self.child.id(), &all);
        Ok(tree.iter().map(|pid| all[pid].cpu_ticks as f64).sum::<f64>() / TICKS_PER_SECOND)
    }

    /// Resident memory of it and its descendants, in KiB.
    pub(crate) fn resident_kib(&self) -> io::Result<f64> {
        tree(self.child.id(), &processes()?).into_iter().map(resident_kib).sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A session's process of sshd outlives the one that was started. Errors say that they are gone.
        let descendants = processes().map(|all| tree(self.child.id(), &all)).unwrap_or_default();
        let _ = self.child.kill();
        for pid in descendants.into_iter().filter(|pid| *pid != self.child.id()) {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        let _ = self.child.wait();
    }
}

/// What /proc/PID/stat says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// In user and kernel mode, in ticks.
    cpu_ticks: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The second field is the program's name in brackets, which may hold anything.
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        let parent = fields.nth(1)?.parse().ok()?;
        // Fields 14 and 15, counted from 1; field 5 is next.
        let (user, kernel) = (fields.nth(9)?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
        Some(Self { parent, cpu_ticks: user + kernel })
    }
}

fn processes() -> io::Result<HashMap<u32, Stat>> {
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // A process may end while it is looked at.
    Ok(pids
        .filter_map(|pid: u32| Some((pid, Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect())
}

/// A process and its descendants, as far as they are there.
fn tree(root: u32, all: &HashMap<u32, Stat>) -> Vec<u32> {
    let mut found: Vec<u32> = all.contains_key(&root).then_some(root).into_iter().collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(all.iter().filter(|(_, stat)| stat.parent == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

fn resident_kib(pid: u32) -> io::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse().ok());
    kib.ok_or_else(|| io::Error::other(format!("process {pid} has no VmRSS")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_and_spaces_are_skipped() {
        let stat = "7 (a) b) S 3 7 7 0 -1 4194304 107 0 0 0 25 17 0 0 20 0 1 0 1 2 3";
        assert_eq!(Stat::parse(stat), Some(Stat { parent: 3, cpu_ticks: 42 }));
        assert_eq!(Stat::parse("7 (a"), None);
    }

    #[test]
    fn a_tree_holds_grandchildren_and_no_others() {
        let stat = |parent| Stat { parent, cpu_ticks: 0 };
        let all = HashMap::from([(1, stat(0)), (2, stat(1)), (3, stat(2)), (4, stat(1)), (5, stat(3))]);
        let mut tree = tree(2, &all);
        tree.sort_unstable();
        assert_eq!(tree, [2, 3, 5]);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident_kib(std::process::id()).unwrap() > 100.0);
        assert!(processes().unwrap().contains_key(&std::process::id()));
    }
}
