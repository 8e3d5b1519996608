//! The lines of text at the start of every control connection.
//!
//! A client sends words, each on a line of its own; the relay answers with a port and ids, or closes.
//! Readers here are incremental: give them what arrived, in pieces of any size. What follows the last
//! line of the exchange belongs to the data phase and stays in the caller's slice.

use std::fmt;
use std::str::FromStr;

/// The longest line either side may send, in bytes, newline included.
///
/// Far above any line of the protocol (an id has 32 digits), far below what would hurt to hold for
/// each of a thousand pending handshakes.
pub const MAX_LINE: usize = 512;

/// The three ways in which a service can take users from a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
            _ => Err(HandshakeError::Unknown(word.into())),
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

/// What a client asks of the relay. `Display` writes the lines that say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A tunnel whose users come as streams of this connection.
    Multiplex,
    /// A new pool, with this connection as its first member.
    PoolNew,
    /// This connection is one more member of that pool.
    PoolJoin(Id),
    /// A tunnel whose users are announced on this connection.
    EventNew,
    /// This connection is for the user who holds that ticket.
    EventClaim(Id),
}

impl Request {
    /// The protocol that the request belongs to.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Multiplex => Protocol::Multiplex,
            Self::PoolNew | Self::PoolJoin(_) => Protocol::Pool,
            Self::EventNew | Self::EventClaim(_) => Protocol::Event,
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Multiplex => f.write_str("multiplex\n"),
            Self::PoolNew => f.write_str("pool\nnew\n"),
            Self::PoolJoin(id) => write!(f, "pool\n{id}\n"),
            Self::EventNew => f.write_str("event\nnew\n"),
            Self::EventClaim(id) => write!(f, "event\n{id}\n"),
        }
    }
}

/// The peer's side of the exchange was not as the protocol has it. Always the peer's fault; the same
/// peer would fail again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// No newline within [`MAX_LINE`] bytes.
    LineTooLong,
    /// A line that is not UTF-8.
    NotText,
    /// A word that no protocol has.
    Unknown(Box<str>),
    /// A port that is not a decimal number from 1 to 65535.
    BadPort(Box<str>),
    /// An id that is not one printable word.
    BadId,
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LineTooLong => write!(f, "sent a line longer than {MAX_LINE} bytes"),
            Self::NotText => f.write_str("sent a line that is not UTF-8"),
            Self::Unknown(word) => write!(f, "sent {word:?}, which is no protocol's word"),
            Self::BadPort(word) => write!(f, "sent {word:?} where a port number belongs"),
            Self::BadId => f.write_str("sent an id that is not one printable word"),
        }
    }
}

impl std::error::Error for HandshakeError {}

/// Collects one line at a time from pieces of any size.
#[derive(Debug, Default)]
pub struct LineReader {
    line: Vec<u8>,
}

impl LineReader {
    /// Takes bytes from `input` up to and including the next newline. Gives the line without its
    /// newline and without blanks, tabs and a carriage return around it; `None` when `input` ended first.
    ///
    /// # Errors
    /// [`HandshakeError::LineTooLong`] and [`HandshakeError::NotText`]; the reader is of no use afterwards.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<String>, HandshakeError> {
        let room = MAX_LINE - self.line.len();
        let window = &input[..input.len().min(room)];
        let newline = window.iter().position(|&byte| byte == b'\n');
        let taken = newline.map_or(window.len(), |at| at + 1);
        self.line.extend_from_slice(&window[..taken]);
        *input = &input[taken..];
        if newline.is_none() {
            return if self.line.len() < MAX_LINE { Ok(None) } else { Err(HandshakeError::LineTooLong) };
        }
        let line = std::mem::take(&mut self.line);
        let text = str::from_utf8(&line).map_err(|_| HandshakeError::NotText)?;
        Ok(Some(text.trim_matches([' ', '\t', '\r', '\n']).to_owned()))
    }
}

/// The relay's side: reads what a client asks for.
#[derive(Debug, Default)]
pub struct RequestReader {
    lines: LineReader,
    protocol: Option<Protocol>,
}

impl RequestReader {
    /// Takes from `input` what belongs to the request. `None` when more bytes are needed; once a
    /// request is given, `input` holds the first bytes of the data phase.
    ///
    /// # Errors
    /// What the client sent is no request; the only answer the protocol has is to close.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Request>, HandshakeError> {
        while let Some(word) = self.lines.read(input)? {
            let request = match self.protocol {
                None => match word.parse()? {
                    Protocol::Multiplex => Request::Multiplex,
                    protocol => {
                        self.protocol = Some(protocol);
                        continue;
                    }
                },
                Some(Protocol::Event) if word == "new" => Request::EventNew,
                Some(Protocol::Event) => Request::EventClaim(Id::parse(&word)?),
                Some(_) if word == "new" => Request::PoolNew,
                Some(_) => Request::PoolJoin(Id::parse(&word)?),
            };
            return Ok(Some(request));
        }
        Ok(None)
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

/// The client's side: reads the answer to a request for a new tunnel.
#[derive(Debug)]
pub struct EstablishedReader {
    lines: LineReader,
    wants_pool: bool,
    port: Option<u16>,
}

impl EstablishedReader {
    /// A reader for the answer that `protocol` has.
    pub fn new(protocol: Protocol) -> Self {
        Self { lines: LineReader::default(), wants_pool: protocol == Protocol::Pool, port: None }
    }

    /// Takes from `input` what belongs to the answer. `None` when more bytes are needed; once an
    /// answer is given, `input` holds what the relay sent next.
    ///
    /// # Errors
    /// The peer is no relay.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Established>, HandshakeError> {
        while let Some(word) = self.lines.read(input)? {
            match self.port {
                None => {
                    let digits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
                    let port = word.parse().ok().filter(|&port: &u16| digits && port != 0);
                    let port = port.ok_or_else(|| HandshakeError::BadPort(word.into()))?;
                    if !self.wants_pool {
                        return Ok(Some(Established { port, pool: None }));
                    }
                    self.port = Some(port);
                }
                Some(port) => {
                    return Ok(Some(Established { port, pool: Some(Id::parse(&word)?) }));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` in pieces of `step`; gives the request and the unread rest.
    fn request(bytes: &[u8], step: usize) -> Result<Option<(Request, Vec<u8>)>, HandshakeError> {
        let mut reader = RequestReader::default();
        for (at, piece) in bytes.chunks(step).enumerate() {
            let mut input = piece;
            if let Some(request) = reader.read(&mut input)? {
                let rest = [input, &bytes[(at * step + piece.len())..]].concat();
                return Ok(Some((request, rest)));
            }
            assert!(input.is_empty(), "what is not yet a request is kept by the reader");
        }
        Ok(None)
    }

    #[test]
    fn every_request_split_anywhere_keeps_the_rest() {
        let id = || Id::parse("0123456789").unwrap();
        let all = [
            Request::Multiplex,
            Request::PoolNew,
            Request::PoolJoin(id()),
            Request::EventNew,
            Request::EventClaim(id()),
        ];
        for wanted in all {
            let mut bytes = wanted.to_string().into_bytes();
            bytes.extend_from_slice(b"data\nphase");
            for step in 1..=bytes.len() {
                let (got, rest) = request(&bytes, step).unwrap().unwrap();
                assert_eq!((&got, rest.as_slice()), (&wanted, b"data\nphase".as_slice()));
                assert_eq!(got.protocol(), wanted.protocol());
            }
        }
    }

    #[test]
    fn blanks_and_carriage_returns_are_skipped() {
        let (got, rest) = request(b" \tevent \r\n\t new\t\r\n\r\n", 3).unwrap().unwrap();
        assert_eq!((got, rest.as_slice()), (Request::EventNew, b"\r\n".as_slice()));
    }

    #[test]
    fn what_is_no_request_is_an_error() {
        let unknown = |word: &str| Err(HandshakeError::Unknown(word.into()));
        assert_eq!(request(b"\n", 1), unknown(""));
        assert_eq!(request(b"Multiplex\n", 1), unknown("Multiplex"));
        assert_eq!(request(b"multiplex now\n", 1), unknown("multiplex now"));
        assert_eq!(request(b"a\0b\n", 1), unknown("a\0b"));
        assert_eq!(request("größe\n".as_bytes(), 1), unknown("größe"));
        assert_eq!(request(b"\xff\n", 1), Err(HandshakeError::NotText));
        assert_eq!(request(b"pool\n\n", 1), Err(HandshakeError::BadId));
        assert_eq!(request(b"event\na b\n", 1), Err(HandshakeError::BadId));
        assert_eq!(request(b"event\na\x1bb\n", 1), Err(HandshakeError::BadId));
        assert_eq!(request(b"pool\nnew", 1), Ok(None));
    }

    #[test]
    fn a_line_ends_within_its_limit() {
        for step in [1, 7, 4096] {
            let longest = [&vec![b'x'; MAX_LINE - 1][..], b"\n"].concat();
            assert!(matches!(request(&longest, step), Err(HandshakeError::Unknown(_))));
            let endless = vec![b'x'; 1 << 20];
            assert_eq!(request(&endless, step), Err(HandshakeError::LineTooLong));
        }
    }

    #[test]
    fn errors_show_peers_bytes_escaped() {
        let error = request(b"\x1b[31m\x07\n", 64).unwrap_err().to_string();
        assert!(error.chars().all(|c| !c.is_control()), "{error:?}");
    }

    #[test]
    fn answers_come_back_as_written() {
        let pool = Established { port: 1235, pool: Some(Id::from_random(7)) };
        let plain = Established { port: 65535, pool: None };
        for (protocol, answer) in [(Protocol::Pool, &pool), (Protocol::Event, &plain), (Protocol::Multiplex, &plain)] {
            let bytes = format!("{answer}rest");
            for step in 1..=bytes.len() {
                let mut reader = EstablishedReader::new(protocol);
                let mut got = None;
                let mut left = bytes.as_bytes();
                while got.is_none() {
                    let (mut piece, later) = left.split_at(step.min(left.len()));
                    got = reader.read(&mut piece).unwrap();
                    left = &bytes.as_bytes()[bytes.len() - later.len() - piece.len()..];
                }
                assert_eq!((got.as_ref(), left), (Some(answer), b"rest".as_slice()));
            }
        }
    }

    #[test]
    fn a_port_is_a_decimal_number() {
        for bad in ["", "0", "65536", "-1", "+80", "0x50", "80 81", "HTTP/1.1 400 Bad Request"] {
            let mut reader = EstablishedReader::new(Protocol::Event);
            let line = format!("{bad}\n");
            assert_eq!(reader.read(&mut line.as_bytes()), Err(HandshakeError::BadPort(bad.into())));
        }
    }

    #[test]
    fn ids_are_32_digits_and_hidden_in_logs() {
        let id = Id::from_random(0xAB_CDEF);
        assert_eq!(id.to_string(), "00000000000000000000000000ABCDEF");
        assert!(!format!("{id:?}").contains("ABCDEF"));
    }
}
