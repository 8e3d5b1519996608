//! Which public ports are reserved.

use std::time::SystemTime;

use relay_proto::identity::Name;
use serde::{Deserialize, Serialize};

use super::file::{self, Document};
use super::record::{Moment, Text};
use super::{Directory, Locked, StateError};

/// A public port that nobody but one identity gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Reservation {
    /// The port.
    pub port: u16,
    /// Who gets it.
    pub identity: Name,
    /// The word for the service behind it.
    pub service: Option<Box<str>>,
    /// When that ends, kept in whole seconds; `None` while a tunnel uses it.
    pub until: Option<SystemTime>,
}

/// The list of reservations that outlives the server.
#[derive(Debug)]
pub struct Reservations;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    reserved: Vec<Record>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    port: u16,
    identity: Text<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<Box<str>>,
    /// Without one, a tunnel used it when this was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Text<Moment>>,
}

impl Document for Stored {
    const NAME: &'static str = "ports.toml";
    const REMEDY: &'static str = "put back a copy of it; without one, move it away: tunnels may then get other ports";
}

impl Reservations {
    /// The reservations that were kept last; none, if never any were.
    ///
    /// # Errors
    /// The list is damaged or cannot be read.
    pub fn load(directory: &Directory) -> Result<Vec<Reservation>, StateError> {
        let stored = file::read::<Stored>(directory)?.map_or_else(Vec::new, |stored| stored.reserved);
        let reservation = |Record { port, identity, service, until }| Reservation {
            port,
            service,
            identity: identity.0,
            until: until.map(|until: Text<Moment>| until.0.0),
        };
        Ok(stored.into_iter().map(reservation).collect())
    }

    /// Keeps these instead of those kept last. Waits for the disk.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn store(locked: &Locked, reservations: &[Reservation]) -> Result<(), StateError> {
        let record = |reservation: &Reservation| Record {
            port: reservation.port,
            service: reservation.service.clone(),
            identity: Text(reservation.identity.clone()),
            until: reservation.until.map(|until| Text(Moment(until))),
        };
        file::write(locked, &Stored { reserved: reservations.iter().map(record).collect() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::rig::{self, name};
    use super::*;

    #[test]
    fn reservations_are_kept() {
        let place = rig::state();
        let locked = rig::lock(place.path());
        assert_eq!(Reservations::load(&locked).unwrap(), []);
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let reservations = [
            Reservation { port: 7001, identity: name("a"), service: None, until: None },
            Reservation { port: 65535, identity: name("b"), service: Some("web".into()), until: Some(until) },
        ];
        Reservations::store(&locked, &reservations).unwrap();
        assert_eq!(Reservations::load(&locked).unwrap(), reservations);
    }
}
