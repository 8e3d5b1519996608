//! The command line: the original's two forms, and our commands.
//!
//! Which of both it is shows at once: the original's forms begin with a port or have
//! `--localForwardPort`. Each has a parser of its own, so neither can change the other's meaning.

use std::ffi::{OsStr, OsString};
use std::iter::once;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use clap::builder::{BoolishValueParser, Resettable};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Args, CommandFactory, Parser, Subcommand};
use relay_client::{DEFAULT_PORT, Protocol, RelayAddr};
use tracing_subscriber::EnvFilter;

use crate::forward;
use crate::logs;
use crate::server::PortRange;
use crate::service::Service;

/// What the command line asks for.
#[derive(Debug)]
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// How to log it.
    pub log: logs::Options,
}

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// Serve as a relay.
    Server {
        /// The control port.
        listen: SocketAddr,
        /// The public ports.
        ports: PortRange,
        /// Whether links may change to BBR.
        bbr: bool,
        /// In the original's form: a port and nothing else.
        original: bool,
    },
    /// Forward a relay's users to a service.
    Forward(forward::Config),
    /// Show it all in one process.
    Demo,
}

/// Reads the command line, program name first, and the environment.
///
/// # Errors
/// Wrong usage, or a wish for help or the version: [`clap::Error::exit`] says it and ends with the right code.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    // Help and errors speak of `relay`, whatever the program's file is called.
    let args: Vec<_> = once("relay".into()).chain(args.into_iter().skip(1).map(go_flag)).collect();
    if is_original(&args) {
        return read::<Original>(&args)?.invocation();
    }
    match read::<Modern>(&args) {
        Ok(modern) => modern.invocation(),
        // No command, but a host and a port: most of the original's way to forward.
        Err(error) if error.kind() == ErrorKind::InvalidSubcommand && args.len() == 3 && is_number(&args[2]) => {
            read::<Original>(&args)?.invocation()
        }
        Err(error) => Err(error),
    }
}

/// Reads a command line, and the environment for what it leaves out. An empty variable counts as unset;
/// an error that comes from a variable names it.
fn read<P: Parser>(args: &[OsString]) -> Result<P, clap::Error> {
    let parse = |with: fn(&OsStr) -> bool| {
        let heed = move |arg: Arg| if arg.get_env().is_some_and(with) { arg } else { arg.env(Resettable::Reset) };
        let command = P::command().mut_args(heed).mut_subcommands(move |command| command.mut_args(heed));
        P::from_arg_matches(&command.try_get_matches_from(args)?)
    };
    parse(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty())).map_err(|mut error| {
        if parse(|_| false).is_err_and(|without| without.to_string() == error.to_string()) {
            return error;
        }
        let command = P::command();
        let all = once(&command).chain(command.get_subcommands()).flat_map(clap::Command::get_arguments);
        let variable = match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(option)) => {
                let long = option.split_whitespace().next().and_then(|word| word.strip_prefix("--"));
                all.filter(|arg| arg.get_long() == long).find_map(Arg::get_env)
            }
            _ => None,
        };
        if let Some(variable) = variable {
            let variable = variable.to_string_lossy().into_owned();
            error.insert(ContextKind::InvalidArg, ContextValue::String(variable));
        }
        error
    })
}

const LOCAL_FORWARD_PORT: &str = "--localForwardPort";

/// Go takes one dash or two.
fn go_flag(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(text) if text.starts_with(&LOCAL_FORWARD_PORT[1..]) => format!("-{text}").into(),
        _ => arg,
    }
}

fn is_original(args: &[OsString]) -> bool {
    args.get(1).is_some_and(|first| is_number(first))
        || args.iter().any(|arg| arg.as_encoded_bytes().starts_with(LOCAL_FORWARD_PORT.as_bytes()))
}

fn is_number(arg: &OsStr) -> bool {
    let arg = arg.as_encoded_bytes();
    !arg.is_empty() && arg.iter().all(u8::is_ascii_digit)
}

const TEMPLATE: &str = "{about}\n\n{usage-heading} {usage}\n\n{all-args}{after-help}";

/// The original relay's forms: with a port alone it serves, open to everyone; with
/// --localForwardPort it forwards users of the relay at HOST PORT to localhost.
#[derive(Debug, Parser)]
#[command(name = "relay", version, disable_help_flag = true, max_term_width = 80, help_template = TEMPLATE)]
#[command(override_usage = "relay <PORT>\n       relay --localForwardPort=<PORT> <HOST> <PORT>")]
#[command(after_help = "\
Example: relay 1234
         relay --localForwardPort=8080 vps.example 1234
`relay --help` shows the other commands.")]
struct Original {
    /// The port of the service, on this machine
    #[arg(long = "localForwardPort", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    local_forward_port: Option<u16>,
    /// The control port, after the relay's host when forwarding
    #[arg(value_name = "PORT", num_args = 1..=2, required = true)]
    target: Vec<String>,
    #[command(flatten)]
    log: LogArgs,
    /// Print help
    #[arg(short, long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

impl Original {
    fn invocation(self) -> Result<Invocation, clap::Error> {
        let usage = |message: String| Self::command().error(ErrorKind::ValueValidation, message);
        let port = |text: &str| {
            text.parse::<u16>().map_err(|_| usage(format!("{text:?} is no port: give a number from 0 to 65535")))
        };
        let command = match (self.local_forward_port, &self.target[..]) {
            (None, [listen]) => Command::Server {
                listen: (Ipv6Addr::UNSPECIFIED, port(listen)?).into(),
                ports: PortRange::AboveControl,
                bbr: true,
                original: true,
            },
            (Some(local), [host, control]) => {
                let relay = RelayAddr::new(host, port(control)?).map_err(|error| usage(error.to_string()))?;
                let service = Service::local(local).map_err(|error| usage(error.to_string()))?;
                Command::Forward(forward::Config::new(service, relay, Protocol::Multiplex))
            }
            (None, _) => {
                return Err(usage(
                    "a host and a port need --localForwardPort=<PORT>, the port of the service to forward to".into(),
                ));
            }
            (Some(_), _) => {
                return Err(usage(
                    "--localForwardPort needs the relay's host and its control port: <HOST> <PORT>".into(),
                ));
            }
        };
        Ok(Invocation { command, log: self.log.options() })
    }
}

/// Makes a service that nobody can reach reachable: it dials out to a relay, which
/// opens a public port for it and pipes users through.
#[derive(Debug, Parser)]
#[command(name = "relay", version, arg_required_else_help = true, max_term_width = 80, help_template = TEMPLATE)]
#[command(disable_help_subcommand = true, subcommand_help_heading = "Commands")]
#[command(after_help = "\
As the original relay:
  relay <PORT>                                   serve, open to everyone
  relay --localForwardPort=<PORT> <HOST> <PORT>  forward to localhost:<PORT>

Example: relay server --open                 on a machine that all can reach
         relay forward 8080 vps.example      beside the service
Each option --NAME can be set as RELAY_NAME in the environment, too.")]
struct Modern {
    #[command(subcommand)]
    command: ModernCommand,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Subcommand)]
enum ModernCommand {
    Server(ServerArgs),
    Forward(ForwardArgs),
    Demo(DemoArgs),
}

/// Serve as a relay
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, after_help = "Example: relay server --listen 0.0.0.0:7000 --ports 8000-8999 --open")]
struct ServerArgs {
    /// Where clients connect
    #[arg(long, value_name = "ADDR:PORT", env = "RELAY_LISTEN", hide_env = true, default_value = "[::]:7000")]
    #[arg(value_parser = listen_address)]
    listen: SocketAddr,
    /// The public ports to give away [default: all above the control port]
    #[arg(long, value_name = "FROM-TO", env = "RELAY_PORTS", hide_env = true, value_parser = port_range)]
    ports: Option<PortRange>,
    /// Serve everyone who connects: anyone can open public ports on this machine
    #[arg(long, env = "RELAY_OPEN", hide_env = true, value_parser = BoolishValueParser::new())]
    open: bool,
    #[command(flatten)]
    link: LinkArgs,
}

/// Forward a relay's users to a service
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, after_help = "\
Prints `established relay address: HOST:PORT` once users can connect there.

Example: relay forward 8080 vps.example
         relay forward unix:/run/web.sock vps.example:7000 --mode pool")]
struct ForwardArgs {
    /// Where the service listens: PORT, HOST:PORT or unix:PATH
    service: Service,
    /// The relay: HOST[:PORT]; the port is 7000 when none is given
    relay: RelayAddr,
    /// How users come: multiplex, pool or event
    #[arg(long, env = "RELAY_MODE", hide_env = true, default_value = "multiplex", value_parser = mode)]
    mode: Protocol,
    #[command(flatten)]
    link: LinkArgs,
}

#[derive(Debug, Args)]
struct LinkArgs {
    /// Leave congestion control to the system, even where a link loses packets
    #[arg(long, env = "RELAY_NO_BBR", hide_env = true, value_parser = BoolishValueParser::new())]
    no_bbr: bool,
}

/// Show relay, forwarder and a web service in one process
#[derive(Debug, Args)]
#[command(help_template = TEMPLATE, after_help = "\
Prints a URL to open in a browser of this machine. Ctrl-C ends it.

Example: relay demo")]
struct DemoArgs {}

#[derive(Debug, Args)]
struct LogArgs {
    /// How to write logs: text or json
    #[arg(long, global = true, value_name = "FORMAT", env = "RELAY_LOG_FORMAT", hide_env = true)]
    #[arg(default_value = "text", value_parser = log_format)]
    log_format: logs::Format,
    #[arg(help = "Log more; RELAY_LOG sets a level (error, warn, info, debug, trace)")]
    #[arg(short, long, global = true, env = "RELAY_VERBOSE", hide_env = true, value_parser = BoolishValueParser::new())]
    verbose: bool,
    // Not an option, but read and checked with them.
    #[arg(long, hide = true, env = "RELAY_LOG", default_value = "info", value_parser = log_filter)]
    log: String,
}

impl LogArgs {
    fn options(self) -> logs::Options {
        let filter = if self.verbose { "debug".into() } else { self.log };
        logs::Options { format: self.log_format, filter }
    }
}

impl Modern {
    fn invocation(self) -> Result<Invocation, clap::Error> {
        let command = match self.command {
            ModernCommand::Server(args) if !args.open => {
                return Err(Self::command().error(
                    ErrorKind::MissingRequiredArgument,
                    "a relay that serves only invited clients is not there yet: \
                     pass --open to serve everyone who connects",
                ));
            }
            ModernCommand::Server(args) => Command::Server {
                listen: args.listen,
                ports: args.ports.unwrap_or(PortRange::AboveControl),
                bbr: !args.link.no_bbr,
                original: false,
            },
            ModernCommand::Forward(args) => {
                let config = forward::Config::new(args.service, args.relay, args.mode);
                Command::Forward(forward::Config { bbr: !args.link.no_bbr, ..config })
            }
            ModernCommand::Demo(DemoArgs {}) => Command::Demo,
        };
        Ok(Invocation { command, log: self.log.options() })
    }
}

/// `ADDR:PORT`, or one of both.
fn listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = text.parse().ok();
    let address = address.or_else(|| bare.parse().ok().map(|ip: IpAddr| (ip, DEFAULT_PORT).into()));
    let address = address.or_else(|| text.parse().ok().map(|port: u16| (Ipv6Addr::UNSPECIFIED, port).into()));
    address.ok_or("give an IP address and a port, as in 0.0.0.0:7000 or [::]:7000")
}

fn port_range(text: &str) -> Result<PortRange, &'static str> {
    let port = |text: &str| text.trim().parse().ok().filter(|&port: &u16| port != 0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(PortRange::FromTo(first, last)),
        _ => Err("give two ports from 1 to 65535, the lower first, as in 8000-8999"),
    }
}

fn mode(text: &str) -> Result<Protocol, &'static str> {
    text.parse().map_err(|_| "it is multiplex, pool or event")
}

fn log_format(text: &str) -> Result<logs::Format, &'static str> {
    match text {
        "text" => Ok(logs::Format::Text),
        "json" => Ok(logs::Format::Json),
        _ => Err("it is text or json"),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.into()).map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "cli/tests.rs"]
mod tests;
