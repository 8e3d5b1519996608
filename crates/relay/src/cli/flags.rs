//! The flags of each command. `None` where neither the command line nor the environment says anything: a
//! configuration file may, then.

use std::ffi::OsStr;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Args, Subcommand};
use ipnet::IpNet;
use relay_client::{Protocol, Relay};
use relay_proto::identity::Name;
use relay_proto::network;
use relay_proto::proxy::Version;
use tracing_subscriber::EnvFilter;

use super::TEMPLATE;
use crate::config::values;
use crate::logs;
use crate::service::Service;
use crate::state::Host;

/// Serve as a relay
#[derive(Clone, Debug, Default, Args)]
#[command(help_template = TEMPLATE, after_help = "\
Serves whom you invite: see `relay invite --help`. The first start makes its
state, a folder with a certificate and a list of identities.

Example: relay server
         relay server --listen 0.0.0.0:7000 --ports 8000-8999")]
pub struct ServerFlags {
    /// Where clients connect.
    #[arg(help = "Where clients connect [default: [::]:7000]")]
    #[arg(long, value_name = "ADDR:PORT", env = "RELAY_LISTEN", hide_env = true, value_parser = values::listen_address)]
    pub listen: Option<SocketAddr>,
    /// Public ports [default: 1000 above the control port]
    #[arg(long, value_name = "FROM-TO", env = "RELAY_PORTS", hide_env = true, value_parser = values::port_range)]
    pub ports: Option<(u16, u16)>,
    /// The folder and the configuration file.
    #[command(flatten)]
    pub place: PlaceFlags,
    /// Serve everyone, without an invite
    #[arg(long, env = "RELAY_OPEN", hide_env = true, value_parser = BoolishValueParser::new())]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    #[arg(hide_possible_values = true)]
    pub open: Option<bool>,
    /// How links are driven.
    #[command(flatten)]
    pub link: LinkFlags,
}

/// Forward a relay's users to a service
#[derive(Clone, Debug, Default, Args)]
#[command(help_template = TEMPLATE, after_help = "\
Example: relay forward 8080 --invite-file laptop.invite")]
pub struct ForwardFlags {
    /// Where the service listens: PORT, HOST:PORT or unix:PATH
    #[arg(value_parser = Quiet(service))]
    pub service: Option<Service>,
    /// The relay.
    #[arg(help = "An invite, tls://HOST[:PORT], or HOST[:PORT] for plain text")]
    #[arg(value_parser = Quiet(relay))]
    pub relay: Option<Relay>,
    /// How users come: multiplex (default), pool or event
    #[arg(long, env = "RELAY_MODE", hide_env = true, value_parser = values::mode)]
    pub mode: Option<Protocol>,
    /// The public port that it must be [default: any]
    #[arg(long, value_name = "PUBLIC", env = "RELAY_PUBLIC_PORT", hide_env = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Whose users may come, repeatable [default: all]
    #[arg(long, value_name = "CIDR", env = "RELAY_ALLOW", hide_env = true, value_parser = network::parse)]
    #[arg(value_delimiter = ',')]
    pub allow: Vec<IpNet>,
    /// Tell the service where users are: v1 or v2
    #[arg(long, value_name = "V", env = "RELAY_PROXY_PROTOCOL", hide_env = true, value_parser = str::parse::<Version>)]
    pub proxy_protocol: Option<Version>,
    /// A file with the invite: arguments show in `ps`
    #[arg(long, value_name = "FILE", env = "RELAY_INVITE_FILE", hide_env = true, value_parser = Quiet(path))]
    pub invite_file: Option<PathBuf>,
    /// An invite from the environment, `RELAY_INVITE`.
    #[arg(skip)]
    pub invite: Option<Result<Relay, String>>,
    /// A configuration file
    #[arg(long, value_name = "FILE", env = "RELAY_CONFIG", hide_env = true, value_parser = Quiet(path))]
    pub config: Option<PathBuf>,
    /// `tls://`: authorities, PEM [default: the system's]
    #[arg(long, value_name = "FILE", env = "RELAY_CA", hide_env = true, value_parser = Quiet(path))]
    pub ca: Option<PathBuf>,
    /// `tls://`: a client certificate, PEM
    #[arg(long, value_name = "FILE", env = "RELAY_CERT", hide_env = true, value_parser = Quiet(path))]
    #[arg(requires = "key")]
    pub cert: Option<PathBuf>,
    /// `tls://`: its key, PEM
    #[arg(long, value_name = "FILE", env = "RELAY_KEY", hide_env = true, value_parser = Quiet(path))]
    #[arg(requires = "cert")]
    pub key: Option<PathBuf>,
    /// How links are driven.
    #[command(flatten)]
    pub link: LinkFlags,
}

/// How links are driven.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct LinkFlags {
    /// Leave congestion control to the system
    #[arg(long, env = "RELAY_NO_BBR", hide_env = true, value_parser = BoolishValueParser::new())]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    #[arg(hide_possible_values = true)]
    pub no_bbr: Option<bool>,
}

/// Which relay's state is meant.
#[derive(Clone, Debug, Default, Args)]
pub struct PlaceFlags {
    /// The folder of the relay's state
    #[arg(long, value_name = "DIR", env = "RELAY_STATE", hide_env = true, value_parser = Quiet(path))]
    pub state: Option<PathBuf>,
    /// The relay's configuration file
    #[arg(long, value_name = "FILE", env = "RELAY_CONFIG", hide_env = true, value_parser = Quiet(path))]
    pub config: Option<PathBuf>,
}

/// Let somebody use the relay
#[derive(Clone, Debug, Args)]
#[command(help_template = TEMPLATE, after_help = "\
Prints an invite, one line, for the machine with the service. It is a secret.

Example: relay invite laptop
         relay invite laptop --host vps.example --expires 30d >laptop.invite")]
pub struct InviteFlags {
    /// What to call it: a-z, 0-9, dot, dash and underscore
    pub name: Name,
    /// Which relay.
    #[command(flatten)]
    pub place: PlaceFlags,
    /// How clients reach the relay [default: a guess]
    #[arg(long, value_name = "HOST[:PORT]", env = "RELAY_HOST", hide_env = true)]
    pub host: Option<Host>,
    /// The public ports that it may have [default: all]
    #[arg(long, value_name = "FROM-TO", value_parser = values::port_range)]
    pub ports: Option<(u16, u16)>,
    /// How long it is valid, as in 30d [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub expires: Option<Duration>,
    /// Tunnels at once
    #[arg(long, value_name = "N", value_parser = count)]
    pub max_tunnels: Option<usize>,
    /// Users at once
    #[arg(long, value_name = "N", value_parser = count)]
    pub max_users: Option<usize>,
    /// In place of the one of that name
    #[arg(long)]
    pub replace: bool,
}

/// End what an invite allows
#[derive(Clone, Debug, Args)]
#[command(help_template = TEMPLATE, after_help = "\
Its links are cut at once, and its token never works again.

Example: relay revoke laptop")]
pub struct RevokeFlags {
    /// Whom
    pub name: Name,
    /// Which relay.
    #[command(flatten)]
    pub place: PlaceFlags,
}

/// List who may use the relay
#[derive(Clone, Debug, Args)]
#[command(help_template = TEMPLATE, after_help = "Example: relay identities")]
pub struct IdentitiesFlags {
    /// Which relay.
    #[command(flatten)]
    pub place: PlaceFlags,
    /// As an array of objects, for programs
    #[arg(long)]
    pub json: bool,
}

/// Say what is wrong with a configuration file
#[derive(Clone, Debug, Args)]
#[command(help_template = TEMPLATE, after_help = "\
One line for each problem, and exit code 64; or that it is ok. Opens no port.

Example: relay check /etc/relay.toml")]
pub struct CheckFlags {
    /// The file
    #[arg(value_parser = Quiet(path))]
    pub file: PathBuf,
}

/// Show relay, forwarder and a web service in one process
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, after_help = "\
Prints a URL to open in a browser of this machine. Ctrl-C ends it.

Example: relay demo")]
pub(super) struct DemoFlags {}

/// Try somebody's relay or client against the protocol
#[derive(Clone, Debug, Args)]
#[command(help_template = TEMPLATE, after_help = "\
Prints what holds and what does not, and why each matters. Exit code 1 if
something failed.

Example: relay conformance relay localhost:7000
         relay conformance client --mode event")]
pub struct ConformanceFlags {
    /// Of which kind it is.
    #[command(subcommand)]
    pub subject: ConformanceSubject,
}

/// Who is tried.
#[derive(Clone, Debug, Subcommand)]
pub enum ConformanceSubject {
    /// A relay.
    Relay(ConformanceRelayFlags),
    /// A client.
    Client(ConformanceClientFlags),
}

/// Try a relay
#[derive(Clone, Debug, Args)]
#[command(help_template = TEMPLATE, after_help = "\
Opens some 200 tunnels there and comes as their users. It floods, too: not for
a relay that others are using. An invite for it needs --max-tunnels 1000, since
ports are kept for a while.

Example: relay conformance relay localhost:7000")]
pub struct ConformanceRelayFlags {
    /// The relay.
    #[arg(value_parser = Quiet(relay), help = "HOST[:PORT] for one that serves everyone, or an invite")]
    pub relay: Relay,
}

/// Try a client
#[derive(Clone, Debug, Args)]
#[command(help_template = TEMPLATE, after_help = "\
Waits for the client as a relay would, and comes as its users. The service
behind it is to send back what it gets; one that does listens while this runs.
With a command the client is started anew for each check, and ended after it;
{host} and {port} in it become the relay's, {echo} the port of that service.

Example: relay conformance client --mode pool -- relay forward {echo} \\
             {host}:{port} --mode pool
         relay conformance client --mode event -- python3 e.py {host} {port}")]
pub struct ConformanceClientFlags {
    /// How it takes users: multiplex, pool or event
    #[arg(long, value_parser = values::mode)]
    pub mode: Protocol,
    /// Where it connects.
    #[arg(help = "Where it connects [default: 127.0.0.1:7000, or any port for a command]")]
    #[arg(long, value_name = "ADDR:PORT", value_parser = values::listen_address)]
    pub listen: Option<SocketAddr>,
    /// What starts it
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct LogFlags {
    /// How to write logs: text or json
    #[arg(long, global = true, value_name = "FORMAT", env = "RELAY_LOG_FORMAT", hide_env = true)]
    #[arg(default_value = "text", value_parser = log_format)]
    log_format: logs::Format,
    #[arg(help = "Log more; RELAY_LOG=LEVEL sets how much")]
    #[arg(short, long, global = true, env = "RELAY_VERBOSE", hide_env = true, value_parser = BoolishValueParser::new())]
    verbose: bool,
    // Not an option, but read and checked with them.
    #[arg(long, hide = true, env = "RELAY_LOG", default_value = "info", value_parser = log_filter)]
    log: String,
}

impl LogFlags {
    pub(super) fn options(self) -> logs::Options {
        let filter = if self.verbose { "debug".into() } else { self.log };
        logs::Options { format: self.log_format, filter }
    }
}

/// Reads a value that may be a secret, or stand where one was meant to: no error shows it.
#[derive(Clone)]
struct Quiet<T>(fn(&str) -> Result<T, String>);

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Quiet<T> {
    type Value = T;

    fn parse_ref(&self, command: &clap::Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        let parsed = value.to_str().ok_or_else(|| "it is not text in UTF-8".to_owned()).and_then(self.0);
        parsed.map_err(|error| {
            let arg = arg.map_or_else(String::new, |arg| format!("{arg}: "));
            command.clone().error(ErrorKind::ValueValidation, format!("{arg}{error}"))
        })
    }
}

fn said(error: impl Display) -> String {
    error.to_string()
}

fn service(text: &str) -> Result<Service, String> {
    if text.contains("://") || text.contains('@') {
        return Err("this is a relay, and the service comes before it, as in relay forward 8080 RELAY".into());
    }
    text.parse().map_err(said)
}

fn relay(text: &str) -> Result<Relay, String> {
    text.parse().map_err(said)
}

fn path(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Err("the name of a file or folder is missing".into()),
        _ if text.contains("relay:") && text.contains('@') => {
            Err("this is an invite, and the name of a file or folder is wanted".into())
        }
        _ => Ok(text.into()),
    }
}

fn count(text: &str) -> Result<usize, &'static str> {
    text.parse().ok().filter(|&count| count > 0).ok_or("give a whole number from 1 up")
}

fn log_format(text: &str) -> Result<logs::Format, &'static str> {
    match text {
        "text" => Ok(logs::Format::Text),
        "json" => Ok(logs::Format::Json),
        _ => Err("it is text or json"),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.into()).map_err(said)
}
