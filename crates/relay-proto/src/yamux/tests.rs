//! The session, fact by fact. What holds for any sequence of events stands in `model`.

mod bad_input;
mod memory;
mod order;
mod streams;
mod time;
mod windows;

use std::time::{Duration, Instant};

use super::{Config, Flags, HEADER_LEN, Header, INITIAL_WINDOW, Kind, Role, Session, SessionError, StreamId, Transmit};
pub(super) use crate::model::frames::Event;
use crate::yamux::Received;

const WINDOW: usize = INITIAL_WINDOW as usize;

fn id(number: u32) -> StreamId {
    StreamId::new(number).unwrap()
}

fn frame(kind: Kind, flags: Flags, stream: u32, length: u32) -> Vec<u8> {
    Header { kind, flags, stream, length }.encode().to_vec()
}

fn update(flags: Flags, stream: u32, delta: u32) -> Vec<u8> {
    frame(Kind::WindowUpdate, flags, stream, delta)
}

fn data(flags: Flags, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&frame(Kind::Data, flags, stream, length), payload].concat()
}

fn ping(flags: Flags, value: u32) -> Vec<u8> {
    frame(Kind::Ping, flags, 0, value)
}

fn go_away(code: u32) -> Vec<u8> {
    frame(Kind::GoAway, Flags::NONE, 0, code)
}

/// The same as [`update`], as the session writes it.
fn writes_update(flags: Flags, stream: u32, delta: u32) -> Transmit {
    writes(Kind::WindowUpdate, flags, stream, delta)
}

fn writes(kind: Kind, flags: Flags, stream: u32, length: u32) -> Transmit {
    Transmit::Frame(Header { kind, flags, stream, length })
}

/// What a session says that found the peer at fault, and nothing after it.
fn protocol_error() -> Vec<Transmit> {
    vec![writes(Kind::GoAway, Flags::NONE, 0, 1)]
}

/// What becomes of payload that a test feeds.
#[derive(Clone, Copy)]
enum Users {
    Take,
    Stall,
}

/// A session with a clock that the test moves.
struct Side {
    session: Session,
    now: Instant,
    users: Users,
}

impl Side {
    fn new(role: Role, config: Config) -> Self {
        let now = Instant::now();
        Self { session: Session::new(role, config, now), now, users: Users::Take }
    }

    fn relay() -> Self {
        Self::new(Role::Relay, Config::default())
    }

    fn forwarder() -> Self {
        Self::new(Role::Forwarder, Config::default())
    }

    /// A relay with `streams` open streams, all acknowledged, whose SYNs are written.
    fn relay_with(streams: u32) -> Self {
        let mut side = Self::relay();
        for number in (1..).step_by(2).take(streams as usize) {
            assert_eq!(side.session.open(side.now), Ok(id(number)));
            side.writes();
            assert_eq!(side.gets(&update(Flags::ACK, number, 0)), [Event::Acknowledged(id(number))]);
        }
        side
    }

    /// A forwarder with stream 1, whose ACK is written.
    fn forwarder_with_one() -> Self {
        let mut side = Self::forwarder();
        assert_eq!(side.gets(&update(Flags::SYN, 1, 0)), [Event::Opened(id(1))]);
        assert_eq!(side.writes(), [writes_update(Flags::ACK, 1, 0)]);
        side
    }

    fn receive(&mut self, mut input: &[u8]) -> (Vec<Event>, Result<(), SessionError>) {
        let mut events = Vec::new();
        loop {
            match self.session.receive(&mut input, self.now) {
                Ok(None) => break,
                Ok(Some(received)) => {
                    if let Received::Payload(id, payload) = received {
                        match self.users {
                            Users::Take => self.session.delivered(id, payload.len(), self.now),
                            Users::Stall => self.session.queued(id, payload.len(), self.now),
                        }
                    }
                    events.push(received.into());
                }
                Err(error) => return (events, Err(error)),
            }
        }
        self.session.check();
        (events, Ok(()))
    }

    /// What `input` leads to; the session must live on.
    fn gets(&mut self, input: &[u8]) -> Vec<Event> {
        let (events, result) = self.receive(input);
        assert_eq!(result, Ok(()));
        events
    }

    /// `input` must end the session, with nothing but `error` after `events`.
    fn dies(&mut self, input: &[u8], events: &[Event], error: SessionError) {
        assert_eq!(self.receive(input), (events.to_vec(), Err(error)));
        self.session.check();
        assert!(self.session.is_at_rest());
        // It takes nothing any more.
        assert_eq!(self.receive(&update(Flags::SYN, 77, 0)), (vec![], Ok(())));
    }

    fn write(&mut self) -> Option<Transmit> {
        self.session.poll_transmit(self.now)
    }

    /// All that is due to be written; sources give nothing.
    fn writes(&mut self) -> Vec<Transmit> {
        std::iter::from_fn(|| self.write()).collect()
    }

    /// The next frame must be data of `stream`, of which the source has `bytes`.
    fn sends(&mut self, stream: u32, bytes: u32) -> u32 {
        let Some(Transmit::Data { stream: turn, max }) = self.write() else { panic!("no data's turn") };
        assert_eq!(turn, id(stream));
        let bytes = bytes.min(max);
        assert!(self.session.sent(turn, bytes).is_some());
        bytes
    }

    fn wait(&mut self, millis: u64) -> Result<(), SessionError> {
        self.now += Duration::from_millis(millis);
        self.session.handle_timeout(self.now)
    }
}
