//! Messages of 64 bytes, sent back as they are: how long one takes, and how many there are a second.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use super::wire::{self, MESSAGE, Op};
use crate::metrics::Metrics;
use crate::stats;

/// Not measured: caches fill, cores wake.
const WARM: Duration = Duration::from_millis(200);

/// How long an answer may take: queues of a path that loses much hold seconds.
const SILENCE: Duration = Duration::from_secs(20);

/// One user, who waits for each answer, in a thread that blocks.
///
/// Gives `median_us`, `p99_us` and `per_s`.
pub(crate) fn one(address: SocketAddr, measure: Duration) -> io::Result<Metrics> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    wire::greet(&mut stream, Op::Ping)?;
    let mut message = [b'm'; MESSAGE];
    let start = Instant::now();
    let mut times = Vec::new();
    let mut last = start;
    while last - start < WARM + measure || times.is_empty() {
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        let now = Instant::now();
        if last - start >= WARM {
            times.push(micros(now - last));
        }
        last = now;
    }
    summary(times, last - start)
}

/// Many users at once, in one event loop.
///
/// Gives the same as [`one`], over all of them.
pub(crate) fn many(address: SocketAddr, users: usize, measure: Duration) -> io::Result<Metrics> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut players = Vec::new();
    for index in 0..users {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        wire::greet(&mut stream, Op::Echo)?;
        stream.set_nonblocking(true)?;
        let mut stream = mio::net::TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        players.push(Player { stream, missing: MESSAGE, sent: Instant::now() });
    }
    let start = Instant::now();
    for player in &mut players {
        player.serve()?;
    }
    let mut times = Vec::new();
    while start.elapsed() < WARM + measure || times.is_empty() {
        poll.poll(&mut events, Some(SILENCE))?;
        if events.is_empty() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        for event in &events {
            let player = &mut players[event.token().0];
            if let Some(time) = player.receive()?
                && start.elapsed() >= WARM
            {
                times.push(micros(time));
            }
        }
    }
    summary(times, start.elapsed())
}

struct Player {
    stream: mio::net::TcpStream,
    /// Bytes of the answer that have not come yet.
    missing: usize,
    sent: Instant,
}

impl Player {
    fn serve(&mut self) -> io::Result<()> {
        self.sent = Instant::now();
        self.missing = MESSAGE;
        // One message in flight always has room.
        self.stream.write_all(&[b'm'; MESSAGE])
    }

    /// Reads, and once the answer is whole says how long it took and sends the next message.
    fn receive(&mut self) -> io::Result<Option<Duration>> {
        let mut answer = [0; MESSAGE];
        match self.stream.read(&mut answer[..self.missing]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) if got < self.missing => {
                self.missing -= got;
                Ok(None)
            }
            Ok(_) => {
                let time = self.sent.elapsed();
                self.serve()?;
                Ok(Some(time))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The service's side of [`one`].
pub(crate) fn serve(mut stream: &TcpStream) -> io::Result<()> {
    let mut message = [0; MESSAGE];
    loop {
        match stream.read(&mut message)? {
            0 => return Ok(()),
            got => stream.write_all(&message[..got])?,
        }
    }
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn summary(mut times: Vec<f64>, took: Duration) -> io::Result<Metrics> {
    let per_s = times.len() as f64 / took.saturating_sub(WARM).as_secs_f64();
    match (stats::percentile(&mut times, 50.0), stats::percentile(&mut times, 99.0)) {
        (Some(median), Some(p99)) => Ok(Metrics::of([("median_us", median), ("p99_us", p99), ("per_s", per_s)])),
        _ => Err(io::Error::other("no answer came in time")),
    }
}
