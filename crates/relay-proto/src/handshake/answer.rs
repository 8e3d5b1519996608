//! What the relay answers.

use std::fmt;

use super::line::{first_word, words};
use super::{HELLO, HandshakeError, Id, LineReader, Protocol, Refusal};
use crate::address::parse_port;
use crate::auth::Nonce;

/// What the relay says when a proof is right.
const OK: &str = "ok";

/// One thing that a relay answers. `Display` writes the lines that say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To `relay/1`: what the relay can do beyond the original exchange.
    Features(Features),
    /// To a name: what the client is to prove its token over.
    Nonce(Nonce),
    /// To a proof: it is right.
    Ok,
    /// To a request for a new tunnel.
    Established(Established),
    /// No, to whatever was asked last; the relay closes.
    Refused(Refusal),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Features(features) => writeln!(f, "{HELLO}{features}"),
            Self::Nonce(nonce) => writeln!(f, "{nonce}"),
            Self::Ok => writeln!(f, "{OK}"),
            Self::Established(established) => established.fmt(f),
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

/// What a relay can do beyond the original exchange: words, of which a client ignores those that it does not
/// know. `Display` writes each with a blank before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features(Box<str>);

impl Features {
    /// Clients may prove an identity.
    pub const AUTH: &str = "auth";
    /// A client may demand its public port.
    pub const PORT: &str = "port";
    /// A client may wish for the public port that it had.
    pub const WISH: &str = "wish";
    /// A client may say by a word which service is behind it, to get the port that it had.
    pub const SERVICE: &str = "service";
    /// A client may say from which networks users may come.
    pub const ALLOW: &str = "allow";
    /// A client may end its pool.
    pub const END: &str = "end";
    /// A client may ask to be told where its users are.
    pub const PROXY: &str = "proxy";

    /// These words, together well within a line.
    pub fn new(words: &[&str]) -> Self {
        Self(words.join(" ").into())
    }

    /// Whether the relay has said that word.
    pub fn contains(&self, word: &str) -> bool {
        words(&self.0).any(|feature| feature == word)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        words(&self.0).try_for_each(|word| write!(f, " {word}"))
    }
}

/// What the relay answers to a request for a new tunnel. `Display` writes the lines that say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Established {
    /// The public port.
    pub port: u16,
    /// The pool's name, for a pool; nothing for the others.
    pub pool: Option<Id>,
}

impl fmt::Display for Established {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.port)?;
        self.pool.iter().try_for_each(|id| writeln!(f, "{id}"))
    }
}

/// The client's side: reads the answers, one after the other, each when it is expected.
///
/// Every method takes from `input` what belongs to its answer, and no more: a next answer, or the data phase,
/// may follow in the same slice. It gives `None` when more bytes are needed; call the same method again then.
///
/// # Errors
/// Every method: [`AnswerError`]; the reader is of no use afterwards.
#[derive(Debug, Default)]
pub struct AnswerReader {
    lines: LineReader,
    /// Of a pool whose name has yet to come.
    port: Option<u16>,
}

impl AnswerReader {
    /// The answer to [`Said::Hello`](super::Said::Hello). Anything else comes from no relay of this kind.
    pub fn features(&mut self, input: &mut &[u8]) -> Result<Option<Features>, AnswerError> {
        self.answer(input, |line| match first_word(line) {
            (HELLO, features) => Ok(Features::new(&words(features).collect::<Vec<_>>())),
            _ => Err(HandshakeError::unexpected(line, HELLO)),
        })
    }

    /// The answer to [`Said::Auth`](super::Said::Auth).
    pub fn nonce(&mut self, input: &mut &[u8]) -> Result<Option<Nonce>, AnswerError> {
        self.answer(input, |line| line.parse().map_err(|_| HandshakeError::unexpected(line, "a nonce")))
    }

    /// The answer to [`Said::Proof`](super::Said::Proof).
    pub fn ok(&mut self, input: &mut &[u8]) -> Result<Option<()>, AnswerError> {
        self.answer(input, |line| if line == OK { Ok(()) } else { Err(HandshakeError::unexpected(line, OK)) })
    }

    /// The answer to a request for a new tunnel of that protocol.
    pub fn established(&mut self, protocol: Protocol, input: &mut &[u8]) -> Result<Option<Established>, AnswerError> {
        if self.port.is_none() {
            let port = |line: &str| parse_port(line).ok_or_else(|| HandshakeError::unexpected(line, "a port number"));
            self.port = self.answer(input, port)?;
        }
        let Some(port) = self.port else { return Ok(None) };
        let pool = if protocol == Protocol::Pool {
            let Some(id) = self.answer(input, Id::parse)? else { return Ok(None) };
            Some(id)
        } else {
            None
        };
        self.port = None;
        Ok(Some(Established { port, pool }))
    }

    /// What a relay sends on the control connection of an event tunnel: the ticket of one more user.
    pub fn ticket(&mut self, input: &mut &[u8]) -> Result<Option<Id>, AnswerError> {
        self.answer(input, Id::parse)
    }

    fn answer<T>(
        &mut self,
        input: &mut &[u8],
        take: impl Fn(&str) -> Result<T, HandshakeError>,
    ) -> Result<Option<T>, AnswerError> {
        let Some(line) = self.lines.read(input)? else { return Ok(None) };
        match Refusal::parse(&line) {
            Some(refusal) => Err(refusal.into()),
            None => Ok(Some(take(&line)?)),
        }
    }
}

/// Why an expected answer does not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerError {
    /// The relay says no. Whose fault that is, and whether a later try may work, its code tells.
    Refused(Refusal),
    /// The peer's fault: it does not speak the protocol, and may be no relay.
    Misbehaved(HandshakeError),
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refusal) if refusal.words().is_empty() => write!(f, "refused: {}", refusal.code()),
            Self::Refused(refusal) => write!(f, "refused: {} ({})", refusal.words(), refusal.code()),
            Self::Misbehaved(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for AnswerError {}

impl From<Refusal> for AnswerError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<HandshakeError> for AnswerError {
    fn from(error: HandshakeError) -> Self {
        Self::Misbehaved(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::{Code, MAX_LINE};

    /// Reads all answers of an exchange from pieces of `step` bytes; gives them and the unread rest.
    fn exchange(protocol: Protocol, bytes: &[u8], step: usize) -> Result<(Vec<Answer>, Vec<u8>), AnswerError> {
        let mut reader = AnswerReader::default();
        let mut answers = Vec::new();
        for (at, mut input) in bytes.chunks(step).enumerate() {
            loop {
                let answer = match answers.len() {
                    0 => reader.features(&mut input)?.map(Answer::Features),
                    1 => reader.nonce(&mut input)?.map(Answer::Nonce),
                    2 => reader.ok(&mut input)?.map(|()| Answer::Ok),
                    3 => reader.established(protocol, &mut input)?.map(Answer::Established),
                    _ => return Ok((answers, [input, &bytes[bytes.len().min((at + 1) * step)..]].concat())),
                };
                let Some(answer) = answer else { break };
                answers.push(answer);
            }
            assert!(input.is_empty(), "what is not yet a line is kept by the reader");
        }
        Ok((answers, Vec::new()))
    }

    fn all(pool: Option<Id>) -> Vec<Answer> {
        vec![
            Answer::Features(Features::new(&[Features::AUTH, Features::PORT, Features::WISH, Features::ALLOW])),
            Answer::Nonce(Nonce::from_random([3; 32])),
            Answer::Ok,
            Answer::Established(Established { port: 65535, pool }),
        ]
    }

    fn write(answers: &[Answer]) -> String {
        answers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn answers_are_read_as_written_and_the_rest_is_kept() {
        let id = Id::from_random(7);
        for (protocol, pool) in [(Protocol::Multiplex, None), (Protocol::Pool, Some(id)), (Protocol::Event, None)] {
            let answers = all(pool);
            let bytes = write(&answers) + "rest";
            for step in 1..=bytes.len() {
                let (got, rest) = exchange(protocol, bytes.as_bytes(), step).unwrap();
                assert_eq!((got.as_slice(), rest.as_slice()), (answers.as_slice(), b"rest".as_slice()));
            }
        }
    }

    #[test]
    fn a_refusal_may_come_instead_of_any_answer() {
        let answers = all(Some(Id::from_random(7)));
        let refusal = Refusal::new(Code::Stopping, "back soon");
        for before in 0..4 {
            let bytes = write(&answers[..before]) + &Answer::Refused(refusal.clone()).to_string();
            let refused = exchange(Protocol::Pool, bytes.as_bytes(), 1);
            assert_eq!(refused, Err(AnswerError::Refused(refusal.clone())), "{bytes}");
        }
        let bytes = write(&answers[..3]) + "1235\nerror stopping back soon\n";
        assert_eq!(exchange(Protocol::Pool, bytes.as_bytes(), 1), Err(AnswerError::Refused(refusal)));
    }

    #[test]
    fn tickets_come_one_after_the_other_until_a_refusal() {
        let mut reader = AnswerReader::default();
        let mut input = b"A\n B \nerror revoked\n".as_slice();
        assert_eq!(reader.ticket(&mut input), Ok(Some(Id::parse("A").unwrap())));
        assert_eq!(reader.ticket(&mut input), Ok(Some(Id::parse("B").unwrap())));
        assert_eq!(reader.ticket(&mut input), Err(Refusal::new(Code::Revoked, "").into()));
    }

    #[test]
    fn features_are_a_set_of_words() {
        let features =
            AnswerReader::default().features(&mut b"relay/1  auth\tallow new-one \r\n".as_slice()).unwrap().unwrap();
        assert!(
            features.contains(Features::AUTH) && features.contains(Features::ALLOW) && features.contains("new-one")
        );
        assert!(!features.contains(Features::PORT) && !features.contains("") && !features.contains("new"));
        assert_eq!(AnswerReader::default().features(&mut b"relay/1\n".as_slice()), Ok(Some(Features::default())));
    }

    #[test]
    fn who_answers_otherwise_is_no_relay_of_ours() {
        for bad in ["", "relay/2 auth", "relay/1,auth", "1235", "HTTP/1.1 400 Bad Request", "ok", "error"] {
            let answer = AnswerReader::default().features(&mut format!("{bad}\n").as_bytes());
            assert_eq!(answer, Err(HandshakeError::unexpected(bad, "relay/1").into()));
        }
        for bad in ["OK", "ok ok", "1235"] {
            assert!(AnswerReader::default().ok(&mut format!("{bad}\n").as_bytes()).is_err());
            assert!(AnswerReader::default().nonce(&mut format!("{bad}\n").as_bytes()).is_err());
        }
        let endless = AnswerReader::default().features(&mut [b'x'; 2 * MAX_LINE].as_slice());
        assert_eq!(endless, Err(HandshakeError::LineTooLong(MAX_LINE).into()));
    }

    #[test]
    fn a_port_is_a_decimal_number() {
        for bad in ["", "0", "65536", "-1", "+80", "0x50", "80 81", "HTTP/1.1 400 Bad Request"] {
            let answer = AnswerReader::default().established(Protocol::Event, &mut format!("{bad}\n").as_bytes());
            assert_eq!(answer, Err(HandshakeError::unexpected(bad, "a port number").into()));
        }
    }

    #[test]
    fn errors_show_peers_bytes_escaped() {
        for bad in [&b"\x1b[31m\x07\n"[..], b"error \x1b[31m\n", b"error \x1b[31m \x07\n"] {
            let error = AnswerReader::default().features(&mut &bad[..]).unwrap_err().to_string();
            assert!(error.chars().all(|c| !c.is_control()), "{error:?}");
        }
    }
}
