//! Logs: to stderr, as text or JSON.
//!
//! What peers sent goes into a log only through `{:?}`, which escapes control characters: nobody who
//! connects can forge a line or drive the operator's terminal.

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, fmt};

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: one object a line.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How.
    pub format: Format,
    /// A level, or directives as `relay=debug,relay_net=trace`. One that cannot be read counts as `info`.
    pub filter: String,
}

/// Sends the process's logs to stderr. Only the first call has an effect.
pub fn init(options: &Options) {
    let filter = EnvFilter::try_new(&options.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    // A log that cannot be written is not a reason to end: by default the subscriber would say so on
    // stderr, and panic when that is what is gone.
    let logs = fmt().with_env_filter(filter).with_target(false).with_writer(io::stderr).log_internal_errors(false);
    let _ = match options.format {
        Format::Text => {
            let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
            logs.with_ansi(colours).try_init()
        }
        Format::Json => logs.json().flatten_event(true).try_init(),
    };
}
