//! The lines of text at the start of every control connection.
//!
//! A client sends words, each on a line of its own; the relay answers with a port and ids, or closes. That is
//! the original exchange, and all of it. A client that begins with `relay/1` may say more, and is told why
//! when it is refused: docs/PROTOCOL.md has the whole of it.
//!
//! Readers here are incremental: give them what arrived, in pieces of any size. What follows the last
//! line of the exchange belongs to the data phase and stays in the caller's slice.
//!
//! ```text
//!  line.rs       one line at a time
//!  said.rs       what a client says: Said, and the relay's reader for it
//!  options.rs      what it may want of a new tunnel
//!  answer.rs     what the relay answers: Answer, and the client's reader for it
//!  refusal.rs      why it says no: Code
//!  error.rs      what is neither
//! ```

mod answer;
mod error;
mod line;
mod options;
mod refusal;
mod said;

use std::fmt;
use std::str::FromStr;

pub use answer::{Answer, AnswerError, AnswerReader, Established, Features};
pub use error::HandshakeError;
pub use line::{LineReader, MAX_LINE, MAX_REQUEST_LINE};
pub use options::{MAX_NETWORKS, MAX_SERVICE, Options};
pub use refusal::{Code, MAX_WORDS, Refusal};
pub use said::{ClientReader, Request, Said, Seal};

/// The first line of a client that speaks more than the original exchange, and the first word of the answer.
const HELLO: &str = "relay/1";

/// The three ways in which a service can take users from a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// One link that carries every user as a yamux stream.
    Multiplex,
    /// Spare connections, each of which becomes one user's.
    Pool,
    /// A control connection that announces each user, who is then claimed by a new connection.
    Event,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Multiplex => "multiplex",
            Self::Pool => "pool",
            Self::Event => "event",
        })
    }
}

impl FromStr for Protocol {
    type Err = HandshakeError;

    fn from_str(word: &str) -> Result<Self, HandshakeError> {
        match word {
            "multiplex" => Ok(Self::Multiplex),
            "pool" => Ok(Self::Pool),
            "event" => Ok(Self::Event),
            _ => Err(HandshakeError::unknown(word)),
        }
    }
}

/// The name of a pool or the ticket of a waiting user: one opaque word that the relay made.
///
/// Whoever knows it may join or claim, so it is as secret as what it names, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Id(Box<str>);

impl Id {
    /// An id of 32 upper-case hexadecimal digits. `random` must come from a cryptographic generator.
    pub fn from_random(random: u128) -> Self {
        Self(format!("{random:032X}").into())
    }

    /// Takes an id from the wire: one word without blanks or control characters.
    pub fn parse(word: &str) -> Result<Self, HandshakeError> {
        let printable = word.chars().all(|c| !c.is_whitespace() && !c.is_control());
        if word.is_empty() || word == "new" || !printable {
            return Err(HandshakeError::BadId);
        }
        Ok(Self(word.into()))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Id(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIFICATION: &str = include_str!("../../../docs/PROTOCOL.md");

    /// What the client says on a connection is as the reader takes it, or is refused as shown.
    fn assert_conversation(lines: &[&str]) {
        let said: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("→ ")).collect();
        let said = said.join("\n") + "\n";
        let answers: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("← ")).collect();
        let mut input = said.as_bytes();
        let mut reader = ClientReader::default();
        loop {
            match reader.read(&mut input) {
                Ok(Some(Said::Request(..))) => return assert!(input.is_empty(), "{lines:?}"),
                Ok(said) => assert!(said.is_some(), "unfinished: {lines:?}"),
                Err(error) => return assert!(answers.contains(&error.refusal().to_string().trim_end()), "{lines:?}"),
            }
        }
    }

    #[test]
    fn transcripts_are_as_specified() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/transcripts");
        let mut conversations = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            for part in text.split("\n\n") {
                // The first connection begins at the margin; what follows a remark on it are no lines any more.
                let has_arrow = |line: &&str| line.trim_start().starts_with(['→', '←']);
                let begins = part.lines().skip_while(|line| !has_arrow(line));
                let first: Vec<&str> = begins.clone().take_while(|line| line.starts_with(['→', '←'])).collect();
                let second: Vec<&str> =
                    begins.filter(|line| line.starts_with(' ')).map(str::trim).filter(has_arrow).collect();
                for lines in [first, second].iter().filter(|lines| !lines.is_empty()) {
                    assert_conversation(lines);
                    conversations += 1;
                }
            }
        }
        assert_eq!(conversations, 23);
    }

    #[test]
    fn codes_are_as_specified() {
        for code in Code::KNOWN {
            let row = format!("| `{code}` | {} |", if code.is_temporary() { "temporary" } else { "final" });
            assert!(SPECIFICATION.contains(&row), "{row}");
        }
    }

    #[test]
    fn ids_are_32_digits_and_hidden_in_logs() {
        let id = Id::from_random(0xAB_CDEF);
        assert_eq!(id.to_string(), "00000000000000000000000000ABCDEF");
        assert!(!format!("{id:?}").contains("ABCDEF"));
    }
}
