//! Bytes one way, as fast as they go.
//!
//! The receiver measures: from the end of the warm-up to the end of the window, by its own clock.
//! The sender sends for the whole window, then ends; the receiver takes what is still on the way.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::wire::{self, CHUNK, Op, Report, Way, Window};
use crate::metrics::Metrics;

/// How long a receiver waits for the end after its window. Bytes still on a long path take less.
const END: Duration = Duration::from_secs(2);

/// How long a receiver bears silence.
const SILENCE: Duration = Duration::from_secs(20);

/// Sends for the whole window, then ends this direction.
pub(crate) fn send(mut stream: &TcpStream, window: Window) -> io::Result<()> {
    let chunk = vec![b'x'; CHUNK];
    let start = Instant::now();
    // An unread socket would keep the sender from noticing the time.
    stream.set_write_timeout(Some(Duration::from_millis(100)))?;
    while start.elapsed() < window.whole() {
        match stream.write(&chunk) {
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error),
        }
    }
    stream.set_write_timeout(None)?;
    stream.shutdown(Shutdown::Write)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Receives until the end, or for a while after the window.
///
/// It reads as any user would. Asking the kernel to discard the bytes (`MSG_TRUNC`) would leave more of the
/// machine to what is measured, and most to the fast, but no user does that.
pub(crate) fn receive(mut stream: &TcpStream, window: Window) -> io::Result<Report> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut chunk = vec![0; CHUNK];
    let start = Instant::now();
    let (mut report, mut began, mut done) = (Report::default(), None, false);
    loop {
        let got = match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(got) => got as u64,
            // A window that is over can be silent: the path is slow and its sender done.
            Err(error) if done && is_timeout(&error) => break,
            Err(error) => return Err(error),
        };
        report.total += got;
        let now = Instant::now();
        if done {
            if now - start > window.whole() + END {
                break;
            }
        } else if let Some(began) = began {
            report.counted += got;
            report.nanos = nanos(now - began);
            done = now - start >= window.whole();
            if done {
                stream.set_read_timeout(Some(END))?;
            }
        } else if now - start >= window.warm() {
            began = Some(now);
        }
    }
    Ok(report)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Users that move bulk at the same time, each on a connection of its own.
///
/// Gives `gbit_s`, the sum of what their receivers saw, and `bytes`, all that moved.
pub(crate) fn users(address: SocketAddr, way: Way, connections: usize, window: Window) -> io::Result<Metrics> {
    let users: Vec<_> = (0..connections).map(|_| thread::spawn(move || user(address, way, window))).collect();
    let (mut gbit_s, mut bytes) = (0.0, 0.0);
    for user in users {
        let report = user.join().map_err(|_| io::Error::other("a user panicked"))??;
        gbit_s += report.counted as f64 * 8.0 / report.nanos.max(1) as f64;
        bytes += report.total as f64;
    }
    Ok(Metrics::of([("gbit_s", gbit_s), ("bytes", bytes)]))
}

fn user(address: SocketAddr, way: Way, window: Window) -> io::Result<Report> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    let report = match way {
        Way::Up => {
            wire::greet(&mut stream, Op::Upload)?;
            window.write(&mut stream)?;
            send(&stream, window)?;
            Report::read(&mut stream)?
        }
        Way::Down => {
            wire::greet(&mut stream, Op::Download)?;
            window.write(&mut stream)?;
            receive(&stream, window)?
        }
    };
    // What a slow path still holds is of no use to anyone: away with it.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(report)
}

/// A user that asks for a long download and reads nothing of it.
pub(crate) fn stall(address: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SILENCE))?;
    wire::greet(&mut stream, Op::Download)?;
    Window { warm_ms: 0, measure_ms: 3_600_000 }.write(&mut stream)?;
    // It has begun.
    stream.read_exact(&mut [0])?;
    Ok(stream)
}

/// The service's side of an upload.
pub(crate) fn serve_upload(mut stream: TcpStream) -> io::Result<()> {
    let window = Window::read(&mut stream)?;
    let report = receive(&stream, window)?;
    report.write(&mut stream)?;
    // To leave with bytes unread would be a reset, which could overtake the report: the user leaves first.
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

/// The service's side of a download.
pub(crate) fn serve_download(mut stream: TcpStream) -> io::Result<()> {
    let window = Window::read(&mut stream)?;
    send(&stream, window)?;
    // The user's end says that all has arrived.
    stream.set_read_timeout(Some(SILENCE))?;
    stream.read(&mut [0]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_window_is_counted_and_the_rest_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let window = Window { warm_ms: 100, measure_ms: 400 };
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let receiver = listener.accept().unwrap().0;
        let sending = thread::spawn(move || send(&sender, window));
        let report = receive(&receiver, window).unwrap();
        sending.join().unwrap().unwrap();
        assert!(report.counted > 0 && report.counted < report.total, "{report:?}");
        assert!(report.nanos > 0, "{report:?}");
    }
}
