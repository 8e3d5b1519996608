//! Listening and accepting.

use socket2::{Domain, Protocol, SockAddr, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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

/// As [`listen`], and nobody else has the port on the other family's address of the same kind: a user who comes
/// there by IPv4 or IPv6 must not come to two services.
///
/// # Errors
/// Those of listening; the port is in use when another program has it in either family.
pub fn listen_alone(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = listen(address)?;
    let ip: Option<IpAddr> = match address.ip() {
        IpAddr::V4(v4) if v4.is_unspecified() => Some(Ipv6Addr::UNSPECIFIED.into()),
        IpAddr::V4(v4) if v4.is_loopback() => Some(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V6(v6) if v6.is_loopback() => Some(Ipv4Addr::LOCALHOST.into()),
        _ => None,
    };
    let Some(other) = ip.map(|ip| SocketAddr::new(ip, address.port())) else { return Ok(listener) };
    let socket = socket2::Socket::new(Domain::for_address(other), Type::STREAM, Some(Protocol::TCP));
    // A machine without that family has nobody there.
    let taken = socket.and_then(|socket| {
        if other.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&SockAddr::from(other))?;
        socket.listen(1)
    });
    match taken {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        _ => Ok(listener),
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
    // Whatever it accepts inherits that, which saves four system calls for each connection.
    #[cfg(target_os = "linux")]
    super::tcp::prepare(&socket)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// The next connection, without Nagle's delay and [watched](super::watch_carrying), and its peer's [`canonical`]
/// address. To be called with what [`listen`] gave or [`expect_clients`](super::expect_clients) prepared. Errors never end it: out
/// of descriptors or memory, and on any error not known to be harmless, it pauses (10 ms to 1 s), says so in the
/// log (at most once in 10 s for the process) and goes on. Cancel safe.
pub async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let mut pause = FIRST_PAUSE;
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Fails only if the peer has gone already, which the first read will tell.
                #[cfg(not(target_os = "linux"))]
                let _ = super::tcp::prepare(&socket2::SockRef::from(&stream));
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

#[cfg(test)]
mod tests {
    use super::{accept, canonical, listen};
    use std::io;
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn a_foreign_listener_is_prepared_too() {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        super::super::expect_clients(&listener);
        let near = super::super::connect_to_speak(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = accept(&listener).await;
        for stream in [&near, &stream] {
            assert!(stream.nodelay().unwrap());
        }
        assert!(socket2::SockRef::from(&stream).keepalive().unwrap());
    }

    #[tokio::test]
    async fn any_address_takes_ipv4_and_calls_it_so() {
        let listener = listen((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let near = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let (stream, address) = accept(&listener).await;
        assert_eq!(address, near.local_addr().unwrap());
        assert!(stream.nodelay().unwrap());
        assert!(socket2::SockRef::from(&stream).keepalive().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(socket2::SockRef::from(&stream).tcp_keepalive_time().unwrap(), std::time::Duration::from_mins(1));
        if let Ok(near) = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await {
            assert_eq!(accept(&listener).await.1, near.local_addr().unwrap());
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_refused_whoever_has_it() {
        for (first, second) in [("[::]:0", "[::]"), ("[::]:0", "0.0.0.0"), ("0.0.0.0:0", "[::]")] {
            let first = listen(first.parse().unwrap()).unwrap();
            let port = first.local_addr().unwrap().port();
            let error = listen(format!("{second}:{port}").parse().unwrap()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{second}");
        }
    }

    #[tokio::test]
    async fn a_dropped_accept_loses_no_connection() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        for _ in 0..10 {
            tokio::select! {
                biased;
                _ = accept(&listener) => panic!("nobody has connected"),
                () = tokio::task::yield_now() => {}
            }
        }
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert_eq!(accept(&listener).await.1, near.local_addr().unwrap());
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let canonical = |address: &str| canonical(address.parse::<SocketAddr>().unwrap()).to_string();
        assert_eq!(canonical("[::ffff:192.0.2.1]:80"), "192.0.2.1:80");
        assert_eq!(canonical("[2001:db8::1]:80"), "[2001:db8::1]:80");
        assert_eq!(canonical("[fe80::1%3]:80"), "[fe80::1%3]:80");
        assert_eq!(canonical("192.0.2.1:80"), "192.0.2.1:80");
    }

    #[test]
    #[cfg(unix)]
    fn only_errors_of_one_connection_are_passed_over_at_once() {
        use super::concerns_one_connection;
        for code in [libc::ECONNABORTED, libc::ECONNRESET, libc::EINTR, libc::ENETDOWN, libc::EHOSTUNREACH] {
            assert!(concerns_one_connection(&io::Error::from_raw_os_error(code)), "{code}");
        }
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EPERM, libc::EINVAL] {
            assert!(!concerns_one_connection(&io::Error::from_raw_os_error(code)), "{code}");
        }
    }
}
