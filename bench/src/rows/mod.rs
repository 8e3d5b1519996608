//! The rows of the comparison: what is measured.

pub(crate) mod long;
pub(crate) mod loopback;
pub(crate) mod scale;
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
    /// Long path: one connection, each way
    LongStream,
    /// Long path: connections of one byte each way, one at a time and 32 at once
    LongConnect,
    /// Long path: a user's messages beside one that saturates it, each way
    LongBeside,
    /// Long path: eight connections at 1 % loss, each way
    LongLoss,
    /// 18 000 users of one multiplex forwarder
    ScaleUsers,
    /// 1 000 forwarders of one relay
    ScaleForwarders,
}

/// Where a row is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    Loopback,
    /// Over the emulated path, with this congestion control and packets lost out of a thousand.
    LongPath {
        congestion: &'static str,
        loss: u32,
    },
    /// On loopback, in steps that double.
    Scale,
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
            Self::LongStream => "Long path: one connection",
            Self::LongConnect => "Long path: connect, a byte each way",
            Self::LongBeside => "Long path: ping-pong beside a user that saturates it",
            Self::LongLoss => "Long path: eight connections at 1 % loss",
            Self::ScaleUsers => "Users of one multiplex forwarder",
            Self::ScaleForwarders => "Forwarders of one relay",
        }
    }

    pub(crate) const fn ground(self) -> Ground {
        match self {
            Self::LongStream | Self::LongConnect => Ground::LongPath { congestion: "bbr", loss: 0 },
            Self::LongBeside => Ground::LongPath { congestion: "cubic", loss: 0 },
            Self::LongLoss => Ground::LongPath { congestion: "cubic", loss: 10 },
            Self::ScaleUsers | Self::ScaleForwarders => Ground::Scale,
            _ => Ground::Loopback,
        }
    }

    /// As on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}
