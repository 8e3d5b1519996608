//! The commands. Only `run` and `link` are for people; the others are the processes that `run` starts.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;

use crate::{link, load, place, run};

/// Measures the data path of relay against others, side by side
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
enum Command {
    /// Measure everything, or what the options say
    Run(run::Options),
    /// Compare this project's link with the `yamux` crate, both in this process
    Link(link::Options),
    /// Keep a network namespace
    #[command(hide = true)]
    Hold { congestion: String },
    /// Be the service
    #[command(hide = true)]
    Service { address: SocketAddr },
    /// Be users of the service
    #[command(hide = true)]
    User(load::UserArgs),
}

pub(crate) fn run() -> ExitCode {
    let done: io::Result<()> = match Command::parse() {
        Command::Run(options) => run::run(&options),
        Command::Link(options) => link::run(&options),
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
