//! What invites have to know of the server.

use std::net::{Ipv6Addr, SocketAddr};

use relay_client::DEFAULT_PORT;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::file::{self, Document};
use super::record::Text;
use super::{Directory, Host, Locked, StateError};

/// The DNS names that a certificate is for, wildcards as they are; none, if it cannot be read.
pub fn certificate_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    webpki::EndEntityCert::try_from(certificate)
        .map_or_else(|_| Vec::new(), |certificate| certificate.valid_dns_names().map(String::from).collect())
}

/// What the server was last started with, as far as invites need it.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// Where it listens: its real port, not 0.
    pub listen: SocketAddr,
    /// Whether it serves clients without an identity, too.
    pub open: bool,
    /// How its configuration says that clients reach it.
    pub host: Option<Host>,
    /// The names of the configured certificate; `None` when only the self-signed one is used.
    pub certificate: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    listen: SocketAddr,
    open: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Text<Host>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<Vec<String>>,
}

impl Document for Stored {
    const NAME: &'static str = "relay.toml";
    const REMEDY: &'static str = "move it away and start the server, which writes it";
}

impl Default for Facts {
    /// Those of a server that was started with nothing but its state.
    fn default() -> Self {
        Self { listen: (Ipv6Addr::UNSPECIFIED, DEFAULT_PORT).into(), open: false, host: None, certificate: None }
    }
}

impl Facts {
    /// Keeps them, once the server listens.
    ///
    /// # Errors
    /// They cannot be written, or a newer relay wrote those that are there.
    pub fn store(&self, locked: &Locked) -> Result<(), StateError> {
        Self::load(locked)?;
        let Self { listen, open, host, certificate } = self.clone();
        file::write(locked, &Stored { listen, open, host: host.map(Text), certificate })
    }

    /// Those kept last; the default, if no server has kept any.
    pub(super) fn load(directory: &Directory) -> Result<Self, StateError> {
        let facts = |Stored { listen, open, host, certificate }| Self {
            listen,
            open,
            host: host.map(|host: Text<Host>| host.0),
            certificate,
        };
        Ok(file::read(directory)?.map(facts).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::rig;
    use super::*;

    #[test]
    fn facts_are_kept_and_a_newer_relays_are_left() {
        let place = rig::state();
        let locked = rig::lock(place.path());
        assert_eq!(Facts::load(&locked).unwrap(), Facts::default());
        let all = Facts {
            listen: "[2001:db8::1]:443".parse().unwrap(),
            open: true,
            host: Some("vps.example:8443".parse().unwrap()),
            certificate: Some(vec!["*.example".into()]),
        };
        for facts in [all, Facts::default()] {
            facts.store(&locked).unwrap();
            assert_eq!(Facts::load(&locked).unwrap(), facts);
        }
        let path = place.path().join("relay.toml");
        fs::write(&path, "version = 2\n").unwrap();
        assert!(matches!(Facts::default().store(&locked), Err(StateError::Newer { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "version = 2\n");
    }
}
