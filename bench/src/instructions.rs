//! Instructions per frame, counted by valgrind's callgrind and compared with those last committed.
//!
//! A count is the same on a busy machine and an idle one, so it shows a few percent where a time shows none. What
//! makes it repeatable: one thread, no system calls, no clock, and no payload copied, of which every processor has its
//! own way. Start-up drops out, because what counts is the difference between many rounds and few. What is left of
//! chance is the random key of hash maps.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::io;
use std::process::Command;

use relay_workloads::{WORKLOADS, Workload};

/// What this source was last seen to take, by workload.
const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.json");
/// Units in the shorter of the two runs: by then all queues and tables have their sizes.
const FEW: u64 = 1_280;
/// And in the longer.
const MANY: u64 = 12_800;
/// By how many percent a count may differ from the recorded one.
const TOLERANCE: u64 = 10;

/// What to do with the counts.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Keep the counts as those to compare with, instead of comparing
    #[arg(long)]
    record: bool,
}

/// What callgrind watches.
#[derive(Debug, clap::Args)]
pub(crate) struct Work {
    workload: String,
    units: u64,
}

/// Counts each workload.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    if cfg!(debug_assertions) {
        return Err(io::Error::other("only a release build's instructions say something: cargo run --release"));
    }
    let counts = WORKLOADS.iter().map(|workload| Ok((workload.name.to_owned(), count(workload)?)));
    let counts = counts.collect::<io::Result<BTreeMap<String, u64>>>()?;
    let recorded: BTreeMap<String, u64> = match fs::read(RECORDED) {
        Ok(recorded) => serde_json::from_slice(&recorded)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
        Err(error) => return Err(io::Error::new(error.kind(), format!("{RECORDED}: {error}"))),
    };
    let mut failed = false;
    for workload in &WORKLOADS {
        let count = counts[workload.name];
        let (too_many, verdict) = compare(count, recorded.get(workload.name).copied());
        println!("{}: {count} instructions per {}, {verdict}", workload.name, workload.unit);
        failed |= too_many;
    }
    if options.record {
        return fs::write(RECORDED, serde_json::to_string_pretty(&counts)? + "\n");
    }
    if failed {
        let limit = format!("a count is more than {TOLERANCE} % above what is recorded, or nothing is");
        return Err(io::Error::other(limit + "; where it has to be, record it with --record"));
    }
    Ok(())
}

/// Does the work that is counted.
pub(crate) fn work(work: &Work) -> io::Result<()> {
    let workload = WORKLOADS.iter().find(|workload| workload.name == work.workload);
    let workload = workload.ok_or_else(|| io::Error::other(format!("no workload is named {}", work.workload)))?;
    let mut round = workload.start();
    for _ in 0..work.units / workload.units() {
        black_box(round());
    }
    Ok(())
}

/// Instructions per unit.
fn count(workload: &Workload) -> io::Result<u64> {
    let [few, many] = [FEW, MANY].map(|units| callgrind(workload.name, units));
    Ok((many? - few?) / (MANY - FEW))
}

/// Instructions of a process that does so much of the workload.
fn callgrind(workload: &str, units: u64) -> io::Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(std::env::current_exe()?);
    let output = command.args(["work", workload, &units.to_string()]).output();
    let output = output.map_err(|error| io::Error::other(format!("valgrind did not start ({error}): install it")))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let counted = collected(&said).filter(|_| output.status.success());
    counted.ok_or_else(|| io::Error::other(format!("valgrind: {}, it said:\n{said}", output.status)))
}

/// The total in what callgrind says at its end: `==PID== Collected : TOTAL`.
fn collected(said: &str) -> Option<u64> {
    let total = said.lines().find_map(|line| line.split_once("== Collected : "))?.1;
    total.trim().parse().ok()
}

/// Whether a count is more than may be, and what to say about it.
fn compare(count: u64, recorded: Option<u64>) -> (bool, String) {
    let Some(recorded) = recorded.filter(|recorded| *recorded > 0) else {
        return (true, "of which none is recorded".into());
    };
    let change = (count as f64 / recorded as f64 - 1.0) * 100.0;
    let verdict = format!("{change:+.1} % beside {recorded}");
    if 100 * count < (100 - TOLERANCE) * recorded {
        return (false, verdict + ": record the gain with --record, lest it be lost again unseen");
    }
    (100 * count > (100 + TOLERANCE) * recorded, verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_found_among_what_callgrind_says() {
        let said =
            "==7== Callgrind\n==7== Events    : Ir\n==7== Collected : 181434\n==7== \n==7== I   refs:      181,435\n";
        assert_eq!(collected(said), Some(181_434));
        assert_eq!(collected("==7== Events    : Ir\n"), None);
        assert_eq!(collected("==7== Collected : \n"), None);
    }

    #[test]
    fn more_than_a_tenth_above_fails_and_more_than_a_tenth_below_asks() {
        let fails = |count| compare(count, Some(1000)).0;
        let asks = |count| compare(count, Some(1000)).1.contains("--record");
        assert_eq!([1000, 1100, 1101].map(fails), [false, false, true]);
        assert_eq!([0, 899, 900, 1101].map(asks), [true, true, false, false]);
        assert!(!fails(0));
        assert_eq!(compare(1050, Some(1000)).1, "+5.0 % beside 1000");
    }

    #[test]
    fn a_workload_without_a_record_fails() {
        assert!(compare(1000, None).0);
        assert!(compare(1000, Some(0)).0);
    }

    #[test]
    fn units_are_whole_rounds() {
        for workload in &WORKLOADS {
            assert!(FEW.is_multiple_of(workload.units()) && MANY.is_multiple_of(workload.units()));
        }
    }
}
