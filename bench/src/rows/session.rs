//! One program, started fresh with a service of its own, and users of it.

use std::io;
use std::net::SocketAddr;

use crate::metrics::Metrics;
use crate::process::Running;
use crate::programs::{Program, Stage, Standing};

/// A program that serves.
#[derive(Debug)]
pub(crate) struct Session<'a> {
    stage: &'a Stage<'a>,
    pub(crate) standing: Standing,
    _service: Running,
}

impl<'a> Session<'a> {
    /// Starts service and program, and waits until a byte passes each way.
    pub(crate) fn start(program: Program, stage: &'a Stage<'a>) -> io::Result<Self> {
        let service = service(stage)?;
        let session = Self { stage, standing: program.start(stage)?, _service: service };
        session.users(&["probe"])?;
        Ok(session)
    }

    /// Users that do this, until they are done.
    pub(crate) fn users(&self, task: &[&str]) -> io::Result<Metrics> {
        self.start_users(task)?.metrics()
    }

    /// Users that do this.
    pub(crate) fn start_users(&self, task: &[&str]) -> io::Result<Running> {
        users(self.stage, &[self.standing.address], task)
    }
}

/// Starts the service.
pub(crate) fn service(stage: &Stage<'_>) -> io::Result<Running> {
    let mut command = stage.far.own("service")?;
    command.arg(SocketAddr::from(([0, 0, 0, 0], stage.service_port)).to_string());
    let mut service = Running::start(command, "service", &stage.folder)?;
    service.line()?;
    Ok(service)
}

/// Starts users of these addresses.
pub(crate) fn users(stage: &Stage<'_>, addresses: &[SocketAddr], task: &[&str]) -> io::Result<Running> {
    let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
    let mut command = stage.near.own("user")?;
    command.arg(addresses.join(",")).args(task);
    Running::start(command, &format!("users-{}", task.first().unwrap_or(&"")), &stage.folder)
}
