//! What relay does with TCP connections only: how it connects, how it notices that a peer is gone.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// As [`TcpStream::try_read`]; but a read that leaves room in the buffer also counts as one that found nothing more,
/// which saves asking again. Not for users and services: at a TCP urgent mark a read ends early, although there is
/// more, and nothing would wake its reader. No peer of a link sends one.
pub(crate) fn try_read_out(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut short = 0;
    let read = stream.try_io(Interest::READABLE, || match stream.try_read(buffer)? {
        some if (1..buffer.len()).contains(&some) => {
            short = some;
            Err(io::ErrorKind::WouldBlock.into())
        }
        read => Ok(read),
    });
    if short > 0 { Ok(short) } else { read }
}

/// As [`TcpStream::try_write`], of bytes that others follow at once: the kernel sends them together.
pub(crate) fn try_write_ahead(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    {
        stream.try_io(Interest::WRITABLE, || SockRef::from(stream).send_with_flags(bytes, libc::MSG_MORE))
    }
    #[cfg(not(target_os = "linux"))]
    {
        stream.try_write(bytes)
    }
}

/// For connections whose far side always reads (links, control connections of event, idle members): a peer
/// that is gone is noticed within 25 s, silent or not.
pub fn watch_always_reading(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    set_user_timeout(&socket, Some(Duration::from_secs(25)))?;
    keep_alive(&socket, Duration::from_secs(10), Duration::from_secs(5), 3)
}

/// For a connection whose far side always reads and whose place another wants: that the peer is gone is noticed
/// within some 2 s.
pub fn watch_closely(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    set_user_timeout(&socket, Some(Duration::from_secs(2)))?;
    keep_alive(&socket, Duration::from_secs(1), Duration::from_secs(1), 1)
}

/// For connections that carry a user's bytes: the peer may stop reading for as long as it likes. One that is
/// gone is noticed after 2 minutes of silence, or when the kernel gives up to send what is in flight. Connections
/// that were [accepted](super::accept) have it already; it takes [`watch_always_reading`] back.
pub fn watch_carrying(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    set_user_timeout(&socket, None)?;
    keep_alive_carrying(&socket)
}

fn keep_alive_carrying(socket: &socket2::Socket) -> io::Result<()> {
    keep_alive(socket, Duration::from_mins(1), Duration::from_secs(15), 4)
}

/// It also ends a live peer that merely does not read.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn set_user_timeout(socket: &socket2::Socket, timeout: Option<Duration>) -> io::Result<()> {
    socket.set_tcp_user_timeout(timeout)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[allow(clippy::unnecessary_wraps, reason = "it can fail where it does something")]
fn set_user_timeout(_: &socket2::Socket, _: Option<Duration>) -> io::Result<()> {
    Ok(())
}

fn keep_alive(socket: &socket2::Socket, idle: Duration, interval: Duration, probes: u32) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(idle);
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos", windows))]
    let keepalive = keepalive.with_interval(interval).with_retries(probes);
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos", windows)))]
    let _ = (interval, probes);
    socket.set_tcp_keepalive(&keepalive)
}

/// Prepares a socket to carry bytes: no Nagle's delay, and a peer that is gone is noticed (see
/// [`watch_carrying`]).
pub(super) fn prepare(socket: &socket2::Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    keep_alive_carrying(socket)
}

/// Connects, without Nagle's delay, and [watched](watch_carrying). Cancel safe.
///
/// # Errors
/// Those of the system's connect; and a connection to oneself is refused. It comes about where nobody listens on a
/// port of the range for outgoing connections, and our own end happens to get it.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    connected(TcpStream::connect(address).await?, address)
}

/// As [`connect`], for a connection on which we say something at once: the kernel sends no acknowledgement of its
/// own where our bytes can carry it.
///
/// # Errors
/// As of [`connect`].
pub async fn connect_to_speak(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    save_acknowledgements(&SockRef::from(&socket));
    connected(socket.connect(address).await?, address)
}

/// Prepares a listener, made by whomever, for clients: what it [accepts](super::accept) is ready to carry bytes, and saves
/// acknowledgements where bytes that follow can carry them. Not for users: one that sends a little and then a little
/// more, with Nagle's delay, would wait some 40 ms between.
pub fn expect_clients(listener: &TcpListener) {
    let socket = SockRef::from(listener);
    // A listener that refuses is one that fails to accept, which is told then.
    #[cfg(target_os = "linux")]
    let _ = prepare(&socket);
    save_acknowledgements(&socket);
}

fn save_acknowledgements(socket: &socket2::Socket) {
    // A hint: without it, there are more packets.
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_quickack(false);
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
}

fn connected(stream: TcpStream, address: SocketAddr) -> io::Result<TcpStream> {
    let own = stream.local_addr()?;
    if (own.ip(), own.port()) == (address.ip(), address.port()) {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let socket = SockRef::from(&stream);
    // A peer on this machine cannot go without the kernel's noticing.
    if address.ip().is_loopback() {
        socket.set_tcp_nodelay(true)?;
    } else {
        prepare(&socket)?;
    }
    Ok(stream)
}
