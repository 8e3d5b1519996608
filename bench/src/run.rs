//! The whole comparison: settings, rounds, programs in turn.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::metrics::Metrics;
use crate::place::{Allowed, Place};
use crate::programs::{Program, Stage};
use crate::results::{Results, Sample};
use crate::rows::Row;
use crate::rows::loopback::{self, Effort};
use crate::rows::session::Session;
use crate::tools::Tools;

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often each program is measured in each row
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Short measurements, one round: shows that all works, says little about speed
    #[arg(long)]
    quick: bool,
    /// Only this row; can be given several times
    #[arg(long, value_name = "ROW")]
    only: Vec<Row>,
    /// Only these programs, with commas between
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    programs: Vec<Program>,
    /// Only this congestion control, instead of cubic and then bbr
    #[arg(long, value_name = "NAME")]
    congestion: Vec<String>,
    /// The program to measure, instead of a release build of this tree
    #[arg(long, value_name = "FILE")]
    relay: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let programs = if options.programs.is_empty() { Program::ALL.to_vec() } else { options.programs.clone() };
    let rows = if options.only.is_empty() { Row::value_variants().to_vec() } else { options.only.clone() };
    let tools = Tools::prepare(&programs, options.relay.clone())?;
    let mut runner = Runner {
        effort: if options.quick { Effort::QUICK } else { Effort::FULL },
        results: Results {
            rounds: if options.quick { 1 } else { options.rounds },
            quick: options.quick,
            ..Results::default()
        },
        programs: Vec::new(),
        tools,
    };
    for program in programs {
        match runner.tools.missing(program) {
            Some(reason) => {
                println!("{} is missing: {reason}", program.title());
                runner.results.missing.insert(program.name().to_owned(), reason);
            }
            None => runner.programs.push(program),
        }
    }
    let _allowed = Allowed::with(&["cubic", "bbr"]);
    let wanted =
        if options.congestion.is_empty() { vec!["cubic".into(), "bbr".into()] } else { options.congestion.clone() };
    for congestion in &wanted {
        match Place::namespace(congestion) {
            Ok(place) => runner.on_loopback(&place, &rows),
            Err(error) => {
                let here = Place::here()?;
                runner.note(format!("No namespace with {congestion} ({error}): in place, with {}", here.congestion));
                runner.on_loopback(&here, &rows);
                break;
            }
        }
    }
    Ok(())
}

struct Runner {
    effort: Effort,
    results: Results,
    programs: Vec<Program>,
    tools: Tools,
}

impl Runner {
    fn note(&mut self, note: String) {
        println!("{note}");
        self.results.notes.push(note);
    }

    fn on_loopback(&mut self, place: &Place, rows: &[Row]) {
        println!("\n# {}{}", place.congestion, if place.is_namespace() { ", a namespace of its own" } else { "" });
        for round in 0..self.results.rounds {
            for &row in rows {
                for index in 0..self.programs.len() {
                    // Nobody is always first.
                    let program = self.programs[(index + round) % self.programs.len()];
                    let measured = self.measure(place, row, program);
                    self.keep(&place.congestion, row, program, round, measured);
                }
            }
        }
    }

    fn measure(&self, place: &Place, row: Row, program: Program) -> io::Result<Metrics> {
        let folder = self.tools.work.join(program.name());
        // What the last one left.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let stage = Stage {
            tools: &self.tools,
            near: place,
            far: place,
            near_address: loopback,
            far_address: loopback,
            service_port: place.port()?,
            folder,
        };
        let session = Session::start(program, &stage)?;
        match row {
            Row::Stream => loopback::streams(&session, 1, self.effort),
            Row::Streams8 => loopback::streams(&session, 8, self.effort),
            Row::Ping => loopback::ping(&session, 1, self.effort.measure_ms),
            Row::Ping64 => loopback::ping(&session, 64, self.effort.measure_ms),
            Row::Connect => loopback::connect(&session, self.effort),
            Row::Idle => loopback::idle(&session, self.effort),
            Row::Stalled => loopback::stalled(&session, self.effort),
        }
    }

    fn keep(&mut self, setting: &str, row: Row, program: Program, round: usize, measured: io::Result<Metrics>) {
        match measured {
            Ok(metrics) => {
                let figures: Vec<_> = metrics.iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
                println!("{:10} {:10} {}", row.name(), program.name(), figures.join("  "));
                let (setting, program) = (setting.to_owned(), program.name().to_owned());
                self.results.samples.push(Sample { setting, row, program, round, metrics });
            }
            Err(error) => self.note(format!("{} of {} under {setting}: {error}", row.name(), program.name())),
        }
    }
}
