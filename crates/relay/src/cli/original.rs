//! The original's two forms.

use std::ffi::{OsStr, OsString};
use std::net::Ipv6Addr;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use relay_client::{Relay, RelayAddr};

use super::flags::{ForwardFlags, LogFlags};
use super::{Command, Invocation, TEMPLATE};
use crate::service::Service;

const LOCAL_FORWARD_PORT: &str = "--localForwardPort";

/// Go takes one dash or two.
pub(super) fn go_flag(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(text) if text.starts_with(&LOCAL_FORWARD_PORT[1..]) => format!("-{text}").into(),
        _ => arg,
    }
}

/// Whether arguments, program name first, are the original's.
pub(super) fn is_original(args: &[OsString]) -> bool {
    args.get(1).is_some_and(|first| is_number(first))
        || args
            .iter()
            .take_while(|arg| *arg != "--")
            .any(|arg| arg.as_encoded_bytes().starts_with(LOCAL_FORWARD_PORT.as_bytes()))
}

pub(super) fn is_number(arg: &OsStr) -> bool {
    let arg = arg.as_encoded_bytes();
    !arg.is_empty() && arg.iter().all(u8::is_ascii_digit)
}

/// The original relay's forms: with a port alone it serves, open to everyone; with
/// --localForwardPort it forwards users of the relay at HOST PORT to localhost.
#[derive(Debug, Parser)]
#[command(name = "relay", version, disable_help_flag = true, max_term_width = 80, help_template = TEMPLATE)]
#[command(override_usage = "relay <PORT>\n       relay --localForwardPort=<PORT> <HOST> <PORT>")]
#[command(after_help = "\
Example: relay 1234
         relay --localForwardPort=8080 vps.example 1234
`relay --help` shows the other commands.")]
pub(super) struct Original {
    /// The port of the service, on this machine
    #[arg(long = "localForwardPort", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    local_forward_port: Option<u16>,
    /// The control port, after the relay's host when forwarding
    #[arg(value_name = "PORT", num_args = 1..=2, required = true)]
    target: Vec<String>,
    #[command(flatten)]
    log: LogFlags,
    /// Print help
    #[arg(short, long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

impl Original {
    pub(super) fn invocation(self) -> Result<Invocation, clap::Error> {
        let usage = |message: String| Self::command().error(ErrorKind::ValueValidation, message);
        let port = |text: &str| {
            text.parse::<u16>().map_err(|_| usage(format!("{text:?} is no port: give a number from 0 to 65535")))
        };
        let command = match (self.local_forward_port, &self.target[..]) {
            (None, [listen]) => Command::Original((Ipv6Addr::UNSPECIFIED, port(listen)?).into()),
            (Some(local), [host, control]) => {
                let relay = RelayAddr::new(host, port(control)?).map_err(|error| usage(error.to_string()))?;
                let service = Service::local(local).map_err(|error| usage(error.to_string()))?;
                let (service, relay) = (Some(service), Some(Relay::Plain(relay)));
                Command::Forward(Box::new(ForwardFlags { service, relay, ..ForwardFlags::default() }))
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
