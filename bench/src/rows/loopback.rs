//! What a program costs on one machine.

use std::io;
use std::thread;
use std::time::Duration;

use super::session::Session;
use crate::metrics::Metrics;
use crate::stats::Summary;

/// How long and how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) warm_ms: u32,
    pub(crate) measure_ms: u32,
    pub(crate) idle_users: u32,
    /// A path of 50 ms needs seconds until a sender knows it, more where packets get lost.
    pub(crate) long_warm_ms: u32,
    pub(crate) long_measure_ms: u32,
}

impl Effort {
    pub(crate) const FULL: Self =
        Self { warm_ms: 500, measure_ms: 2000, idle_users: 5000, long_warm_ms: 4000, long_measure_ms: 6000 };
    /// Shows that all works; its figures say little.
    pub(crate) const QUICK: Self =
        Self { warm_ms: 200, measure_ms: 500, idle_users: 1000, long_warm_ms: 1500, long_measure_ms: 2000 };
}

/// `up_gbit_s`, `down_gbit_s`, and where processes are measured `up_cpu_s_gb`, `down_cpu_s_gb`.
pub(crate) fn streams(session: &Session<'_>, connections: usize, effort: Effort) -> io::Result<Metrics> {
    let mut metrics = Metrics::default();
    for way in ["up", "down"] {
        let before = session.standing.cpu_seconds()?;
        let bulk = session.users(&[
            "bulk",
            "--way",
            way,
            "--connections",
            &connections.to_string(),
            "--warm-ms",
            &effort.warm_ms.to_string(),
            "--measure-ms",
            &effort.measure_ms.to_string(),
        ])?;
        let seconds = session.standing.cpu_seconds()? - before;
        metrics.set(&format!("{way}_gbit_s"), bulk.get("gbit_s").unwrap_or_default());
        if let Some(bytes) = bulk.get("bytes")
            && !session.standing.processes.is_empty()
        {
            metrics.set(&format!("{way}_cpu_s_gb"), seconds / (bytes / 1e9));
        }
    }
    Ok(metrics)
}

/// `median_us`, `p99_us` and `per_s`: each the median of five runs, since for as long as a connection lives its
/// threads tend to stay on the cores where they began, and that decides how long a wake-up takes.
pub(crate) fn pings(session: &Session<'_>, users: usize, effort: Effort) -> io::Result<Metrics> {
    let runs: io::Result<Vec<Metrics>> = (0..5).map(|_| ping(session, users, effort.measure_ms / 4)).collect();
    let runs = runs?;
    let mut metrics = Metrics::default();
    for name in ["median_us", "p99_us", "per_s"] {
        if let Some(all) = Summary::of(runs.iter().filter_map(|run| run.get(name))) {
            metrics.set(name, all.median);
        }
    }
    Ok(metrics)
}

/// `median_us`, `p99_us` and `per_s` of one run.
pub(crate) fn ping(session: &Session<'_>, users: usize, measure_ms: u32) -> io::Result<Metrics> {
    session.users(&["ping", "--users", &users.to_string(), "--measure-ms", &measure_ms.to_string()])
}

/// `per_s`, `median_us` and `p99_us`.
pub(crate) fn connect(session: &Session<'_>, effort: Effort) -> io::Result<Metrics> {
    session.users(&["connect", "--measure-ms", &effort.measure_ms.to_string()])
}

/// `kib_per_user`; `before_kib` is what the processes take without users.
pub(crate) fn idle(session: &Session<'_>, effort: Effort) -> io::Result<Metrics> {
    let before = session.standing.resident_kib()?;
    let mut held = session.start_users(&["hold", "--users", &effort.idle_users.to_string()])?;
    held.metrics()?;
    // What they needed only to come can go now.
    thread::sleep(Duration::from_secs(1));
    let after = session.standing.resident_kib()?;
    Ok(Metrics::of([("kib_per_user", (after - before) / f64::from(effort.idle_users)), ("before_kib", before)]))
}

/// `alone_p99_us` and `beside_p99_us`, each the median of three short runs that take turns, and their `ratio`.
pub(crate) fn stalled(session: &Session<'_>, effort: Effort) -> io::Result<Metrics> {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        alone.extend(ping(session, 1, effort.measure_ms / 2)?.get("p99_us"));
        let mut reader = session.start_users(&["stall"])?;
        reader.metrics()?;
        // Until every buffer on the way is full.
        thread::sleep(Duration::from_millis(300));
        beside.extend(ping(session, 1, effort.measure_ms / 2)?.get("p99_us"));
    }
    match (Summary::of(alone), Summary::of(beside)) {
        (Some(alone), Some(beside)) => Ok(Metrics::of([
            ("alone_p99_us", alone.median),
            ("beside_p99_us", beside.median),
            ("ratio", beside.median / alone.median),
        ])),
        _ => Err(io::Error::other("no answers")),
    }
}
