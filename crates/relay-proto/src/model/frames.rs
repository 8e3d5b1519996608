//! Arbitrary bytes from the link: no panic, bounded memory, and where they are split must not matter.

use std::time::Instant;

use super::pieces;
use crate::yamux::{Config, HEADER_LEN, Header, Received, Role, Session, SessionError, StreamEnd, StreamId, Transmit};

/// Gives `bytes` to a session of each role, whole and in pieces.
pub fn run(bytes: &[u8], lengths: &[u8]) {
    for chunk in bytes.chunks_exact(HEADER_LEN) {
        let header: [u8; HEADER_LEN] = chunk.try_into().expect("the chunk is exact");
        if let Ok(decoded) = Header::decode(header) {
            assert_eq!(decoded.encode(), header);
        }
    }
    let now = Instant::now();
    for role in [Role::Relay, Role::Forwarder] {
        let whole = receive(role, std::iter::once(bytes), now, false);
        assert_eq!(whole, receive(role, pieces(bytes, lengths), now, false), "as {role:?}");
        assert_eq!(whole, receive(role, pieces(bytes, lengths), now, true), "as {role:?}, payload elsewhere");
    }
}

/// A [`Received`] that has its own bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Opened(StreamId),
    Acknowledged(StreamId),
    Payload(StreamId, Vec<u8>),
    Finished(StreamId),
    Ended(StreamId, StreamEnd),
    Refusing,
}

impl From<Received<'_>> for Event {
    fn from(received: Received<'_>) -> Self {
        match received {
            Received::Opened(id) => Self::Opened(id),
            Received::Acknowledged(id) => Self::Acknowledged(id),
            Received::Payload(id, payload) => Self::Payload(id, payload.to_vec()),
            Received::Finished(id) => Self::Finished(id),
            Received::Ended(id, why) => Self::Ended(id, why),
            Received::Refusing => Self::Refusing,
        }
    }
}

#[derive(Debug, PartialEq)]
struct Outcome {
    events: Vec<Event>,
    error: Option<SessionError>,
    answer: Vec<Transmit>,
}

/// With `elsewhere`, payload passes the session by, as it does when the kernel moves it.
fn receive<'a>(role: Role, pieces: impl Iterator<Item = &'a [u8]>, now: Instant, elsewhere: bool) -> Outcome {
    let config = Config { max_streams: 8, ..Config::default() };
    let mut session = Session::new(role, config, now);
    for _ in 0..3 {
        // Half of the ids that the peer can hit are streams that the relay opened.
        let _ = session.open(now);
    }
    let mut outcome = Outcome { events: Vec::new(), error: None, answer: Vec::new() };
    'link: for mut piece in pieces {
        loop {
            if let Some((id, left)) = session.payload_ahead().filter(|_| elsewhere && !piece.is_empty()) {
                let (payload, rest) = piece.split_at(piece.len().min(left as usize));
                piece = rest;
                session.received_elsewhere(payload.len() as u32, now);
                session.delivered(id, payload.len(), now);
                outcome.push_payload(id, payload);
            }
            // Without bytes in hand, so that payload is left to the branch above.
            let mut input = if elsewhere { &piece[..piece.len().min(1)] } else { piece };
            let before = input.len();
            let received = session.receive(&mut input, now);
            piece = &piece[before - input.len()..];
            match received {
                Ok(None) if piece.is_empty() => break,
                Ok(None) => {}
                Ok(Some(received)) => outcome.push(received, &mut session, now),
                Err(error) => {
                    outcome.error = Some(error);
                    break 'link;
                }
            }
            session.check();
        }
    }
    session.check();
    while let Some(transmit) = session.poll_transmit(now) {
        outcome.answer.push(transmit);
    }
    session.check();
    outcome
}

impl Outcome {
    fn push(&mut self, received: Received<'_>, session: &mut Session, now: Instant) {
        if let Received::Payload(id, payload) = received {
            session.delivered(id, payload.len(), now);
            self.push_payload(id, payload);
        } else {
            self.events.push(received.into());
        }
    }

    /// Adds to the payload that came before, if any: how it was split is not part of the outcome.
    fn push_payload(&mut self, id: StreamId, payload: &[u8]) {
        match self.events.last_mut() {
            Some(Event::Payload(last, bytes)) if *last == id => bytes.extend_from_slice(payload),
            _ => self.events.push(Event::Payload(id, payload.to_vec())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let length = prop_oneof![
            6 => 0_u32..40,
            1 => Just(262_144),
            1 => Just(262_145),
            1 => any::<u32>(),
        ];
        let body = prop_oneof![8 => Just(true), 1 => Just(false)];
        (0_u8..4, 0_u8..16, 0_u8..10, length, body).prop_map(|(kind, flags, id, length, body)| {
            // Most GoAways would end the case.
            let length = if kind == 3 { length % 3 / 2 } else { length };
            let mut bytes = vec![0, kind, 0, flags, 0, 0, 0, id];
            bytes.extend_from_slice(&length.to_be_bytes());
            if kind == 0 && body && length < 100 {
                bytes.extend((0..length).map(|at| at as u8));
            }
            bytes
        })
    }

    proptest! {
        #[test]
        fn splitting_changes_nothing(frames in vec(frame(), 0..24), lengths in vec(any::<u8>(), 0..8)) {
            super::run(&frames.concat(), &lengths);
        }

        #[test]
        fn any_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..200), lengths in vec(any::<u8>(), 0..8)) {
            super::run(&bytes, &lengths);
        }
    }
}
