//! How much there can be of it, and how what it costs grows.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use super::loopback::ping;
use super::session::{Session, service, users};
use crate::metrics::Metrics;
use crate::process::Running;
use crate::programs::relay::{self, Transport};
use crate::programs::{Program, Stage, loopback};

/// The largest step; the others are halves of the one after.
pub(crate) const USERS: u32 = 18_000;
/// See [`USERS`].
pub(crate) const FORWARDERS: u32 = 1_000;

/// 1, 2, 4, … times, up to the largest.
pub(crate) fn steps(largest: u32, quick: bool) -> Vec<u32> {
    // A quick run shows the smallest three.
    let doublings = if quick { 2..5 } else { 0..5 };
    doublings.rev().map(|halvings| largest >> halvings).collect()
}

/// How long the ping-pong in the middle of it runs.
const PING_MS: u32 = 2000;

/// So many users of one multiplex forwarder: `seconds` until each has got its byte, `relay_kib` and
/// `forwarder_kib` with all of them, `p99_us` and `median_us` of another user's ping-pong meanwhile.
pub(crate) fn many_users(stage: &Stage<'_>, count: u32) -> io::Result<Metrics> {
    let session = Session::start(Program::Multiplex, stage)?;
    let mut held = session.start_users(&["hold", "--users", &count.to_string()])?;
    let came = held.metrics()?;
    let mut metrics = ping(&session, 1, PING_MS)?;
    metrics.set("count", count.into());
    metrics.set("seconds", came.get("seconds").unwrap_or_default());
    for (name, process) in ["relay_kib", "forwarder_kib"].iter().zip(&session.standing.processes) {
        metrics.set(name, process.resident_kib()?);
    }
    Ok(metrics)
}

/// So many forwarders of one relay, each with a tunnel and a user: the same figures, `seconds` until all tunnels
/// stand, `forwarder_kib` of all of them.
pub(crate) fn many_forwarders(stage: &Stage<'_>, count: u32) -> io::Result<Metrics> {
    let _service = service(stage)?;
    let span = u16::try_from(count).map_err(io::Error::other)?;
    let control = stage.near.ports(span + 1)?;
    let relay = relay::server(stage, Transport::Plain, control, control + 1, control + span)?;
    stage.near.wait_for_listener(control)?;
    let address = relay::address(stage, control);
    let start = Instant::now();
    let forwarders: io::Result<Vec<Running>> =
        (0..count).map(|index| relay::forwarder(stage, "multiplex", &address, &format!("forwarder-{index}"))).collect();
    let mut forwarders = forwarders?;
    let public: io::Result<Vec<SocketAddr>> =
        forwarders.iter_mut().map(|forwarder| relay::established(forwarder).map(loopback)).collect();
    let (public, seconds) = (public?, start.elapsed().as_secs_f64());
    let mut held = users(stage, &public, &["hold", "--users", &count.to_string()])?;
    held.metrics()?;
    let middle = public[public.len() / 2];
    let mut metrics = users(stage, &[middle], &["ping", "--measure-ms", &PING_MS.to_string()])?.metrics()?;
    metrics.set("count", count.into());
    metrics.set("seconds", seconds);
    metrics.set("relay_kib", relay.resident_kib()?);
    metrics.set("forwarder_kib", forwarders.iter().map(Running::resident_kib).sum::<io::Result<f64>>()?);
    Ok(metrics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_double_up_to_the_largest() {
        assert_eq!(steps(1000, false), [62, 125, 250, 500, 1000]);
        assert_eq!(steps(18_000, true), [1125, 2250, 4500]);
    }
}
