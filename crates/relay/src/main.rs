//! The program `relay`: a command line, logs and signals around the library.

use std::fmt::Display;
use std::future::Future;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use relay::cli::{self, Command, ConformanceClientFlags, ConformanceSubject};
use relay::config::{ConfigError, Configuration};
use relay::conformance::client::{Client, Place, Start};
use relay::conformance::{self, Report, Row};
use relay::plan::{self, PlanError, ServerPlan};
use relay::state::commands::{self, CommandError};
use relay::{demo, forward, logs, serve};
use relay_client::{DEFAULT_PORT, Relay};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

/// How long tasks may take to notice that the program ends.
const LAST_WORDS: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let invocation = cli::parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    logs::init(&invocation.log);
    match run(invocation.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (code, message) = match failure {
                Failure::Running(message) => (1, message),
                Failure::Usage(message) => (2, message),
                Failure::Configuration(error) => (64, error.to_string()),
            };
            for line in cli::without_secrets(&message).lines() {
                let _ = writeln!(io::stderr(), "relay: {line}");
            }
            ExitCode::from(code)
        }
    }
}

/// Why the program ends before it is told to. Each kind has its exit code.
enum Failure {
    /// 1: something went wrong on the way.
    Running(String),
    /// 2: what was typed, or the environment, is wrong.
    Usage(String),
    /// 64: a configuration file is wrong.
    Configuration(ConfigError),
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Running(message)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Configuration(error)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Usage(message) => Self::Usage(message),
            PlanError::Configuration(error) => Self::Configuration(error),
            PlanError::System(message) => Self::Running(message),
        }
    }
}

/// Does what was asked for. All that can be wrong with it is known before a port is opened.
fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Original(listen) => {
            warn!("{}; {}", serve::open_warning(listen), instead(listen));
            until_signalled(async |shutdown| said(serve::original(listen, shutdown).await))
        }
        Command::Server(flags) => {
            let plan = ServerPlan::new(*flags)?;
            until_signalled(async |shutdown| said(serve::run(plan, shutdown).await))
        }
        Command::Forward(flags) => {
            let config = plan::forward(*flags)?;
            if let Relay::Plain(relay) = &config.relay
                && !relay.is_loopback()
            {
                warn!("the connection to {relay} is plain text: whoever is on its way can read and change what passes");
            }
            let announce = |address: &_| say(&format_args!("established relay address: {address}"));
            until_signalled(async |shutdown| said(forward::run(config, announce, shutdown).await))
        }
        Command::Invite(flags) => {
            let place = plan::Place::new(flags.place.clone())?;
            told(commands::invite(&place.context(), &place.wish(&flags), &mut io::stdout(), &mut io::stderr()))
        }
        Command::Revoke(flags) => {
            let place = plan::Place::new(flags.place)?;
            told(commands::revoke(&place.context(), &flags.name, &mut io::stdout(), &mut io::stderr()))
        }
        Command::Identities(flags) => {
            let place = plan::Place::new(flags.place)?;
            told(commands::identities(&place.context(), flags.json, &mut io::stdout(), &mut io::stderr()))
        }
        Command::Check(flags) => check(&flags.file),
        Command::Conformance(ConformanceSubject::Relay(flags)) => {
            tried(async || conformance::relay::run(&flags.relay, tell).await)
        }
        Command::Conformance(ConformanceSubject::Client(flags)) => tried(async || try_client(flags).await),
        Command::Demo => {
            let announce = |url: &str| say(&format_args!("open {url} in a browser; Ctrl-C ends the demo"));
            until_signalled(async |shutdown| {
                demo::run(announce, shutdown).await.map_err(|error| format!("the demo failed: {error}"))
            })
        }
    }
}

async fn try_client(flags: ConformanceClientFlags) -> Result<Report, String> {
    let port = if flags.command.is_empty() { DEFAULT_PORT } else { 0 };
    let listen = flags.listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, port).into());
    let by_hand = flags.command.is_empty();
    let start = if by_hand { Start::ByHand } else { Start::Command(flags.command) };
    let client = Client::new(flags.mode, listen, start).await;
    let client = client.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    if by_hand {
        let Place { relay, echo } = client.place();
        info!("waiting for a client at {relay}; its service is to echo, as one at {echo} does");
    }
    conformance::client::run(&client, tell).await.map_err(|error| format!("the table cannot be printed: {error}"))
}

/// Tries somebody, and fails if something failed, or not all was tried.
fn tried(run: impl AsyncFnOnce() -> Result<Report, String>) -> Result<(), Failure> {
    until_signalled(async |shutdown| {
        let report = tokio::select! {
            report = run() => report?,
            () = shutdown => return Err("stopped before all was tried".into()),
        };
        say(&report);
        match report.failures() {
            0 => Ok(()),
            1 => Err("1 check failed".into()),
            failures => Err(format!("{failures} checks failed")),
        }
    })
}

/// A line of the table. Whoever does not read it wants no more.
fn tell(row: &Row) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{row}").and_then(|()| out.flush())
}

fn told(ended: Result<(), CommandError>) -> Result<(), Failure> {
    Ok(said(ended)?)
}

fn said(ended: Result<(), impl Display>) -> Result<(), String> {
    ended.map_err(|error| error.to_string())
}

/// Runs until it ends by itself, which the first signal asks for; a second one ends it at once.
fn until_signalled(
    run: impl AsyncFnOnce(std::pin::Pin<Box<dyn Future<Output = ()> + Send>>) -> Result<(), String>,
) -> Result<(), Failure> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let ended = runtime.block_on(async {
        let mut signals = signals()?;
        let (first, asked) = tokio::sync::oneshot::channel::<()>();
        let asked = Box::pin(async { drop(asked.await) });
        let signalled = async {
            signals.recv().await;
            drop(first);
            signals.recv().await;
            debug!("a second signal: ending at once");
        };
        tokio::select! {
            ended = run(asked) => ended,
            () = signalled => Ok(()),
        }
    });
    runtime.shutdown_timeout(LAST_WORDS);
    Ok(ended?)
}

/// `relay check`: every problem on a line of stderr, or what the file is on stdout.
fn check(file: &Path) -> Result<(), Failure> {
    let configuration = Configuration::read(file)?;
    say(&format_args!("{}: ok ({})", file.display(), configuration.kind()));
    Ok(())
}

/// What to type instead of `relay <PORT>`.
fn instead(listen: SocketAddr) -> String {
    format!("to serve only whom you invite, type: relay server --listen {listen}")
}

/// A line on stdout. That nobody reads it is no reason to end.
fn say(line: &dyn Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Each signal that asks us to end, from now on.
#[cfg(unix)]
fn signals() -> Result<mpsc::Receiver<()>, String> {
    use tokio::signal::unix::{SignalKind, signal};

    let (send, signals) = mpsc::channel(2);
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut stream = signal(kind).map_err(|error| format!("cannot wait for signals: {error}"))?;
        let send = send.clone();
        tokio::spawn(async move { while stream.recv().await.is_some() && send.send(()).await.is_ok() {} });
    }
    Ok(signals)
}

/// Each Ctrl-C from now on.
#[cfg(not(unix))]
fn signals() -> Result<mpsc::Receiver<()>, String> {
    let (send, signals) = mpsc::channel(2);
    tokio::spawn(async move { while tokio::signal::ctrl_c().await.is_ok() && send.send(()).await.is_ok() {} });
    Ok(signals)
}

/// Each user takes two descriptors, and the usual soft limit is 1 024.
fn raise_descriptor_limit() {
    #[cfg(unix)]
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => debug!(limit, "file descriptors"),
        Err(error) => debug!("the limit on file descriptors stays as it is: {error}"),
    }
}
