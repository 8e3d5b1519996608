//! The programs that are compared: how each is started, between users and a service.

mod haproxy;
mod peers;
pub(crate) mod relay;
mod ssh;

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::place::Place;
use crate::process::Running;
use crate::tools::Tools;
use relay::Transport;

/// A program, in one of its modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Program {
    /// Users connect to the service itself.
    None,
    Multiplex,
    Pool,
    Event,
    MultiplexTls,
    PoolTls,
    EventTls,
    Rathole,
    RatholeNoise,
    Bore,
    Ssh,
    Haproxy,
}

impl Program {
    pub(crate) const ALL: [Self; 12] = [
        Self::None,
        Self::Multiplex,
        Self::Pool,
        Self::Event,
        Self::MultiplexTls,
        Self::PoolTls,
        Self::EventTls,
        Self::Rathole,
        Self::RatholeNoise,
        Self::Bore,
        Self::Ssh,
        Self::Haproxy,
    ];

    /// As on the command line and in results.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Multiplex => "multiplex",
            Self::Pool => "pool",
            Self::Event => "event",
            Self::MultiplexTls => "multiplex-tls",
            Self::PoolTls => "pool-tls",
            Self::EventTls => "event-tls",
            Self::Rathole => "rathole",
            Self::RatholeNoise => "rathole-noise",
            Self::Bore => "bore",
            Self::Ssh => "ssh",
            Self::Haproxy => "haproxy",
        }
    }

    /// As people read it.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::None => "no relay",
            Self::Multiplex => "relay, multiplex",
            Self::Pool => "relay, pool",
            Self::Event => "relay, event",
            Self::MultiplexTls => "relay, multiplex over TLS",
            Self::PoolTls => "relay, pool over TLS",
            Self::EventTls => "relay, event over TLS",
            Self::Rathole => "rathole",
            Self::RatholeNoise => "rathole, Noise",
            Self::Bore => "bore",
            Self::Ssh => "ssh -R",
            Self::Haproxy => "haproxy, one hop",
        }
    }

    pub(crate) const fn is_ours(self) -> bool {
        use Program::{Event, EventTls, Multiplex, MultiplexTls, Pool, PoolTls};
        matches!(self, Multiplex | Pool | Event | MultiplexTls | PoolTls | EventTls)
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|program| program.name() == name)
    }

    /// Starts it on the stage. It may not serve users yet.
    pub(crate) fn start(self, stage: &Stage<'_>) -> io::Result<Standing> {
        match self {
            Self::None => {
                Ok(Standing { address: (stage.far_address, stage.service_port).into(), processes: Vec::new() })
            }
            Self::Multiplex => relay::start(stage, "multiplex", Transport::Plain),
            Self::Pool => relay::start(stage, "pool", Transport::Plain),
            Self::Event => relay::start(stage, "event", Transport::Plain),
            Self::MultiplexTls => relay::start(stage, "multiplex", Transport::Tls),
            Self::PoolTls => relay::start(stage, "pool", Transport::Tls),
            Self::EventTls => relay::start(stage, "event", Transport::Tls),
            Self::Rathole => peers::rathole(stage, None),
            Self::RatholeNoise => peers::rathole(stage, Some(peers::noise_keys(stage)?)),
            Self::Bore => peers::bore(stage),
            Self::Ssh => ssh::start(stage),
            Self::Haproxy => haproxy::start(stage),
        }
    }
}

impl std::str::FromStr for Program {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::from_name(name).ok_or_else(|| {
            let names = Self::ALL.into_iter().fold(String::new(), |mut names, program| {
                let _ = write!(names, " {}", program.name());
                names
            });
            format!("no program: give some of{names}")
        })
    }
}

/// Where a program is put.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    pub(crate) tools: &'a Tools,
    /// Where users and the relay are.
    pub(crate) near: &'a Place,
    /// Where the forwarder and the service are.
    pub(crate) far: &'a Place,
    /// The relay's address as the forwarder sees it.
    pub(crate) near_address: IpAddr,
    /// The service's address as users would see it without a relay.
    pub(crate) far_address: IpAddr,
    /// The service's port; to the forwarder it is on loopback.
    pub(crate) service_port: u16,
    /// For configurations, keys and logs.
    pub(crate) folder: PathBuf,
}

impl Stage<'_> {
    fn service(&self) -> SocketAddr {
        loopback(self.service_port)
    }
}

/// A program that stands.
#[derive(Debug)]
pub(crate) struct Standing {
    /// Where users connect.
    pub(crate) address: SocketAddr,
    /// What is measured: the relay's process first, then the forwarder's.
    pub(crate) processes: Vec<Running>,
}

impl Standing {
    pub(crate) fn cpu_seconds(&self) -> io::Result<f64> {
        self.processes.iter().map(Running::cpu_seconds).sum()
    }

    pub(crate) fn resident_kib(&self) -> io::Result<f64> {
        self.processes.iter().map(Running::resident_kib).sum()
    }
}

pub(crate) fn loopback(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for program in Program::ALL {
            assert_eq!(program.name().parse(), Ok(program));
        }
        assert!("frp".parse::<Program>().is_err());
    }
}
