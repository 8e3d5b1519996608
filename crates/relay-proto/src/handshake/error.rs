//! What a peer may not say.

use std::fmt;

use super::{Code, MAX_NETWORKS, Refusal};
use crate::identity::IdentityError;
use crate::proxy::ProxyError;

/// How many characters of a peer's word an error keeps: enough to recognise it in a log.
const MAX_SHOWN: usize = 64;

/// The peer's side of the exchange was not as the protocol has it. Always the peer's fault; the same
/// peer would fail again. Says nothing that may be secret, and shows what the peer sent escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// No newline within that many bytes.
    LineTooLong(usize),
    /// A line that is not UTF-8.
    NotText,
    /// A word that no protocol has, or an option that no request has.
    Unknown(Box<str>),
    /// A word in a place for another.
    Unexpected {
        /// The word, cut if it is long.
        word: Box<str>,
        /// What belongs there.
        wanted: &'static str,
    },
    /// An id that is not one printable word.
    BadId,
    /// What goes with an id is not a count and a seal.
    BadSeal,
    /// What no identity can be called.
    BadName,
    /// A proof that is not 32 bytes in base64url.
    BadProof,
    /// An option that only one can be of, twice.
    Repeated(&'static str),
    /// More than [`MAX_NETWORKS`] networks.
    TooManyNetworks,
    /// What is to say where a user is does not.
    BadProxy(ProxyError),
    /// Options with an id: a tunnel that stands takes none.
    LateOptions,
}

impl HandshakeError {
    pub(super) fn unknown(word: &str) -> Self {
        Self::Unknown(shown(word))
    }

    pub(super) fn unexpected(word: &str, wanted: &'static str) -> Self {
        Self::Unexpected { word: shown(word), wanted }
    }

    /// What the error is called in an answer.
    pub fn code(&self) -> Code {
        match self {
            Self::Unknown(_) => Code::Unsupported,
            _ => Code::BadRequest,
        }
    }

    /// The answer to a client that said this. The words of [`Code::Unsupported`] are the word alone, so that a
    /// program can read them.
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Unknown(word) => Refusal::new(self.code(), word),
            _ => Refusal::new(self.code(), format_args!("the client {self}")),
        }
    }
}

fn shown(word: &str) -> Box<str> {
    match word.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &word[..end]).into(),
        None => word.into(),
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LineTooLong(limit) => write!(f, "sent a line longer than {limit} bytes"),
            Self::NotText => f.write_str("sent a line that is not UTF-8"),
            Self::Unknown(word) => write!(f, "sent {word:?}, which is no protocol's word"),
            Self::Unexpected { word, wanted } => write!(f, "sent {word:?} where {wanted} belongs"),
            Self::BadId => f.write_str("sent an id that is not one printable word"),
            Self::BadSeal => f.write_str("sent an id with something else than a count and a seal of 43 characters"),
            Self::BadName => write!(f, "sent no identity's name: {}", IdentityError::Name),
            Self::BadProof => f.write_str("sent a proof that is not 43 characters of base64url"),
            Self::Repeated(option) => write!(f, "gave the option {option} twice"),
            Self::TooManyNetworks => write!(f, "allowed more than {MAX_NETWORKS} networks"),
            Self::BadProxy(error) => error.fmt(f),
            Self::LateOptions => f.write_str("gave options to a tunnel that stands already"),
        }
    }
}

impl std::error::Error for HandshakeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_sent_is_escaped_and_cut() {
        let error = HandshakeError::unknown(&"\x1b\u{202e}ä".repeat(500));
        let text = error.to_string();
        assert!(text.chars().all(|c| !c.is_control() && c != '\u{202e}') && text.len() < 1000, "{text:?}");
        assert!(error.refusal().to_string().starts_with("error unsupported \\u{1b}\\u{202e}ä"));
    }

    #[test]
    fn an_answer_names_the_unknown_word_alone() {
        assert_eq!(HandshakeError::unknown("udp").refusal().to_string(), "error unsupported udp\n");
        let error = HandshakeError::unexpected("0", "a port number");
        let words = "error bad-request the client sent \"0\" where a port number belongs\n";
        assert_eq!(error.refusal().to_string(), words);
    }
}
