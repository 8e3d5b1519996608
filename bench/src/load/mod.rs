//! The load generator: a service, and users of it, each in a process of its own.
//!
//! What moves bulk or answers one user blocks in a thread, which costs the fewest system calls; what
//! serves many users at once is one event loop. So the generator takes as little of the machine from
//! the programs it measures as it can.

pub(crate) mod bulk;
pub(crate) mod connect;
pub(crate) mod hold;
pub(crate) mod ping;
pub(crate) mod service;
pub(crate) mod wire;

use std::io;
use std::net::{AddrParseError, SocketAddr, TcpStream};
use std::str::FromStr;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use crate::metrics::Metrics;
use wire::{Op, Way};

/// What a process of users does, and where.
#[derive(Debug, Args)]
pub(crate) struct UserArgs {
    /// Where the users connect; several addresses, with commas between, are taken in turn
    addresses: Addresses,
    #[command(subcommand)]
    task: Task,
}

/// At least one.
#[derive(Clone, Debug)]
struct Addresses(Vec<SocketAddr>);

impl FromStr for Addresses {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Connect again and again until one byte has passed each way
    Probe {
        #[arg(long, default_value_t = 15_000)]
        patience_ms: u64,
    },
    /// Move bytes one way for a while
    Bulk {
        #[arg(long)]
        way: Way,
        #[arg(long, default_value_t = 1)]
        connections: usize,
        #[arg(long)]
        warm_ms: u32,
        #[arg(long)]
        measure_ms: u32,
    },
    /// Exchange messages of 64 bytes
    Ping {
        #[arg(long, default_value_t = 1)]
        users: usize,
        #[arg(long)]
        measure_ms: u64,
    },
    /// Connect, one byte each way, close
    Connect {
        #[arg(long, default_value_t = 32)]
        at_once: usize,
        #[arg(long)]
        measure_ms: u64,
    },
    /// Connect many users, one byte each way, and keep them until standard input ends
    Hold {
        #[arg(long)]
        users: usize,
        #[arg(long, default_value_t = 128)]
        at_once: usize,
    },
    /// Ask for a download, read nothing of it, and keep it until standard input ends
    Stall,
}

/// Does it and prints what was measured.
///
/// # Errors
/// A connection that fails, or is silent for too long.
pub(crate) fn user(args: &UserArgs) -> io::Result<()> {
    let address = args.addresses.0[0];
    match args.task {
        Task::Probe { patience_ms } => probe(address, Duration::from_millis(patience_ms))?.print(),
        Task::Bulk { way, connections, warm_ms, measure_ms } => {
            bulk::users(address, way, connections, wire::Window { warm_ms, measure_ms })?.print();
        }
        Task::Ping { users: 1, measure_ms } => ping::one(address, Duration::from_millis(measure_ms))?.print(),
        Task::Ping { users, measure_ms } => ping::many(address, users, Duration::from_millis(measure_ms))?.print(),
        Task::Connect { at_once, measure_ms } => {
            connect::run(address, at_once, Duration::from_millis(measure_ms))?.print();
        }
        Task::Hold { users, at_once } => {
            let (held, metrics) = hold::connect(&args.addresses.0, users, at_once)?;
            metrics.print();
            wait_for_end_of_input();
            drop(held);
        }
        Task::Stall => {
            let held = bulk::stall(address)?;
            Metrics::default().print();
            wait_for_end_of_input();
            drop(held);
        }
    }
    Ok(())
}

/// Returns when nobody holds the other end of standard input any more, which is how a runner that is
/// gone takes its children with it.
pub(crate) fn wait_for_end_of_input() {
    // An error is an end, too.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
}

fn probe(address: SocketAddr, patience: Duration) -> io::Result<Metrics> {
    let start = Instant::now();
    loop {
        let attempt = TcpStream::connect(address).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            wire::greet(&mut stream, Op::Echo)
        });
        match attempt {
            Ok(()) => return Ok(Metrics::of([("seconds", start.elapsed().as_secs_f64())])),
            Err(error) if start.elapsed() > patience => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
