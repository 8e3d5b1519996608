//! Users that stay: what an idle one costs, and how long it takes until all of them are there.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Poll, Token};

use super::connect::Attempt;
use super::ping::micros;
use crate::metrics::Metrics;
use crate::stats;

/// How long one may take to get its byte.
const SILENCE: Duration = Duration::from_secs(20);

/// Connects `users`, `at_once` at a time, to the addresses in turn; each sends a byte and gets one.
///
/// Gives their connections, and `seconds` until all had their byte, `median_us` and `p99_us` of one.
pub(crate) fn connect(addresses: &[SocketAddr], users: usize, at_once: usize) -> io::Result<(Vec<TcpStream>, Metrics)> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut attempts: Vec<Option<Attempt>> = Vec::with_capacity(users);
    let begin = |attempts: &mut Vec<Option<Attempt>>, poll: &Poll| {
        let index = attempts.len();
        if index < users {
            attempts.push(Some(Attempt::new(addresses[index % addresses.len()], poll, Token(index))?));
        }
        io::Result::Ok(())
    };
    let start = Instant::now();
    for _ in 0..at_once {
        begin(&mut attempts, &poll)?;
    }
    let mut held = Vec::with_capacity(users);
    let mut times = Vec::with_capacity(users);
    while held.len() < users {
        poll.poll(&mut events, Some(SILENCE))?;
        if events.is_empty() {
            return Err(io::Error::other(format!("{} of {users} users got their byte", held.len())));
        }
        for event in &events {
            let slot = &mut attempts[event.token().0];
            let Some(attempt) = slot else { continue };
            if event.is_writable() && !attempt.asked {
                attempt.ask()?;
            }
            let answered = event.is_readable()
                && attempt.answered().map_err(|error| {
                    io::Error::new(error.kind(), format!("after {} of {users} users: {error}", held.len()))
                })?;
            if answered && let Some(attempt) = slot.take() {
                times.push(micros(attempt.start.elapsed()));
                held.push(attempt.stream);
                begin(&mut attempts, &poll)?;
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let median = stats::percentile(&mut times, 50.0).unwrap_or_default();
    let p99 = stats::percentile(&mut times, 99.0).unwrap_or_default();
    Ok((held, Metrics::of([("seconds", seconds), ("median_us", median), ("p99_us", p99)])))
}
