//! Why a relay says no.

use std::fmt;

use super::line::first_word;

/// The most bytes of words that an answer has: a sentence, and with its code well within a line.
pub const MAX_WORDS: usize = 256;

/// The word with which a refusal begins.
pub(super) const ERROR: &str = "error";

/// Why a relay refuses a client, as a word that programs can tell apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The relay does not know a word that the client sent.
    Unsupported,
    /// What the client sent is not the protocol.
    BadRequest,
    /// The relay serves only clients that prove an identity.
    IdentityRequired,
    /// The name is unknown, the proof is wrong, or the identity is no longer valid: which, it does not say.
    Denied,
    /// The proof is right, but the identity was revoked.
    Revoked,
    /// The proof is right, but the identity has expired.
    Expired,
    /// The relay takes this client over TLS only.
    TlsRequired,
    /// The demanded port is none that this client may have.
    PortNotAllowed,
    /// The demanded port is somebody's.
    PortTaken,
    /// None of the ports that this client may have is free.
    NoPort,
    /// The identity has as many tunnels as it may.
    TooManyTunnels,
    /// Too many connections, or too many failed tries, from the client's address.
    Busy,
    /// The exchange took too long.
    Late,
    /// The relay is shutting down.
    Stopping,
    /// The ticket or the pool does not exist, or no longer.
    Gone,
    /// A code that this program does not know, without what could harm a terminal.
    Other(Box<str>),
}

impl Code {
    /// All that have a meaning here.
    pub const KNOWN: [Self; 15] = [
        Self::Unsupported,
        Self::BadRequest,
        Self::IdentityRequired,
        Self::Denied,
        Self::Revoked,
        Self::Expired,
        Self::TlsRequired,
        Self::PortNotAllowed,
        Self::PortTaken,
        Self::NoPort,
        Self::TooManyTunnels,
        Self::Busy,
        Self::Late,
        Self::Stopping,
        Self::Gone,
    ];

    /// The word on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Unsupported => "unsupported",
            Self::BadRequest => "bad-request",
            Self::IdentityRequired => "identity-required",
            Self::Denied => "denied",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::TlsRequired => "tls-required",
            Self::PortNotAllowed => "port-not-allowed",
            Self::PortTaken => "port-taken",
            Self::NoPort => "no-port",
            Self::TooManyTunnels => "too-many-tunnels",
            Self::Busy => "busy",
            Self::Late => "late",
            Self::Stopping => "stopping",
            Self::Gone => "gone",
            Self::Other(word) => word,
        }
    }

    /// Whether the same request may succeed later. Otherwise something must be changed first. An unknown code
    /// is temporary: giving up is what cannot be taken back.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unsupported
            | Self::BadRequest
            | Self::IdentityRequired
            | Self::Denied
            | Self::Revoked
            | Self::Expired
            | Self::TlsRequired
            | Self::PortNotAllowed => false,
            Self::PortTaken
            | Self::NoPort
            | Self::TooManyTunnels
            | Self::Busy
            | Self::Late
            | Self::Stopping
            | Self::Gone
            | Self::Other(_) => true,
        }
    }

    fn parse(word: &str) -> Self {
        let known = Self::KNOWN.into_iter().find(|code| code.as_str() == word);
        known.unwrap_or_else(|| Self::Other(harmless(word, MAX_CODE)))
    }
}

/// The most bytes of a code: more than any has.
const MAX_CODE: usize = 64;

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A relay's no. `Display` writes the line that says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    code: Code,
    words: Box<str>,
}

impl Refusal {
    /// A refusal with its reason in words. What is no printable character in them is escaped, and what is
    /// more than [`MAX_WORDS`] bytes is cut.
    pub fn new(code: Code, words: impl fmt::Display) -> Self {
        Self { code, words: harmless(words.to_string().trim(), MAX_WORDS) }
    }

    /// Which it is.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// The reason in words, for a person; printable whoever sent it. May be empty.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// Takes a refusal from a line; `None` when the line is none.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (error, rest) = first_word(line);
        let (code, words) = first_word(rest);
        (error == ERROR && !code.is_empty()).then(|| Self::new(Code::parse(code), words))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, words } = self;
        if words.is_empty() { writeln!(f, "{ERROR} {code}") } else { writeln!(f, "{ERROR} {code} {words}") }
    }
}

/// At most `limit` bytes of a text that may come from anyone, fit for a terminal: control characters, and those
/// that are invisible or turn the direction of writing, are escaped as in Rust. Making it so twice changes nothing.
fn harmless(text: &str, limit: usize) -> Box<str> {
    const CUT: char = '…';
    let mut shown = String::new();
    for c in text.chars() {
        // These are escaped only where quotes are around.
        if matches!(c, '"' | '\'' | '\\') {
            shown.push(c);
        } else {
            shown.extend(c.escape_debug());
        }
        if shown.len() > limit {
            shown.truncate(shown.floor_char_boundary(limit - CUT.len_utf8()));
            shown.push(CUT);
            break;
        }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read_as_written() {
        for code in Code::KNOWN {
            for words in ["", "port 80 is not yours", "größe \"x\" it's a \\ one"] {
                let refusal = Refusal::new(code.clone(), words);
                let line = refusal.to_string();
                assert_eq!(refusal.words(), words);
                assert_eq!(Refusal::parse(line.trim_end()), Some(refusal), "{line}");
            }
        }
    }

    #[test]
    fn an_unknown_code_is_temporary_and_kept() {
        let refusal = Refusal::parse("error  quota-exceeded \t come back  tomorrow").unwrap();
        assert_eq!((refusal.code(), refusal.words()), (&Code::Other("quota-exceeded".into()), "come back  tomorrow"));
        assert!(refusal.code().is_temporary());
        assert!(!Code::Denied.is_temporary() && Code::Busy.is_temporary());
    }

    #[test]
    fn other_lines_are_no_refusal() {
        for line in ["", "error", "error ", "errors denied", "Error denied", "1235"] {
            assert_eq!(Refusal::parse(line), None, "{line}");
        }
    }

    #[test]
    fn words_cannot_harm_a_terminal() {
        let nasty = "\x1b[31m\r\x07\u{202e}\u{2066}\u{200b}\u{feff}\u{85}\u{2028}\0".repeat(100);
        for refusal in [
            Refusal::new(Code::Busy, &nasty),
            Refusal::parse(&format!("error {nasty} {nasty}")).unwrap(),
            Refusal::new(Code::Busy, "a\nerror denied"),
        ] {
            let line = refusal.to_string();
            let printable = |c: char| !c.is_control() && c.escape_debug().count() == 1;
            assert!(line.trim_end_matches('\n').chars().all(|c| printable(c) || c == '\\'), "{line:?}");
            assert!(refusal.words().len() <= MAX_WORDS && line.len() < super::super::MAX_LINE);
            assert_eq!(Refusal::parse(line.trim_end()), Some(refusal));
        }
    }
}
