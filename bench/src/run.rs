//! The whole comparison: grounds, rounds, programs in turn.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::machine;
use crate::metrics::Metrics;
use crate::path::queue::Shape;
use crate::place::{Allowed, Place};
use crate::programs::{Program, Stage};
use crate::report;
use crate::results::{Results, Sample};
use crate::rows::long::{self, LongPath};
use crate::rows::loopback::{self, Effort};
use crate::rows::session::Session;
use crate::rows::{Ground, Row, scale};
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
    /// On loopback only this congestion control, instead of cubic and then bbr
    #[arg(long, value_name = "NAME")]
    congestion: Vec<String>,
    /// The program to measure, instead of a release build of this tree
    #[arg(long, value_name = "FILE")]
    relay: Option<PathBuf>,
    /// Where results go, instead of bench/results, or of the target folder for a run of a part
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Options {
    /// All rows and programs at full length: what may be kept.
    fn is_whole(&self) -> bool {
        !self.quick && self.only.is_empty() && self.programs.is_empty() && self.congestion.is_empty()
    }
}

/// Runs it, prints each figure as it comes, and writes the results.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    let mut runner = Runner::new(options)?;
    let rows = if options.only.is_empty() { Row::value_variants() } else { &options.only };
    let of = |wanted: Ground| rows.iter().copied().filter(|row| row.ground() == wanted).collect::<Vec<_>>();
    let _allowed = Allowed::with(&["cubic", "bbr"]);

    let mut congestion: Vec<&str> = options.congestion.iter().map(String::as_str).collect();
    if congestion.is_empty() {
        congestion = vec!["cubic", "bbr"];
    }
    let on_loopback = of(Ground::Loopback);
    for name in congestion.iter().filter(|_| !on_loopback.is_empty()) {
        let place = runner.place(name)?;
        runner.on_loopback(&place, &on_loopback);
        if !place.is_namespace() {
            break;
        }
    }
    let mut paths: Vec<Ground> = Vec::new();
    for row in rows {
        if matches!(row.ground(), Ground::LongPath { .. }) && !paths.contains(&row.ground()) {
            paths.push(row.ground());
        }
    }
    for ground in paths {
        if let Ground::LongPath { congestion, loss } = ground {
            runner.on_long_path(congestion, loss, &of(ground));
        }
    }
    let scaled = of(Ground::Scale);
    if !scaled.is_empty() && runner.programs.contains(&Program::Multiplex) {
        let place = runner.place(congestion[0])?;
        runner.on_scale(&place, &scaled);
    }

    let whole = options.is_whole();
    let folder = options.output.clone().unwrap_or_else(|| runner.tools.results(whole));
    println!("\n{}", report::write(&runner.results, &folder)?);
    println!("Written to {}", folder.display());
    Ok(())
}

struct Runner {
    effort: Effort,
    results: Results,
    programs: Vec<Program>,
    tools: Tools,
}

impl Runner {
    fn new(options: &Options) -> io::Result<Self> {
        let wanted = if options.programs.is_empty() { &Program::ALL[..] } else { &options.programs };
        let tools = Tools::prepare(wanted, options.relay.clone())?;
        let mut results = Results {
            machine: machine::describe(),
            rounds: if options.quick { 1 } else { options.rounds },
            quick: options.quick,
            ..Results::default()
        };
        let mut programs = Vec::new();
        for &program in wanted {
            match tools.missing(program) {
                Some(reason) => {
                    println!("{} is missing: {reason}", program.title());
                    results.missing.insert(program.name().to_owned(), reason);
                }
                None => programs.push(program),
            }
        }
        Ok(Self { effort: if options.quick { Effort::QUICK } else { Effort::FULL }, results, programs, tools })
    }

    fn note(&mut self, note: String) {
        println!("{note}");
        self.results.notes.push(note);
    }

    /// A namespace with this congestion control, or the system as it is.
    fn place(&mut self, congestion: &str) -> io::Result<Place> {
        Place::namespace(congestion).or_else(|error| {
            let here = Place::here()?;
            self.note(format!("no namespace with {congestion} ({error}): in place, with {}", here.congestion));
            Ok(here)
        })
    }

    fn on_loopback(&mut self, place: &Place, rows: &[Row]) {
        let kind = if place.is_namespace() { "a network namespace of its own" } else { "in place" };
        println!("\n# Loopback, {kind}, net.ipv4.tcp_congestion_control = {}", place.congestion);
        let [near, far] = [IpAddr::V4(Ipv4Addr::LOCALHOST); 2];
        for round in 0..self.results.rounds {
            for &row in rows {
                for program in self.turn(round) {
                    let measured = self.fresh(program).and_then(|folder| {
                        let stage = self.stage([place, place], [near, far], folder)?;
                        measure(&Session::start(program, &stage)?, row, self.effort)
                    });
                    self.keep(&place.congestion, row, program, round, measured);
                }
            }
        }
    }

    fn on_long_path(&mut self, congestion: &str, loss: u32, rows: &[Row]) {
        let shape = Shape::with_loss(loss);
        let path = match LongPath::new(congestion, shape, &self.tools.work) {
            Ok(path) => path,
            Err(error) => return self.note(format!("no long path with {congestion}: {error}")),
        };
        println!(
            "\n# Long path, {} ms there and back, {} Mbit/s, {} ms of queue, {} ‰ lost each way, {congestion}",
            shape.round_trip().as_millis(),
            shape.mbit_s,
            shape.queue_ms,
            shape.loss
        );
        let [near, far] = long::ENDS.map(IpAddr::from);
        for round in 0..self.results.rounds {
            for &row in rows {
                // haproxy is one hop: it has no forwarder to put at the other end.
                for program in self.turn(round).into_iter().filter(|program| *program != Program::Haproxy) {
                    let measured = self.fresh(program).and_then(|folder| {
                        let stage = self.stage([&path.near, &path.far], [near, far], folder)?;
                        measure(&Session::start(program, &stage)?, row, self.effort)
                    });
                    self.keep(congestion, row, program, round, measured);
                }
            }
        }
    }

    fn on_scale(&mut self, place: &Place, rows: &[Row]) {
        println!("\n# Scale, {}", place.congestion);
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        for round in 0..self.results.rounds {
            for &row in rows {
                let users = row == Row::ScaleUsers;
                for count in scale::steps(if users { scale::USERS } else { scale::FORWARDERS }, self.results.quick) {
                    let measured = self.fresh(Program::Multiplex).and_then(|folder| {
                        let stage = self.stage([place, place], [loopback, loopback], folder)?;
                        if users { scale::many_users(&stage, count) } else { scale::many_forwarders(&stage, count) }
                    });
                    self.keep(&place.congestion, row, Program::Multiplex, round, measured);
                }
            }
        }
    }

    /// The programs, beginning with another one in each round: nobody is always first.
    fn turn(&self, round: usize) -> Vec<Program> {
        let mut programs = self.programs.clone();
        let first = round % programs.len().max(1);
        programs.rotate_left(first);
        programs
    }

    /// An empty folder for a program's files.
    fn fresh(&self, program: Program) -> io::Result<PathBuf> {
        let folder = self.tools.work.join(program.name());
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn stage<'a>(&'a self, places: [&'a Place; 2], addresses: [IpAddr; 2], folder: PathBuf) -> io::Result<Stage<'a>> {
        Ok(Stage {
            tools: &self.tools,
            near: places[0],
            far: places[1],
            near_address: addresses[0],
            far_address: addresses[1],
            service_port: places[1].port()?,
            folder,
        })
    }

    fn keep(&mut self, setting: &str, row: Row, program: Program, round: usize, measured: io::Result<Metrics>) {
        match measured {
            Ok(metrics) => {
                let figures: Vec<_> = metrics.iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
                println!("{:16} {:13} {}", row.name(), program.name(), figures.join("  "));
                let (setting, program) = (setting.to_owned(), program.name().to_owned());
                self.results.samples.push(Sample { setting, row, program, round, metrics });
            }
            Err(error) => self.note(format!("{} of {} under {setting}: {error}", row.name(), program.name())),
        }
    }
}

/// What a row asks of a program that serves.
fn measure(session: &Session<'_>, row: Row, effort: Effort) -> io::Result<Metrics> {
    match row {
        Row::Stream => loopback::streams(session, 1, effort),
        Row::Streams8 => loopback::streams(session, 8, effort),
        Row::Ping => loopback::pings(session, 1, effort),
        Row::Ping64 => loopback::pings(session, 64, effort),
        Row::Connect => loopback::connect(session, effort),
        Row::Idle => loopback::idle(session, effort),
        Row::Stalled => loopback::stalled(session, effort),
        Row::LongStream => long::streams(session, 1, effort),
        Row::LongConnect => long::connect(session, effort),
        Row::LongBeside => long::beside(session, effort),
        Row::LongLoss => long::streams(session, 8, effort),
        Row::ScaleUsers | Row::ScaleForwarders => Err(io::Error::other("a row of steps, not of programs")),
    }
}
