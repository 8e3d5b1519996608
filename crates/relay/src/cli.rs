//! The command line: the original's two forms, and our commands.
//!
//! Which of both it is shows at once: the original's forms begin with a port or have
//! `--localForwardPort`. Each has a parser of its own, so neither can change the other's meaning.

mod flags;
mod original;
mod secrets;

use std::ffi::{OsStr, OsString};
use std::iter::once;
use std::net::SocketAddr;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Parser, Subcommand};
use relay_client::Relay;

pub use self::flags::{
    CheckFlags, ConformanceClientFlags, ConformanceFlags, ConformanceRelayFlags, ConformanceSubject, ForwardFlags,
    IdentitiesFlags, InviteFlags, LinkFlags, PlaceFlags, RevokeFlags, ServerFlags,
};
use self::flags::{DemoFlags, LogFlags};
use self::original::{Original, go_flag, is_number, is_original};
use crate::logs;

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
    /// Serve as the original: at that address, everyone.
    Original(SocketAddr),
    /// Serve as a relay.
    Server(Box<ServerFlags>),
    /// Forward a relay's users to a service.
    Forward(Box<ForwardFlags>),
    /// Let somebody use the relay.
    Invite(Box<InviteFlags>),
    /// End what an invite allows.
    Revoke(RevokeFlags),
    /// List who may use the relay.
    Identities(IdentitiesFlags),
    /// Check a configuration file.
    Check(CheckFlags),
    /// Try somebody's relay or client.
    Conformance(ConformanceSubject),
    /// Show it all in one process.
    Demo,
}

/// Reads the command line, program name first, and the environment.
///
/// # Errors
/// Wrong usage, or a wish for help or the version: [`clap::Error::exit`] says it and ends with the right code. It never
/// shows an invite or a token.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    // What follows `--` is another program's.
    let mut ours = true;
    let go_flags = args.into_iter().skip(1).map(|arg| {
        ours &= arg != "--";
        if ours { go_flag(arg) } else { arg }
    });
    // Help and errors speak of `relay`, whatever the program's file is called.
    let args: Vec<_> = once("relay".into()).chain(go_flags).collect();
    invocation(&args).map_err(|error| {
        let said = error.to_string();
        let shown = secrets::hide(&said, &args);
        if shown == said { error } else { clap::Error::raw(error.kind(), shown.trim_start_matches("error: ")) }
    })
}

/// A message without the invites and tokens that this program was given as arguments.
pub fn without_secrets(message: &str) -> String {
    secrets::hide(message, &std::env::args_os().collect::<Vec<_>>())
}

fn invocation(args: &[OsString]) -> Result<Invocation, clap::Error> {
    if is_original(args) {
        return read::<Original>(args)?.invocation();
    }
    match read::<Modern>(args) {
        Ok(modern) => Ok(modern.invocation()),
        // No command, but a host and a port: most of the original's way to forward.
        Err(error) if error.kind() == ErrorKind::InvalidSubcommand && args.len() == 3 && is_number(&args[2]) => {
            read::<Original>(args)?.invocation()
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
                // `--state <DIR>`, or `--open[=<BOOL>]`.
                let long = option.split([' ', '[']).next().and_then(|word| word.strip_prefix("--"));
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

const TEMPLATE: &str = "{about}\n\n{usage-heading} {usage}\n\n{all-args}{after-help}";

/// Makes a service that nobody can reach reachable, by a public port of a relay.
#[derive(Debug, Parser)]
#[command(name = "relay", version, arg_required_else_help = true, max_term_width = 80, help_template = TEMPLATE)]
#[command(disable_help_subcommand = true, subcommand_help_heading = "Commands")]
#[command(after_help = "\
As the original: relay <PORT> | relay --localForwardPort=<PORT> <HOST> <PORT>
Example: relay server; relay invite laptop       on a machine that all can reach
         relay forward 8080 'relay://laptop:…'   beside the service
Most options --NAME can be set as RELAY_NAME in the environment, too.")]
struct Modern {
    #[command(subcommand)]
    command: ModernCommand,
    #[command(flatten)]
    log: LogFlags,
}

#[derive(Debug, Subcommand)]
enum ModernCommand {
    Server(Box<ServerFlags>),
    Forward(Box<ForwardFlags>),
    Invite(Box<InviteFlags>),
    Revoke(RevokeFlags),
    Identities(IdentitiesFlags),
    Check(CheckFlags),
    Conformance(ConformanceFlags),
    Demo(DemoFlags),
}

impl Modern {
    fn invocation(self) -> Invocation {
        let command = match self.command {
            ModernCommand::Server(flags) => Command::Server(flags),
            ModernCommand::Forward(mut flags) => {
                flags.invite = invite();
                Command::Forward(flags)
            }
            ModernCommand::Invite(flags) => Command::Invite(flags),
            ModernCommand::Revoke(flags) => Command::Revoke(flags),
            ModernCommand::Identities(flags) => Command::Identities(flags),
            ModernCommand::Check(flags) => Command::Check(flags),
            ModernCommand::Conformance(ConformanceFlags { subject }) => Command::Conformance(subject),
            ModernCommand::Demo(DemoFlags {}) => Command::Demo,
        };
        Invocation { command, log: self.log.options() }
    }
}

/// The invite that the environment holds. No flag's: a flag would invite to type it where others see it.
fn invite() -> Option<Result<Relay, String>> {
    let invite = std::env::var_os("RELAY_INVITE").filter(|invite| !invite.is_empty())?;
    Some(invite.to_string_lossy().parse().map(Relay::Invite).map_err(|error| format!("RELAY_INVITE: {error}")))
}

#[cfg(test)]
#[path = "cli/tests.rs"]
mod tests;
