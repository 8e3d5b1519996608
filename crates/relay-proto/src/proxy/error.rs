//! What is no header.

use std::fmt;

use super::{MAX_BLOCK, MAX_V1};

/// What came instead of a header. Always its sender's fault: a proxy that is set up otherwise, or no proxy at all.
/// `Display` completes a sentence about the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyError {
    /// Something else, from its first bytes on; version 2 where only version 1 is taken is such, too.
    Signature,
    /// Version 1 without an end within [`MAX_V1`] bytes.
    LineTooLong,
    /// A line that ends in a newline alone.
    NoCarriageReturn,
    /// A line with more or fewer words than it has, or other blanks between them.
    Fields,
    /// A line about something else than `TCP4`, `TCP6` or `UNKNOWN`, in upper case.
    Family,
    /// An address that is none of the line's family.
    Address,
    /// A port that is no decimal number up to 65535, without a sign and without zeros before it.
    Port,
    /// The binary form in another version than 2.
    Version(u8),
    /// A command that is neither LOCAL nor PROXY.
    Command(u8),
    /// A byte for the family and the transport that the specification does not have.
    Transport(u8),
    /// A block that is too short for its two addresses, in bytes.
    TooShort(usize),
    /// A block longer than [`MAX_BLOCK`] bytes.
    TooLong(usize),
}

impl ProxyError {
    /// The kind of the error, by which repetitions are counted.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Signature => "no PROXY header",
            Self::LineTooLong => "a PROXY line without an end",
            Self::NoCarriageReturn => "a PROXY line without a carriage return",
            Self::Fields => "a PROXY line with other words",
            Self::Family => "a PROXY line of another family",
            Self::Address => "a PROXY line with a bad address",
            Self::Port => "a PROXY line with a bad port",
            Self::Version(_) => "a PROXY header of another version",
            Self::Command(_) => "a PROXY header with an unknown command",
            Self::Transport(_) => "a PROXY header of an unknown transport",
            Self::TooShort(_) => "a PROXY header that is too short",
            Self::TooLong(_) => "a PROXY header that is too long",
        }
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signature => f.write_str("did not begin with a PROXY header"),
            Self::LineTooLong => write!(f, "sent a PROXY line that does not end within {MAX_V1} bytes"),
            Self::NoCarriageReturn => f.write_str("sent a PROXY line that ends without a carriage return"),
            Self::Fields => f.write_str("sent a PROXY line that is not PROXY, a family, two addresses and two ports"),
            Self::Family => f.write_str("sent a PROXY line that is not about TCP4, TCP6 or UNKNOWN"),
            Self::Address => f.write_str("sent a PROXY line with an address that is none of its family"),
            Self::Port => f.write_str("sent a PROXY line with a port that is no plain number up to 65535"),
            Self::Version(version) => write!(f, "sent a PROXY header of version {version} in the form of version 2"),
            Self::Command(command) => write!(f, "sent a PROXY header with the unknown command {command}"),
            Self::Transport(byte) => write!(f, "sent a PROXY header of the unknown family and transport {byte:#04x}"),
            Self::TooShort(length) => write!(f, "sent a PROXY header whose {length} bytes cannot hold its addresses"),
            Self::TooLong(length) => {
                write!(f, "sent a PROXY header with {length} bytes behind its first 16, and {MAX_BLOCK} are taken")
            }
        }
    }
}

impl std::error::Error for ProxyError {}
