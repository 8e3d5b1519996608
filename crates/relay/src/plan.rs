//! What a command is to do: from its flags and the environment, a configuration file and the defaults, in this order.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use relay_client::{ClientCertificate, DEFAULT_PORT, Protocol, Tls, TlsSetupError, Trust};
use tracing::warn;

use crate::cli::{ForwardFlags, InviteFlags, PlaceFlags, ServerFlags};
use crate::config::{self, Anonymous, ConfigError, Forwarder, Limits, References, Server, files};
use crate::forward;
use crate::identity::{Identity, Rights};
use crate::state::{self, Host};
use crate::target::Relay;

/// What `relay server` is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerPlan {
    /// The control port.
    pub listen: SocketAddr,
    /// The public ports, first and last; `None` for those above the control port.
    pub ports: Option<(u16, u16)>,
    /// The address that public ports are bound to.
    pub bind: IpAddr,
    /// The folder of the state, if one is named.
    pub state: Option<PathBuf>,
    /// Serve clients without an identity, from anywhere.
    pub open: bool,
    /// How clients reach the relay: what invites name.
    pub host: Option<Host>,
    /// Serve identities and listed networks in plain text, too.
    pub plain_text: bool,
    /// The networks of load balancers, which begin with a PROXY header.
    pub proxy_protocol: Vec<IpNet>,
    /// Whether links may change to BBR.
    pub bbr: bool,
    /// How it speaks TLS.
    pub tls: config::Tls,
    /// Clients without an identity.
    pub anonymous: Anonymous,
    /// Bounds that the operator has set.
    pub limits: Limits,
    /// Who may use it, besides those who were invited.
    pub identities: Vec<Identity>,
}

impl ServerPlan {
    /// From flags and the configuration file that they name.
    ///
    /// # Errors
    /// What is wrong with that file.
    pub fn new(flags: ServerFlags) -> Result<Self, ConfigError> {
        let file = flags.place.config.as_deref().map(|path| Server::open(path, References::Read)).transpose()?;
        Ok(Self::merge(flags, file.unwrap_or_default()))
    }

    fn merge(flags: ServerFlags, file: Server) -> Self {
        let default = (Ipv6Addr::UNSPECIFIED, DEFAULT_PORT).into();
        let listen = flags.listen.or(file.listen).unwrap_or(default);
        Self {
            listen,
            ports: flags.ports.or(file.ports),
            bind: file.bind.unwrap_or(listen.ip()),
            state: flags.place.state.or(file.state),
            open: flags.open.or(file.open).unwrap_or(false),
            host: file.host,
            plain_text: file.plain_text.unwrap_or(false),
            proxy_protocol: file.proxy_protocol,
            bbr: !flags.link.no_bbr.or(file.no_bbr).unwrap_or(false),
            tls: file.tls,
            anonymous: file.anonymous,
            limits: file.limits,
            identities: file.identities,
        }
    }
}

/// Which relay `relay invite`, `relay revoke` and `relay identities` are about, by its state and its configuration.
///
/// What the configuration refers to is left alone: the tokens in it are the server's to read.
#[derive(Clone, Debug, Default)]
pub struct Place {
    state: Option<PathBuf>,
    file: Server,
}

impl Place {
    /// From flags and the configuration file that they name.
    ///
    /// # Errors
    /// What is wrong with that file.
    pub fn new(flags: PlaceFlags) -> Result<Self, ConfigError> {
        let file = flags.config.as_deref().map(|path| Server::open(path, References::Leave)).transpose()?;
        let file = file.unwrap_or_default();
        Ok(Self { state: flags.state.or_else(|| file.state.clone()), file })
    }

    /// The same, as the commands take it.
    pub fn context(&self) -> state::commands::Context<'_> {
        // A certificate that this user may not read was read by the server, which has its names in the state.
        let chain = self.file.tls.files.as_ref().and_then(|(chain, _)| files::authorities(chain).ok());
        state::commands::Context {
            state: self.state.as_deref(),
            host: self.file.host.clone(),
            certificate: chain.and_then(|chain| chain.first().map(state::certificate_names)),
            identities: self.file.identities.clone(),
        }
    }

    /// What `relay invite` asks for.
    pub fn wish(&self, flags: &InviteFlags) -> state::commands::Wish {
        let default = Rights::default();
        let max_tunnels = flags.max_tunnels.or(self.file.limits.tunnels_per_identity).unwrap_or(default.max_tunnels);
        let max_users = flags.max_users.unwrap_or(default.max_users);
        state::commands::Wish {
            name: flags.name.clone(),
            rights: Rights { ports: flags.ports, max_tunnels, max_users, ..default },
            expires: flags.expires,
            host: flags.host.clone(),
            replace: flags.replace,
        }
    }
}

/// What `relay forward` is to do: from flags and the files that they name.
///
/// # Errors
/// Something is missing or wrong: on the command line, in the environment, or in the configuration file.
pub fn forward(flags: ForwardFlags) -> Result<forward::Config, PlanError> {
    let file = flags.config.as_deref().map(Forwarder::open).transpose().map_err(PlanError::Configuration)?;
    merge(flags, file.unwrap_or_default())
}

fn merge(flags: ForwardFlags, file: Forwarder) -> Result<forward::Config, PlanError> {
    let usage = |what: &str| PlanError::Usage(what.into());
    let relay = match (flags.relay, flags.invite_file, flags.invite) {
        (Some(relay), _, _) => Some(relay),
        (None, Some(path), _) => Some(invite_in(&path)?),
        (None, None, Some(invite)) => Some(invite.map_err(PlanError::Usage)?),
        (None, None, None) => file.relay,
    };
    let relay = relay.ok_or_else(|| {
        usage("the relay is missing: give it after the service, or an invite by --invite-file or RELAY_INVITE")
    })?;
    let (service, mode, port, allow, proxy_protocol) =
        file.service.map_or((None, None, None, Vec::new(), None), |service| {
            (Some(service.service), service.mode, service.port, service.allow, service.proxy_protocol)
        });
    let service = flags.service.or(service);
    let service =
        service.ok_or_else(|| usage("the service is missing: say where it listens, as in relay forward 8080 HOST"))?;
    let certificate = flags.cert.zip(flags.key).or(file.certificate);
    let tls = tls(&relay, flags.ca.or(file.ca), certificate)?;
    let protocol = flags.mode.or(mode).unwrap_or(Protocol::Multiplex);
    Ok(forward::Config {
        tls,
        port: flags.port.or(port),
        allow: if flags.allow.is_empty() { allow } else { flags.allow },
        proxy_protocol: flags.proxy_protocol.or(proxy_protocol),
        bbr: !flags.link.no_bbr.or(file.no_bbr).unwrap_or(false),
        ..forward::Config::new(service, relay.address().clone(), protocol)
    })
}

/// How TLS to a relay is spoken; `None` if it is plain text.
fn tls(relay: &Relay, ca: Option<PathBuf>, certificate: Option<(PathBuf, PathBuf)>) -> Result<Option<Tls>, PlanError> {
    relay.takes(ca.is_some(), certificate.is_some()).map_err(|what| PlanError::Usage(what.into()))?;
    let authorities = ca.map_or(Trust::System, Trust::CaFile);
    let client = certificate.map(|(chain, key)| ClientCertificate { chain, key });
    let tls = match relay {
        Relay::Plain(_) => return Ok(None),
        Relay::Tls(_) => Tls::new(authorities, client.as_ref()),
        Relay::Invite(invite) => Tls::new(invite.pin.map_or(authorities, Trust::Pin), None)
            .map(|tls| tls.identity(invite.name.clone(), invite.token.clone())),
    };
    tls.map(Some).map_err(|error| match error {
        TlsSetupError::NoSystemRoots | TlsSetupError::Library(_) => PlanError::System(error.to_string()),
        _ => PlanError::Usage(error.to_string()),
    })
}

/// The invite in a file. That others can read it is said, and no reason to refuse: it was made so by whoever has it.
fn invite_in(path: &Path) -> Result<Relay, PlanError> {
    let text = files::text(path).map_err(|error| PlanError::Usage(format!("--invite-file: {error}")))?;
    if files::is_exposed(path) {
        let path = path.display();
        warn!("others can read the invite in {path}, and be what it stands for: type `chmod 600 {path}`");
    }
    let invite =
        text.parse().map_err(|error| PlanError::Usage(format!("--invite-file: {}: {error}", path.display())))?;
    Ok(Relay::Invite(invite))
}

/// Why it is not known what to do. The caller's to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// Something is missing or wrong on the command line or in the environment.
    Usage(String),
    /// Something is wrong with the configuration file.
    Configuration(ConfigError),
    /// Something is wrong with the machine.
    System(String),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) | Self::System(what) => f.write_str(what),
            Self::Configuration(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PlanError {}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
