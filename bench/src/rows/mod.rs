//! The rows of the comparison: what is measured.

pub(crate) mod loopback;
pub(crate) mod session;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Row {
    /// One connection, as fast as it goes, each way
    Stream,
    /// Eight connections at once, each way
    #[value(name = "streams-8")]
    #[serde(rename = "streams-8")]
    Streams8,
    /// 64-byte messages of one user
    Ping,
    /// 64-byte messages of 64 users
    #[value(name = "ping-64")]
    #[serde(rename = "ping-64")]
    Ping64,
    /// Connections of one byte each way, 32 at a time
    Connect,
    /// Memory for each of 5 000 idle users
    Idle,
    /// A user's messages beside another that does not read
    Stalled,
}

impl Row {
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Stream => "One connection",
            Self::Streams8 => "Eight connections",
            Self::Ping => "Ping-pong of 64 bytes, one user",
            Self::Ping64 => "Ping-pong of 64 bytes, 64 users",
            Self::Connect => "Connect, a byte each way, close; 32 at a time",
            Self::Idle => "Memory of an idle user",
            Self::Stalled => "Ping-pong beside a stalled reader",
        }
    }

    /// As on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}
