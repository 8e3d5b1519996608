//! The commands. Those that are hidden are the processes that the others start.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser};

use crate::path::emulator;
use crate::results::Results;
use crate::{instructions, link, load, place, report, run};

/// Measures the data path of relay against others, side by side
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
enum Command {
    /// Measure everything, or what the options say
    Run(run::Options),
    /// Write the page and the charts of a results file again
    Report(ReportArgs),
    /// Compare this project's link with the `yamux` crate, both in this process
    Link(link::Options),
    /// Count the session's instructions per frame and compare them with those recorded
    Instructions(instructions::Options),
    /// Do what is counted
    #[command(hide = true)]
    Work(instructions::Work),
    /// Keep a network namespace
    #[command(hide = true)]
    Hold { congestion: String },
    /// Be the path between two network namespaces
    #[command(hide = true)]
    Emulate(emulator::Options),
    /// Be the service
    #[command(hide = true)]
    Service { address: SocketAddr },
    /// Be users of the service
    #[command(hide = true)]
    User(load::UserArgs),
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// What `run` wrote
    results: PathBuf,
    /// Put the page into this document, too, between its markers
    #[arg(long, value_name = "FILE")]
    publish: Option<PathBuf>,
    /// Where that document finds the charts
    #[arg(long, value_name = "DIR", default_value = "../bench/results")]
    charts: String,
}

pub(crate) fn run() -> ExitCode {
    // Each user is a file descriptor, and every process that is started inherits the limit. Where it cannot be
    // raised, the rows with many users say what failed.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let done: io::Result<()> = match Command::parse() {
        Command::Run(options) => run::run(&options),
        Command::Report(args) => report(&args),
        Command::Emulate(options) => emulator::run(&options),
        Command::Link(options) => link::run(&options),
        Command::Instructions(options) => instructions::run(&options),
        Command::Work(work) => instructions::work(&work),
        Command::Hold { congestion } => place::hold(&congestion),
        Command::Service { address } => load::service::run(address),
        Command::User(args) => load::user(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn report(args: &ReportArgs) -> io::Result<()> {
    let results = Results::read(&args.results)?;
    let folder = args.results.parent().unwrap_or(Path::new("."));
    report::write(&results, folder)?;
    args.publish.as_ref().map_or(Ok(()), |document| report::publish(&results, &args.charts, document))
}
