//! Listening and accepting.

use socket2::{Domain, Protocol, SockAddr, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

/// Connections that the kernel keeps for us until we accept them (it may allow fewer: `somaxconn`).
const BACKLOG: i32 = 4096;

/// The first pause after an error that accepting again at once would only repeat; each is twice the last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest such pause.
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// At most one line of the log in this time says that accepting fails.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Listens on `address`, port 0 for any. `[::]` takes IPv4 as well, and is `0.0.0.0` on a machine without
/// IPv6. The port is ours alone: bound without `SO_REUSEPORT`. To be called within a tokio runtime.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match bind(address) {
        Err(error)
            if address.is_ipv6()
                && address.ip().is_unspecified()
                && !matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) =>
        {
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into()).map_err(|_| error)
        }
        result => result,
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Lets us have the port back while connections of an earlier run are in TIME_WAIT. On Windows it would
    // let another program take the port from us.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// The next connection, without Nagle's delay, and its peer's [`canonical`] address. Errors never end it: out
/// of descriptors or memory, and on any error not known to be harmless, it pauses (10 ms to 1 s), says so in the
/// log (at most once in 10 s for the process) and goes on. Cancel safe.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let mut pause = FIRST_PAUSE;
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Fails only if the peer has gone already, which the first read will tell.
                let _ = stream.set_nodelay(true);
                return (stream, canonical(address));
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                complain(listener, &error);
                tokio::time::sleep(pause).await;
                pause = (2 * pause).min(LAST_PAUSE);
            }
        }
    }
}

/// Whether the failed accept took a broken connection off the queue, so that the next can be had at once.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
    )
}

/// Logs that accepting failed, and how often since the last such line.
fn complain(listener: &TcpListener, error: &io::Error) {
    struct Said {
        at: Instant,
        since: u64,
    }
    static SAID: Mutex<Option<Said>> = Mutex::new(None);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    match said.as_mut() {
        Some(said) if said.at.elapsed() < LOG_EVERY => said.since += 1,
        _ => {
            let unsaid = said.as_ref().map_or(0, |said| said.since);
            let port = listener.local_addr().map_or(0, |address| address.port());
            tracing::warn!(port, unsaid, "accepting connections fails, going on: {error}");
            *said = Some(Said { at: Instant::now(), since: 0 });
        }
    }
}

/// The address as IPv4 if it is IPv4 within IPv6 (`::ffff:a.b.c.d`), which is how a dual-stack socket sees it.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}
