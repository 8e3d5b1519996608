//! Programs under measurement: started, watched through /proc, ended.

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
    /// It starts processes that count as its own.
    forks: bool,
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
        Ok(Self { child, stdout, log, name: name.to_owned(), forks: false })
    }

    /// Says that it starts processes: they are looked for among all of the system's.
    pub(crate) fn forking(mut self) -> Self {
        self.forks = true;
        self
    }

    fn pids(&self) -> Vec<u32> {
        if self.forks { tree(self.child.id(), &parents()) } else { vec![self.child.id()] }
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

    /// CPU time of it and the processes it started, in seconds.
    pub(crate) fn cpu_seconds(&self) -> io::Result<f64> {
        let ticks: Option<u64> = self.pids().into_iter().map(cpu_ticks).sum();
        ticks.map(|ticks| ticks as f64 / TICKS_PER_SECOND).ok_or_else(|| self.failed("a process of it is gone"))
    }

    /// Resident memory of it and the processes it started, in KiB.
    pub(crate) fn resident_kib(&self) -> io::Result<f64> {
        self.pids().into_iter().map(resident_kib).sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A session's process of sshd outlives the one that was started. Errors say that they are gone.
        let descendants = self.pids().split_off(1);
        let _ = self.child.kill();
        for pid in descendants {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        let _ = self.child.wait();
    }
}

/// Runs a program to its end, without input, and gives what it printed.
///
/// # Errors
/// It cannot be started, or it failed: what it said then.
pub(crate) fn printed(command: &mut Command) -> io::Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{command:?}: {}: {}", output.status, error.trim())))
}

/// CPU time in user and kernel mode; none of a process that is gone.
fn cpu_ticks(pid: u32) -> Option<u64> {
    parse_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_ticks(stat: &str) -> Option<u64> {
    // The second field is the program's name in brackets, which may hold anything. Of the fields, counted from 1,
    // the third follows, and those wanted are 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// All processes, and who started them.
fn parents() -> Vec<(u32, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?))
    })
    .collect()
}

/// A process and its descendants.
fn tree(root: u32, parents: &[(u32, u32)]) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, by)| *by == parent).map(|(pid, _)| *pid));
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
        assert_eq!(parse_ticks("7 (a) b) S 3 7 7 0 -1 4194304 107 0 0 0 25 17 0 0 20 0 1 0 1 2 3"), Some(42));
        assert_eq!(parse_ticks("7 (a"), None);
    }

    #[test]
    fn a_tree_holds_grandchildren_and_no_others() {
        assert_eq!(tree(2, &[(1, 0), (2, 1), (3, 2), (4, 1), (5, 3)]), [2, 3, 5]);
        let child = Command::new("sleep").arg("10").spawn().unwrap();
        let family = Running { child, stdout: None, log: PathBuf::new(), name: String::new(), forks: true };
        assert!(tree(std::process::id(), &parents()).contains(&family.child.id()));
        assert_eq!(family.pids(), [family.child.id()]);
    }

    #[test]
    fn what_a_failed_program_said_is_in_the_error() {
        assert_eq!(printed(Command::new("echo").arg("hello")).unwrap(), "hello");
        let error = printed(Command::new("ls").arg("/nowhere/at/all")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }

    #[test]
    fn this_process_has_memory() {
        assert!(resident_kib(std::process::id()).unwrap() > 100.0);
        assert!(cpu_ticks(std::process::id()).is_some());
    }
}
