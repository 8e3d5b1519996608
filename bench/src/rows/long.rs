//! What a program makes of a long path: user and relay at one end, forwarder and service at the other.

use std::io;
use std::thread;
use std::time::Duration;

use super::loopback::{Effort, ping};
use super::session::Session;
use crate::metrics::Metrics;
use crate::path::emulator;
use crate::path::queue::Shape;
use crate::place::Place;
use crate::process::Running;

/// Two places and what joins them.
#[derive(Debug)]
pub(crate) struct LongPath {
    pub(crate) near: Place,
    pub(crate) far: Place,
    _emulator: Running,
}

impl LongPath {
    /// # Errors
    /// No namespaces or no TUN devices here.
    pub(crate) fn new(congestion: &str, shape: Shape, logs: &std::path::Path) -> io::Result<Self> {
        let (near, far) = (Place::namespace(congestion)?, Place::namespace(congestion)?);
        let mut command = Place::here()?.own("emulate")?;
        for (option, value) in [
            ("--near", near.pid().into()),
            ("--far", far.pid().into()),
            ("--delay-ms", shape.delay_ms),
            ("--mbit-s", shape.mbit_s),
            ("--queue-ms", shape.queue_ms),
            ("--loss", shape.loss.into()),
        ] {
            command.args([option, &value.to_string()]);
        }
        let mut emulator = Running::start(command, "emulator", logs)?;
        emulator.line()?;
        Ok(Self { near, far, _emulator: emulator })
    }
}

/// The ends' addresses: the relay's, the service's.
pub(crate) const ENDS: [[u8; 4]; 2] = [emulator::NEAR, emulator::FAR];

const ROUND_TRIP_US: f64 = Shape::with_loss(0).round_trip().as_millis() as f64 * 1e3;

/// Mbit/s of connections that move bulk, once they have warmed up.
fn bulk(session: &Session<'_>, way: &str, connections: usize, warm_ms: u32, measure_ms: u32) -> io::Result<Running> {
    session.start_users(&[
        "bulk",
        "--way",
        way,
        "--connections",
        &connections.to_string(),
        "--warm-ms",
        &warm_ms.to_string(),
        "--measure-ms",
        &measure_ms.to_string(),
    ])
}

fn mbit_s(bulk: &mut Running) -> io::Result<f64> {
    Ok(bulk.metrics()?.get("gbit_s").unwrap_or_default() * 1e3)
}

/// `up_mbit_s` and `down_mbit_s`.
pub(crate) fn streams(session: &Session<'_>, connections: usize, effort: Effort) -> io::Result<Metrics> {
    let mut metrics = Metrics::default();
    for way in ["up", "down"] {
        let mut bulk = bulk(session, way, connections, effort.long_warm_ms, effort.long_measure_ms)?;
        metrics.set(&format!("{way}_mbit_s"), mbit_s(&mut bulk)?);
    }
    Ok(metrics)
}

/// The median from the connect to the answer, in round trips: `one_rtt` one at a time, `many_rtt` 32 at once.
pub(crate) fn connect(session: &Session<'_>, effort: Effort) -> io::Result<Metrics> {
    let mut metrics = Metrics::default();
    for (name, at_once) in [("one_rtt", "1"), ("many_rtt", "32")] {
        let measure = (effort.long_measure_ms / 2).to_string();
        let users = session.users(&["connect", "--at-once", at_once, "--measure-ms", &measure])?;
        metrics.set(name, users.get("median_us").unwrap_or_default() / ROUND_TRIP_US);
    }
    Ok(metrics)
}

/// Each way: the median of a ping-pong in round trips while another user saturates the path (`_rtt`), that user's
/// rate meanwhile (`_mbit_s`), and as a part of its rate alone (`_held`).
pub(crate) fn beside(session: &Session<'_>, effort: Effort) -> io::Result<Metrics> {
    let (warm, measure) = (effort.long_warm_ms, effort.long_measure_ms);
    let mut metrics = Metrics::default();
    for way in ["up", "down"] {
        let alone = mbit_s(&mut bulk(session, way, 1, warm, measure)?)?;
        let mut saturating = bulk(session, way, 1, warm, measure + 500)?;
        thread::sleep(Duration::from_millis(warm.into()));
        let times = ping(session, 1, measure)?;
        let rate = mbit_s(&mut saturating)?;
        metrics.set(&format!("{way}_rtt"), times.get("median_us").unwrap_or_default() / ROUND_TRIP_US);
        metrics.set(&format!("{way}_mbit_s"), rate);
        metrics.set(&format!("{way}_held"), rate / alone);
    }
    Ok(metrics)
}
