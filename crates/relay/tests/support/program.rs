//! A child process whose output is watched, and which does not outlive its test.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use super::PATIENCE;

/// A running program; killed when dropped.
pub(crate) struct Program {
    child: Child,
    output: Arc<Output>,
}

#[derive(Default)]
struct Output {
    /// The lines of both streams, and how many of the streams have ended.
    seen: Mutex<(Vec<String>, usize)>,
    grown: Condvar,
}

impl Program {
    pub(crate) fn start<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = A>) -> Self {
        Self::spawn(Command::new(program).args(args))
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let output = Arc::new(Output::default());
        watch(child.stdout.take().unwrap(), &output);
        watch(child.stderr.take().unwrap(), &output);
        Program { child, output }
    }

    /// The first line that contains `text`, waited for.
    pub(crate) fn line_with(&self, text: &str) -> String {
        let mut found = None;
        let seen = self.output.seen.lock().unwrap();
        let (seen, timeout) = self
            .output
            .grown
            .wait_timeout_while(seen, PATIENCE, |(lines, ended)| {
                found = lines.iter().find(|line| line.contains(text)).cloned();
                found.is_none() && *ended < 2
            })
            .unwrap();
        found.unwrap_or_else(|| {
            let how = if timeout.timed_out() { "not yet printed" } else { "ended without printing" };
            panic!("{how} {text:?}:\n{}", seen.0.join("\n"))
        })
    }

    /// All that it has printed.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.output.seen.lock().unwrap().0.clone()
    }

    /// The address behind `text` in the first line that has it, waited for; a name of this machine counts
    /// as 127.0.0.1.
    pub(crate) fn address_after(&self, text: &str) -> SocketAddr {
        let line = self.line_with(text);
        let address = line.split(text).nth(1).unwrap().trim().replace("localhost", "127.0.0.1");
        address.parse().unwrap_or_else(|error| panic!("{address:?}: {error}"))
    }

    /// The most memory that it has ever had resident, in bytes (Linux).
    pub(crate) fn peak_memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        1024 * line.trim().trim_end_matches(" kB").parse::<usize>().unwrap()
    }

    /// How many file descriptors it has open (Linux).
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// Panics, with what it printed, if the program has ended.
    pub(crate) fn assert_runs(&mut self) {
        let status = self.child.try_wait().unwrap();
        assert_eq!(status, None, "ended:\n{}", self.output.seen.lock().unwrap().0.join("\n"));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let seen = self.output.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            eprintln!("--- output of process {}\n{}", self.child.id(), seen.0.join("\n"));
        }
    }
}

fn watch(stream: impl Read + Send + 'static, output: &Arc<Output>) {
    let output = Arc::clone(output);
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            output.seen.lock().unwrap().0.push(String::from_utf8_lossy(&line).into_owned());
            output.grown.notify_all();
        }
        output.seen.lock().unwrap().1 += 1;
        output.grown.notify_all();
    });
}

/// A folder of its own, removed when dropped.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
