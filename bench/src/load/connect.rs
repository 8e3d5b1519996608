//! Connections that live for one byte each way.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::ping::micros;
use super::wire::Op;
use crate::metrics::Metrics;
use crate::stats;

/// How long one may take.
const SILENCE: Duration = Duration::from_secs(10);

/// At most so many: each leaves a port in TIME-WAIT, and once half of the ports towards one address (14 000 by
/// default) are gone the kernel searches long for the next, which would be all that is measured.
const LIMIT: usize = 12_000;

/// Keeps `at_once` connections going: each connects, sends a byte, waits for its answer, closes, and makes
/// way for the next.
///
/// Gives `per_s`, and from the connect to the answer `median_us` and `p99_us`.
pub(crate) fn run(address: SocketAddr, at_once: usize, measure: Duration) -> io::Result<Metrics> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(at_once * 2);
    let mut attempts = Vec::new();
    for index in 0..at_once {
        attempts.push(Attempt::new(address, &poll, Token(index))?);
    }
    let start = Instant::now();
    let mut times = Vec::new();
    while times.is_empty() || start.elapsed() < measure && times.len() < LIMIT {
        poll.poll(&mut events, Some(SILENCE))?;
        if events.is_empty() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        for event in &events {
            let attempt = &mut attempts[event.token().0];
            if event.is_writable() && !attempt.asked {
                attempt.ask()?;
            }
            if event.is_readable() && attempt.answered()? {
                times.push(micros(attempt.start.elapsed()));
                *attempt = Attempt::new(address, &poll, event.token())?;
            }
        }
    }
    let per_s = times.len() as f64 / start.elapsed().as_secs_f64();
    let median = stats::percentile(&mut times, 50.0).ok_or_else(|| io::Error::other("none was answered in time"))?;
    let p99 = stats::percentile(&mut times, 99.0).unwrap_or(median);
    Ok(Metrics::of([("per_s", per_s), ("median_us", median), ("p99_us", p99)]))
}

/// A connection under way. Dropping it closes it.
pub(crate) struct Attempt {
    pub(crate) stream: TcpStream,
    pub(crate) start: Instant,
    pub(crate) asked: bool,
}

impl Attempt {
    pub(crate) fn new(address: SocketAddr, poll: &Poll, token: Token) -> io::Result<Self> {
        let start = Instant::now();
        let mut stream = TcpStream::connect(address)?;
        poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { stream, start, asked: false })
    }

    /// Sends the byte, once connected.
    pub(crate) fn ask(&mut self) -> io::Result<()> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.write(&[Op::Echo.byte()]) {
            Ok(_) => self.asked = true,
            Err(error) if is_early(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether the answer is there.
    pub(crate) fn answered(&mut self) -> io::Result<bool> {
        match self.stream.read(&mut [0]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(true),
            Err(error) if is_early(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}
