//! The exchanges of docs/transcripts/, step by step: what docs/PROTOCOL.md shows is what is played.
//!
//! `→` is said by the client and `←` by the relay; `⇄` are a user's bytes, both ways. What begins at the margin is the
//! first connection, what stands under the third heading another one. A line without an arrow is a remark. An empty
//! line begins anew.

use std::collections::HashMap;

use relay_proto::yamux::{Flags, Header, Kind};

use super::{Seen, Verdict};

/// Multiplex, as the original has it.
pub const MULTIPLEX: &str = include_str!("../../../../docs/transcripts/multiplex.txt");
/// Pool, as the original has it.
pub const POOL: &str = include_str!("../../../../docs/transcripts/pool.txt");
/// Event, as the original has it.
pub const EVENT: &str = include_str!("../../../../docs/transcripts/event.txt");
/// Multiplex of an identity, with a demand and networks.
pub const IDENTITY: &str = include_str!("../../../../docs/transcripts/identity.txt");
/// What is refused, and how.
pub const ERRORS: &str = include_str!("../../../../docs/transcripts/errors.txt");
/// Pool, with a demand.
pub const POOL_PORT: &str = include_str!("../../../../docs/transcripts/pool-port.txt");
/// Event of an identity over TLS.
pub const EVENT_IDENTITY: &str = include_str!("../../../../docs/transcripts/event-identity.txt");
/// Event of an identity in plain text.
pub const EVENT_SEALED: &str = include_str!("../../../../docs/transcripts/event-sealed.txt");

/// What happens in a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What<'a> {
    /// The client says this.
    Client(&'a str),
    /// The relay says this.
    Relay(&'a str),
    /// A user's bytes go both ways.
    Piped,
    /// Something else, in words.
    Remark(&'a str),
}

/// A line of a transcript.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// 0 for the first connection, 1 for the other one.
    pub connection: usize,
    /// What happens on it.
    pub what: What<'a>,
}

/// The conversations of a transcript.
pub fn conversations(text: &str) -> impl Iterator<Item = Vec<Step<'_>>> {
    text.split("\n\n").map(|part| part.lines().filter(|line| !is_heading(line)).map(step).collect())
}

fn is_heading(line: &str) -> bool {
    line.starts_with(|first: char| first.is_alphabetic())
}

fn step(line: &str) -> Step<'_> {
    let text = line.trim();
    let what = match text.chars().next() {
        Some('→') => What::Client(text['→'.len_utf8()..].trim_start()),
        Some('←') => What::Relay(text['←'.len_utf8()..].trim_start()),
        Some('⇄') => What::Piped,
        _ => return Step { connection: 0, what: What::Remark(text) },
    };
    Step { connection: usize::from(line.starts_with(' ')), what }
}

/// A frame as transcripts write it: kind, flag, stream and payload; what follows is a remark.
///
/// # Errors
/// It is written otherwise.
pub fn frame(line: &str) -> Verdict<(Header, &str)> {
    let unreadable = || Seen::from(format!("the transcript has no frame in {line:?}"));
    let (before, payload) = match line.split_once('"') {
        Some((before, after)) => (before, after.split('"').next().unwrap_or_default()),
        None => (line, ""),
    };
    let mut words = before.split_whitespace();
    let kind = match words.next() {
        Some("Data") => Kind::Data,
        Some("WindowUpdate") => Kind::WindowUpdate,
        _ => return Err(unreadable()),
    };
    let mut flags = Flags::NONE;
    for word in words.by_ref() {
        flags = flags
            | match word {
                "SYN" => Flags::SYN,
                "ACK" => Flags::ACK,
                "FIN" => Flags::FIN,
                "stream" => break,
                _ => return Err(unreadable()),
            };
    }
    let stream = words.next().and_then(|word| word.parse().ok()).ok_or_else(unreadable)?;
    Ok((Header { kind, flags, stream, length: u32::try_from(payload.len()).map_err(|_| unreadable())? }, payload))
}

/// What stands in this run for the words of a transcript that are another's every time: ports, ids, nonces, proofs.
#[derive(Clone, Debug, Default)]
pub struct Words(HashMap<String, String>);

impl Words {
    /// From now on `actual` stands for `written`.
    pub fn bind(&mut self, written: &str, actual: impl Into<String>) {
        self.0.insert(written.into(), actual.into());
    }

    /// What stands for a word; itself if nothing does.
    pub fn actual<'a>(&'a self, written: &'a str) -> &'a str {
        self.0.get(written).map_or(written, String::as_str)
    }

    /// A line with what stands for its words, also for what is behind `=`.
    pub fn line(&self, written: &str) -> String {
        let words: Vec<String> = written
            .split(' ')
            .map(|word| match word.split_once('=') {
                Some((key, value)) => format!("{key}={}", self.actual(value)),
                None => self.actual(word).into(),
            })
            .collect();
        words.join(" ")
    }

    /// Takes a line for what is written: the same for the same, else numbers for numbers, ids and nonces for such, any features; of an error
    /// the code. All else is compared.
    ///
    /// # Errors
    /// It is something else.
    pub fn take(&mut self, written: &str, actual: &str) -> Verdict {
        let other = || Seen::from(format!("{actual:?} instead of such as {written:?}"));
        // Of the features each is one that a relay may have or not.
        let compared = match written.split(' ').next() {
            Some("relay/1") => 1,
            Some("error") => 2,
            _ => usize::MAX,
        };
        if compared < usize::MAX {
            let same = written.split(' ').take(compared).eq(actual.split(' ').take(compared));
            return if same { Ok(()) } else { Err(other()) };
        }
        let right = match self.0.get(written) {
            Some(bound) => bound == actual,
            None => same_shape(written, actual),
        };
        if !right {
            return Err(other());
        }
        self.bind(written, actual);
        Ok(())
    }
}

/// Whether a word that is written is a nonce, a proof or a seal: 32 bytes in base64url.
pub fn is_nonce(word: &str) -> bool {
    word.len() == 43 && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
}

/// Whether a word that is written is an id.
pub fn is_id(word: &str) -> bool {
    word.len() == 32 && word.chars().all(|c| matches!(c, '0'..='9' | 'A'..='F'))
}

/// Whether a word is of the kind that is written.
fn same_shape(written: &str, actual: &str) -> bool {
    let is_number = |word: &str| word.parse::<u16>().is_ok();
    let is_one_word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_graphic());
    match written {
        _ if is_number(written) => is_number(actual),
        // The original's had 10 digits, and clients take any word for one.
        _ if is_id(written) => is_one_word(actual) && actual != "new",
        _ if is_nonce(written) => is_nonce(actual),
        _ => written == actual,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_those_of_two_connections() {
        let text = "control            relay\n→ event\n← 1235\n   a user comes\n          → event\n          ⇄ bytes\n\n→ pool";
        let conversations: Vec<_> = conversations(text).collect();
        let of = |connection, what| Step { connection, what };
        assert_eq!(
            conversations,
            [
                vec![
                    of(0, What::Client("event")),
                    of(0, What::Relay("1235")),
                    of(0, What::Remark("a user comes")),
                    of(1, What::Client("event")),
                    of(1, What::Piped),
                ],
                vec![of(0, What::Client("pool"))],
            ]
        );
    }

    #[test]
    fn frames_are_read_and_remarks_are_not() {
        let syn = Header { kind: Kind::WindowUpdate, flags: Flags::SYN, stream: 1, length: 0 };
        assert_eq!(frame("WindowUpdate SYN   stream 1      a user has connected"), Ok((syn, "")));
        let data = Header { kind: Kind::Data, flags: Flags::NONE, stream: 3, length: 3 };
        assert_eq!(frame("Data               stream 3  \"GET\"  x"), Ok((data, "GET")));
        assert!(frame("Data SYN").is_err() && frame("Ping SYN stream 0").is_err());
    }

    #[test]
    fn what_differs_every_time_is_taken_by_its_shape() {
        let mut words = Words::default();
        words.take("1235", "40001").unwrap();
        words.take("9F86D081884C7D659A2FEAA0C55AD015", "0123456789").unwrap();
        words.take("relay/1 auth port", "relay/1 udp port auth").unwrap();
        words.take("error unsupported udp", "error unsupported udp").unwrap();
        words.take("ok", "ok").unwrap();
        assert_eq!(words.line("9F86D081884C7D659A2FEAA0C55AD015"), "0123456789");
        assert_eq!(words.line("event wish=1235"), "event wish=40001");
        for (written, actual) in [
            ("1235", "port"),
            ("1235", "1235 6"),
            ("1235", "99999"),
            ("9F86D081884C7D659A2FEAA0C55AD015", "two words"),
            ("9F86D081884C7D659A2FEAA0C55AD015", ""),
            ("relay/1 auth port", "relay/2 auth port"),
            ("relay/1 auth", "auth"),
            ("error denied no", "error revoked no"),
            ("ok", "OK"),
            ("22", "23"),
        ] {
            let mut words = Words::default();
            words.bind("22", "24");
            assert!(words.take(written, actual).is_err(), "{written:?} {actual:?}");
        }
    }
}
