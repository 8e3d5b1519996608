//! The program `relay`: a command line, logs and signals around the library.

use std::fmt::Display;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use relay::cli::{self, Command};
use relay::{Config, Server, demo, forward, logs};
use relay_net::socket;
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// How long tasks may take to notice that the program ends.
const LAST_WORDS: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let invocation = cli::parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    logs::init(&invocation.log);
    raise_descriptor_limit();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format_args!("cannot start: {error}")),
    };
    let ended = runtime.block_on(async {
        let mut signals = signals()?;
        let (first, asked) = tokio::sync::oneshot::channel::<()>();
        let asked = async { drop(asked.await) };
        let signalled = async {
            signals.recv().await;
            drop(first);
            signals.recv().await;
            debug!("a second signal: ending at once");
        };
        tokio::select! {
            ended = run(invocation.command, asked) => ended,
            () = signalled => Ok(()),
        }
    });
    runtime.shutdown_timeout(LAST_WORDS);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn run(command: Command, shutdown: impl Future<Output = ()> + Send) -> Result<(), String> {
    match command {
        Command::Server { listen, ports, bbr, original } => {
            warn!("{}", open_warning(listen, original));
            let listener = socket::listen(listen)
                .map_err(|error| format!("cannot listen on {listen}: {error}; {}", listen_hint(error.kind())))?;
            let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            let mut config = Config { ports, public_address: listen.ip(), threads, ..Config::default() };
            config.limits.link.bbr = bbr;
            Server::run(listener, config, shutdown).await.map_err(|error| error.to_string())
        }
        Command::Forward(config) => {
            let relay = &config.relay;
            if !relay.is_loopback() {
                warn!("the connection to {relay} is plain text: whoever is on its way can read and change what passes");
            }
            let announce = |address: &_| say(&format_args!("established relay address: {address}"));
            forward::run(config, announce, shutdown).await.map_err(|error| error.to_string())
        }
        Command::Demo => {
            let announce = |url: &str| say(&format_args!("open {url} in a browser; Ctrl-C ends the demo"));
            demo::run(announce, shutdown).await.map_err(|error| format!("the demo failed: {error}"))
        }
    }
}

fn listen_hint(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => "stop what listens there, or choose another port",
        io::ErrorKind::AddrNotAvailable => "choose an address of this machine, or [::] for all it has",
        io::ErrorKind::PermissionDenied => "choose a port from 1024 up, or ask for the right to use this one",
        _ => "choose another address with --listen ADDR:PORT",
    }
}

fn open_warning(listen: SocketAddr, original: bool) -> String {
    let warning = format!("open to everyone: whoever reaches {listen} can open public ports on this machine");
    if !original {
        return warning;
    }
    let port = listen.port();
    format!(
        "{warning}; to choose where and which ports, type: relay server --listen ADDR:{port} --ports FROM-TO --open"
    )
}

/// A line on stdout. That nobody reads it is no reason to end.
fn say(line: &dyn Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn failed(error: &dyn Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "relay: {error}");
    ExitCode::FAILURE
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
