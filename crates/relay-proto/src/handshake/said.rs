//! What a client says.

use std::fmt;

use super::line::{first_word, words};
use super::{HELLO, HandshakeError, Id, LineReader, MAX_LINE, MAX_REQUEST_LINE, Options, Protocol};
use crate::auth::Proof;
use crate::identity::Name;

/// The word before a name.
const AUTH: &str = "auth";

/// The word that asks for a new tunnel where an id could stand.
const NEW: &str = "new";

/// The word before the id of a pool that is to end.
const END: &str = "end";

/// One thing that a client says. `Display` writes the lines that say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// That it speaks more than the original exchange, and takes errors for an answer.
    Hello,
    /// Who it is.
    Auth(Name),
    /// The answer to the relay's nonce.
    Proof(Proof),
    /// What it wants. Options go with a new tunnel only.
    Request(Request, Options),
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello => writeln!(f, "{HELLO}"),
            Self::Auth(name) => writeln!(f, "{AUTH} {name}"),
            Self::Proof(proof) => writeln!(f, "{proof}"),
            Self::Request(request, options) => request.write(f, options),
        }
    }
}

/// What a client asks of the relay. `Display` writes the lines that say it without options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A tunnel whose users come as streams of this connection.
    Multiplex,
    /// A new pool, with this connection as its first member.
    PoolNew,
    /// This connection is one more member of that pool.
    PoolJoin(Id, Option<Seal>),
    /// That pool is to take no more users: its port closes, its idle members with it. Users who have a member stay.
    PoolEnd(Id, Option<Seal>),
    /// A tunnel whose users are announced on this connection.
    EventNew,
    /// This connection is for the user who holds that ticket.
    EventClaim(Id, Option<Seal>),
}

/// What shows, in plain text, that an id is used by the identity that it was given to:
/// [`SessionKey::seal`](crate::auth::SessionKey::seal) makes it. Over TLS nobody else can have heard the id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Which seal of its session it is: the relay takes none twice.
    pub count: u64,
    /// The seal of the id and the count.
    pub proof: Proof,
}

impl Request {
    /// The request for a new tunnel of that protocol.
    pub fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Multiplex => Self::Multiplex,
            Protocol::Pool => Self::PoolNew,
            Protocol::Event => Self::EventNew,
        }
    }

    /// The protocol that the request belongs to.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Multiplex => Protocol::Multiplex,
            Self::PoolNew | Self::PoolJoin(..) | Self::PoolEnd(..) => Protocol::Pool,
            Self::EventNew | Self::EventClaim(..) => Protocol::Event,
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, options: &Options) -> fmt::Result {
        let protocol = self.protocol();
        match self {
            Self::Multiplex => writeln!(f, "{protocol}{options}"),
            Self::PoolNew | Self::EventNew => writeln!(f, "{protocol}{options}\n{NEW}"),
            Self::PoolJoin(id, seal) | Self::EventClaim(id, seal) => {
                writeln!(f, "{protocol}\n{id}{}", Sealed(seal.as_ref()))
            }
            Self::PoolEnd(id, seal) => writeln!(f, "{protocol}\n{END} {id}{}", Sealed(seal.as_ref())),
        }
    }
}

/// What stands behind an id.
struct Sealed<'a>(Option<&'a Seal>);

impl fmt::Display for Sealed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |Seal { count, proof }| write!(f, " {count} {proof}"))
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &Options::default())
    }
}

/// The relay's side: reads what a client says, and that it comes in order.
///
/// ```text
///  ──┬──────────────────────────────────────┬──▶ Request
///    └─▶ Hello ──┬──────────────────────────┤
///                └─▶ Auth ──▶ Proof ────────┘
/// ```
#[derive(Debug, Default)]
pub struct ClientReader {
    lines: LineReader,
    next: Next,
    greeted: bool,
}

/// What the next line may be.
#[derive(Debug, Default)]
enum Next {
    /// A greeting, or a protocol of the original exchange.
    #[default]
    First,
    /// A name, or a protocol.
    Greeted,
    Proof,
    /// A protocol, after a proof.
    Proved,
    /// `new` or an id, after a protocol.
    Which(Protocol, Options),
}

impl ClientReader {
    /// Takes from `input` what belongs to the next thing said, and no more. `None` when more bytes are needed;
    /// once a request is given, `input` holds the first bytes of the data phase.
    ///
    /// # Errors
    /// What the client sent is not the protocol, or not in this order. The answer is
    /// [`HandshakeError::refusal`] if the client [took errors for an answer](Self::spoke_relay1), then a close.
    /// The reader is of no use afterwards.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Said>, HandshakeError> {
        while let Some(line) = self.lines.read_within(self.limit(), input)? {
            if let Some(said) = self.take(&line)? {
                return Ok(Some(said));
            }
        }
        Ok(None)
    }

    /// Whether the client began with `relay/1`: otherwise no answer but a close is understood.
    pub fn spoke_relay1(&self) -> bool {
        self.greeted
    }

    /// The longest line that may come next.
    fn limit(&self) -> usize {
        match self.next {
            Next::Greeted | Next::Proved => MAX_REQUEST_LINE,
            Next::First | Next::Proof | Next::Which(..) => MAX_LINE,
        }
    }

    fn take(&mut self, line: &str) -> Result<Option<Said>, HandshakeError> {
        Ok(match (std::mem::take(&mut self.next), first_word(line)) {
            (Next::First, _) if line == HELLO => {
                self.greeted = true;
                self.next = Next::Greeted;
                Some(Said::Hello)
            }
            // The original exchange has one word on a line.
            (Next::First, _) => self.protocol(line.parse()?, Options::default()),
            (Next::Greeted, (AUTH, name)) => {
                self.next = Next::Proof;
                Some(Said::Auth(name.parse().map_err(|_| HandshakeError::BadName)?))
            }
            (Next::Proof, _) => {
                self.next = Next::Proved;
                Some(Said::Proof(line.parse().map_err(|_| HandshakeError::BadProof)?))
            }
            (Next::Greeted | Next::Proved, (word @ (HELLO | AUTH), _)) => {
                return Err(HandshakeError::unexpected(word, "a protocol"));
            }
            (Next::Greeted | Next::Proved, (word, options)) => self.protocol(word.parse()?, Options::parse(options)?),
            (Next::Which(Protocol::Pool, options), _) if line == NEW => Some(Said::Request(Request::PoolNew, options)),
            (Next::Which(_, options), _) if line == NEW => Some(Said::Request(Request::EventNew, options)),
            (Next::Which(_, options), _) if options != Options::default() => return Err(HandshakeError::LateOptions),
            (Next::Which(Protocol::Pool, options), (END, rest)) if !rest.is_empty() => {
                let (id, seal) = sealed(rest)?;
                Some(Said::Request(Request::PoolEnd(id, seal), options))
            }
            (Next::Which(protocol, options), _) => {
                let (id, seal) = sealed(line)?;
                let of = if protocol == Protocol::Pool { Request::PoolJoin } else { Request::EventClaim };
                Some(Said::Request(of(id, seal), options))
            }
        })
    }

    fn protocol(&mut self, protocol: Protocol, options: Options) -> Option<Said> {
        if protocol == Protocol::Multiplex {
            return Some(Said::Request(Request::Multiplex, options));
        }
        self.next = Next::Which(protocol, options);
        None
    }
}

/// An id, and the seal that may go with it.
fn sealed(line: &str) -> Result<(Id, Option<Seal>), HandshakeError> {
    let (id, rest) = first_word(line);
    let id = Id::parse(id)?;
    if rest.is_empty() {
        return Ok((id, None));
    }
    let mut words = words(rest);
    let (Some(count), Some(proof), None) = (words.next(), words.next(), words.next()) else {
        return Err(HandshakeError::BadSeal);
    };
    let count = count.parse().ok().filter(|_| !count.starts_with('+')).ok_or(HandshakeError::BadSeal)?;
    let proof = proof.parse().map_err(|_| HandshakeError::BadSeal)?;
    Ok((id, Some(Seal { count, proof })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Binding, Nonce};
    use crate::handshake::Code;
    use crate::identity::Token;

    /// Feeds `bytes` in pieces of `step` until a request; gives all that was said and the unread rest.
    fn said(bytes: &[u8], step: usize) -> Result<(Vec<Said>, Vec<u8>), HandshakeError> {
        let mut reader = ClientReader::default();
        let mut all = Vec::new();
        for (at, mut piece) in bytes.chunks(step).enumerate() {
            while let Some(said) = reader.read(&mut piece)? {
                all.push(said);
                if let Some(Said::Request(..)) = all.last() {
                    return Ok((all, [piece, &bytes[bytes.len().min((at + 1) * step)..]].concat()));
                }
            }
            assert!(piece.is_empty(), "what is not yet a line is kept by the reader");
        }
        Ok((all, Vec::new()))
    }

    /// What is wrong with `bytes`, however they are split.
    fn error(bytes: &[u8]) -> HandshakeError {
        let error = said(bytes, bytes.len()).expect_err("refused");
        assert_eq!(said(bytes, 1), Err(error.clone()));
        error
    }

    fn proof() -> Proof {
        let name = "laptop".parse().unwrap();
        Token::from_random([1; 32]).prove(&name, &Nonce::from_random([2; 32]), &Binding::None)
    }

    fn requests() -> Vec<Request> {
        let id = || Id::parse("0123456789").unwrap();
        let seal = || Some(Seal { count: u64::MAX, proof: proof() });
        vec![
            Request::Multiplex,
            Request::PoolNew,
            Request::PoolJoin(id(), None),
            Request::PoolJoin(id(), seal()),
            Request::PoolEnd(id(), None),
            Request::PoolEnd(id(), seal()),
            Request::EventNew,
            Request::EventClaim(id(), None),
            Request::EventClaim(id(), seal()),
        ]
    }

    fn read_as_written(wanted: &[Said]) {
        let mut bytes: Vec<u8> = wanted.iter().flat_map(|said| said.to_string().into_bytes()).collect();
        bytes.extend_from_slice(b"data\nphase");
        for step in 1..=bytes.len() {
            let (got, rest) = said(&bytes, step).unwrap();
            assert_eq!((got.as_slice(), rest.as_slice()), (wanted, b"data\nphase".as_slice()));
        }
    }

    #[test]
    fn every_request_split_anywhere_keeps_the_rest() {
        for request in requests() {
            assert_eq!(
                said(request.to_string().as_bytes(), 1).unwrap().0,
                [Said::Request(request.clone(), Options::default())]
            );
            read_as_written(&[Said::Request(request, Options::default())]);
        }
    }

    #[test]
    fn an_identity_comes_before_its_request() {
        let name = || "laptop".parse().unwrap();
        for request in requests() {
            let new = matches!(request, Request::Multiplex | Request::PoolNew | Request::EventNew);
            let options =
                if new { Options::parse("port=1 wish=2 allow=10.0.0.0/8").unwrap() } else { Options::default() };
            let request = Said::Request(request, options);
            read_as_written(&[Said::Hello, request.clone()]);
            read_as_written(&[Said::Hello, Said::Auth(name()), Said::Proof(proof()), request]);
        }
    }

    #[test]
    fn blanks_and_carriage_returns_are_skipped() {
        let options = Options { port: Some(1), ..Options::default() };
        for (bytes, wanted) in [
            (" \tevent \r\n\t new\t\r\n\r\n".into(), Said::Request(Request::EventNew, Options::default())),
            ("relay/1 \r\n pool \t port=1 \r\n new\r\n\r\n".into(), Said::Request(Request::PoolNew, options)),
            (
                format!("event\n a \t 007  {}\t\n\r\n", proof()),
                Said::Request(
                    Request::EventClaim(Id::parse("a").unwrap(), Some(Seal { count: 7, proof: proof() })),
                    Options::default(),
                ),
            ),
        ] as [(String, Said); 3]
        {
            let (got, rest) = said(bytes.as_bytes(), 3).unwrap();
            assert_eq!((got.last(), rest.as_slice()), (Some(&wanted), b"\r\n".as_slice()));
        }
    }

    #[test]
    fn the_original_exchange_is_as_it_was() {
        let unknown = HandshakeError::unknown;
        assert_eq!(error(b"\n"), unknown(""));
        assert_eq!(error(b"Multiplex\n"), unknown("Multiplex"));
        assert_eq!(error(b"multiplex now\n"), unknown("multiplex now"));
        assert_eq!(error(b"multiplex port=1\n"), unknown("multiplex port=1"));
        assert_eq!(error(b"auth laptop\n"), unknown("auth laptop"));
        assert_eq!(error(b"relay/1 now\n"), unknown("relay/1 now"));
        assert_eq!(error(b"relay/2\n"), unknown("relay/2"));
        assert_eq!(error(b"a\0b\n"), unknown("a\0b"));
        assert_eq!(error("größe\n".as_bytes()), unknown("größe"));
        assert_eq!(error(b"\xff\n"), HandshakeError::NotText);
        assert_eq!(error(b"pool\n\n"), HandshakeError::BadId);
        assert_eq!(error(b"event\na b\n"), HandshakeError::BadSeal);
        assert_eq!(error(b"event\nend a\n"), HandshakeError::BadSeal);
        assert_eq!(error(b"event\nnew new\n"), HandshakeError::BadId);
        assert_eq!(error(b"event\na\x1bb\n"), HandshakeError::BadId);
        assert_eq!(said(b"pool\nnew", 1), Ok((vec![], vec![])));
    }

    #[test]
    fn what_comes_out_of_order_is_refused() {
        let unexpected = |word| HandshakeError::unexpected(word, "a protocol");
        let proved = format!("relay/1\nauth laptop\n{}\n", proof());
        assert_eq!(error(b"relay/1\nrelay/1\n"), unexpected("relay/1"));
        assert_eq!(error(b"relay/1\n\n"), HandshakeError::unknown(""));
        assert_eq!(error(b"relay/1\nudp port=1\n"), HandshakeError::unknown("udp"));
        assert_eq!(error(b"relay/1\nauth\n"), HandshakeError::BadName);
        assert_eq!(error(b"relay/1\nauth a b\n"), HandshakeError::BadName);
        assert_eq!(error(b"relay/1\nauth laptop\nmultiplex\n"), HandshakeError::BadProof);
        assert_eq!(error(format!("relay/1\nauth laptop\n{}\n", "+".repeat(43)).as_bytes()), HandshakeError::BadProof);
        assert_eq!(error(format!("relay/1\n{}\n", proof()).as_bytes()).code(), Code::Unsupported);
        assert_eq!(error(format!("{proved}auth laptop\n").as_bytes()), unexpected("auth"));
        assert_eq!(error(format!("{proved}relay/1\n").as_bytes()), unexpected("relay/1"));
        assert_eq!(error(format!("{proved}multiplex\tport=x\n").as_bytes()).code(), Code::BadRequest);
        assert_eq!(error(format!("{proved}pool port=1\nABC\n").as_bytes()), HandshakeError::LateOptions);
    }

    #[test]
    fn a_seal_is_a_count_and_43_characters() {
        for bad in ["1", "x 1", "+1 SEAL", "-1 SEAL", "18446744073709551616 SEAL", "1 SEAL 1", "1 SEALA", "SEAL 1"] {
            let line = format!("event\nABC {}\n", bad.replace("SEAL", &proof().to_string()));
            assert_eq!(error(line.as_bytes()), HandshakeError::BadSeal, "{bad}");
        }
    }

    #[test]
    fn only_who_greets_is_answered() {
        for (bytes, spoke) in
            [("", false), ("multiplex\n", false), ("relay/1", false), ("relay/1\n", true), ("relay/1\nx\n", true)]
        {
            let mut reader = ClientReader::default();
            let mut input = bytes.as_bytes();
            while let Ok(Some(_)) = reader.read(&mut input) {}
            assert_eq!(reader.spoke_relay1(), spoke, "{bytes:?}");
        }
    }

    #[test]
    fn a_line_ends_within_its_limit() {
        let proved = format!("relay/1\nauth laptop\n{}\n", proof());
        for (before, limit) in [
            ("", MAX_LINE),
            ("pool\n", MAX_LINE),
            ("relay/1\n", MAX_REQUEST_LINE),
            ("relay/1\npool port=1\n", MAX_LINE),
            ("relay/1\nauth laptop\n", MAX_LINE),
            (&proved, MAX_REQUEST_LINE),
        ] {
            let line = |length: usize| [before.as_bytes(), &vec![b'x'; length]].concat();
            let longest = [line(limit - 1), b"\n".to_vec()].concat();
            assert_ne!(said(&longest, 7), Err(HandshakeError::LineTooLong(limit)), "{before:?}");
            for length in [limit, 1 << 16] {
                assert_eq!(error(&line(length)), HandshakeError::LineTooLong(limit), "{before:?}");
            }
        }
    }
}
