//! Two sessions against each other, in virtual time: a relay and a forwarder with sources and users, over
//! a link that delays, splits, stalls and breaks.
//!
//! Both keep to the protocol, so every byte arrives in order or both sides learn why not; no credit is
//! lost or made; and once users take what comes, everything ends and nothing is held.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::RawOp;
use crate::yamux::{
    Config, Flags, HEADER_LEN, Header, INITIAL_WINDOW, Kind, OpenError, Received, Role, Session, SessionError,
    StreamEnd, StreamId, Transmit,
};

/// What the link holds each way before it takes no more, in bytes, but for the end of a frame.
const PIPE: usize = 64 * 1024;

/// What may wait for users on each side, in bytes: two users who do not read are more.
const MAX_QUEUED: usize = 400 * 1024;

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// A user comes.
    Open,
    /// A source gets that many bytes more to send.
    Offer(Place, u32),
    /// A source has no more.
    Finish(Place),
    /// A side gives a stream up, perhaps while it is about to send.
    Reset(Place),
    /// From now on a user takes that many bytes at a time, perhaps none.
    Appetite(Place, usize),
    /// A side writes that many frames, if the link takes them.
    Write(Side, usize),
    /// A side reads that many bytes of what has arrived, past its session if it can.
    Read(Side, usize, bool),
    /// Users take what they like.
    Users(Side),
    /// Both sides go on, reading that many bytes at once.
    Run(u8, usize),
    /// Time passes.
    Wait(Duration),
    /// The largest frame changes.
    Round(Side, u32),
    /// A side takes no new streams.
    GoAway(Side),
    /// The link is lost.
    Cut,
}

/// 0 is the relay, 1 the forwarder.
type Side = usize;
/// A side and one of its streams.
type Place = (Side, usize);

impl From<RawOp> for Op {
    fn from((kind, which, amount): RawOp) -> Self {
        let (side, place) = (usize::from(which % 2), (usize::from(which % 2), usize::from(which / 2)));
        let bytes = usize::from(amount);
        match kind % 32 {
            0..=3 => Self::Open,
            4..=9 => Self::Offer(place, u32::from(amount) * if which > 150 { 16 } else { 1 }),
            10..=11 => Self::Finish(place),
            12 => Self::Reset(place),
            13..=15 => Self::Appetite(place, if amount % 4 == 0 { 0 } else { bytes * 4 }),
            16..=17 => Self::Write(side, bytes % 8),
            18..=20 => Self::Read(side, bytes, which > 127),
            21 => Self::Users(side),
            22..=26 => Self::Run(which % 8, bytes.max(1)),
            27 => Self::Wait(Duration::from_millis(if which > 250 {
                u64::from(amount)
            } else {
                u64::from(amount % 1024)
            })),
            28..=30 => Self::Round(side, u32::from(amount) * 8),
            _ if which > 230 => Self::GoAway(side),
            _ if which < 10 => Self::Cut,
            _ => Self::Run(2, bytes.max(1)),
        }
    }
}

/// Runs `ops` and then lets both sides come to an end. `latency` is that of the link, in milliseconds.
pub fn run(latency: u8, ops: impl IntoIterator<Item = Op>) {
    let mut world = World::new(Duration::from_millis(latency.into()));
    for op in ops {
        world.step(op);
        if world.lost {
            return;
        }
        world.check();
    }
    world.settle();
}

struct World {
    now: Instant,
    latency: Duration,
    ends: [End; 2],
    /// Towards each side.
    pipes: [VecDeque<(Instant, Vec<u8>)>; 2],
    /// Streams that either side broke off.
    broken: BTreeSet<StreamId>,
    /// Streams that the forwarder took.
    taken: BTreeSet<StreamId>,
    /// How many bytes each source had in all, once it said so.
    totals: BTreeMap<(StreamId, Side), u64>,
    lost: bool,
}

struct End {
    session: Session,
    halves: BTreeMap<StreamId, Half>,
    /// Credit that was written for each stream, in bytes.
    granted: BTreeMap<StreamId, u64>,
    heard: Instant,
}

/// One side's part of a stream: the source that it sends from and the user that it delivers to.
struct Half {
    offered: u64,
    sent: u64,
    closed: bool,
    finishing: bool,
    finished: bool,

    received: u64,
    queue: usize,
    appetite: usize,
    peer_finished: bool,
}

impl Half {
    fn new() -> Self {
        Self {
            offered: 0,
            sent: 0,
            closed: false,
            finishing: false,
            finished: false,
            received: 0,
            queue: 0,
            appetite: 10_000,
            peer_finished: false,
        }
    }

    fn is_gone(&self) -> bool {
        self.finished && self.peer_finished && self.queue == 0
    }
}

/// The bytes of every source, from `offset` on: a different sequence for each.
fn pattern(id: StreamId, side: Side, offset: u64) -> impl Iterator<Item = u8> {
    let seed = u64::from(id.get()).wrapping_mul(0x9e37_79b9) ^ side as u64;
    (offset..).map(move |at| ((at ^ seed).wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8)
}

impl World {
    fn new(latency: Duration) -> Self {
        let now = Instant::now();
        let config = Config {
            max_streams: 12,
            max_unacknowledged: 5,
            max_window: 1024 * 1024,
            max_queued: MAX_QUEUED,
            ..Config::default()
        };
        let end = |role| End {
            session: Session::new(role, config.clone(), now),
            halves: BTreeMap::new(),
            granted: BTreeMap::new(),
            heard: now,
        };
        Self {
            now,
            latency,
            ends: [end(Role::Relay), end(Role::Forwarder)],
            pipes: Default::default(),
            broken: BTreeSet::new(),
            taken: BTreeSet::new(),
            totals: BTreeMap::new(),
            lost: false,
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Open => {
                let relay = &mut self.ends[0];
                match relay.session.open(self.now) {
                    Ok(id) => assert!(relay.halves.insert(id, Half::new()).is_none()),
                    Err(OpenError::Full | OpenError::Refused) => {}
                }
            }
            Op::Offer(place, bytes) => {
                if let Some((session, id, half)) = self.find(place).filter(|(.., half)| !half.closed) {
                    half.offered += u64::from(bytes);
                    session.ready(id);
                }
            }
            Op::Finish(place) => {
                if let Some((session, id, half)) = self.find(place) {
                    half.closed = true;
                    session.ready(id);
                }
            }
            Op::Reset(place) => {
                if let Some((session, id, _)) = self.find(place) {
                    session.reset(id);
                    self.ends[place.0].halves.remove(&id);
                    self.broken.insert(id);
                }
            }
            Op::Appetite(place, bytes) => {
                if let Some((.., half)) = self.find(place) {
                    half.appetite = bytes;
                }
            }
            Op::Write(side, frames) => self.write(side, frames),
            Op::Read(side, bytes, elsewhere) => self.read(side, bytes, elsewhere),
            Op::Users(side) => self.users(side),
            Op::Run(rounds, chunk) => {
                for _ in 0..rounds {
                    if self.lost {
                        return;
                    }
                    self.round(chunk);
                }
            }
            Op::Wait(time) => self.wait(time),
            Op::Round(side, limit) => self.ends[side].session.set_round(limit),
            Op::GoAway(side) => self.ends[side].session.go_away(),
            Op::Cut => self.lost = true,
        }
    }

    fn find(&mut self, (side, which): Place) -> Option<(&mut Session, StreamId, &mut Half)> {
        let End { session, halves, .. } = &mut self.ends[side];
        let which = which.checked_rem(halves.len())?;
        halves.iter_mut().nth(which).map(|(id, half)| (session, *id, half))
    }

    fn round(&mut self, chunk: usize) {
        for side in [0, 1] {
            self.write(side, usize::MAX);
        }
        self.wait(self.latency.max(Duration::from_millis(1)));
        for side in [0, 1] {
            // Not all that is there: chunks fall anywhere.
            for _ in 0..8 {
                self.read(side, chunk, chunk.is_multiple_of(2));
            }
            self.users(side);
        }
    }

    fn write(&mut self, side: Side, frames: usize) {
        let End { session, halves, granted, .. } = &mut self.ends[side];
        let pipe = &mut self.pipes[1 - side];
        let mut held = pipe.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        for _ in 0..frames {
            if held >= PIPE || self.lost {
                return;
            }
            let mut bytes = Vec::new();
            match session.poll_transmit(self.now) {
                None => return,
                Some(Transmit::Frame(header)) => {
                    bytes.extend(header.encode());
                    let id = StreamId::new(header.stream);
                    if let Some(half) = id.and_then(|id| halves.get_mut(&id)) {
                        half.finished |= header.flags.has(Flags::FIN);
                    }
                    if let Some(id) = id.filter(|_| header.kind == Kind::WindowUpdate) {
                        *granted.entry(id).or_default() += u64::from(header.length);
                    }
                }
                Some(Transmit::Data { stream: id, max }) => {
                    assert!(max > 0);
                    let half = halves.get_mut(&id).expect("a stream with a turn lives");
                    let length = (half.offered - half.sent).min(max.into()) as u32;
                    if length == 0 {
                        if half.closed {
                            half.finishing = true;
                            self.totals.insert((id, side), half.sent);
                            session.finish(id);
                        }
                        continue;
                    }
                    let header = session.sent(id, length).expect("a stream with a turn lives");
                    assert_eq!(Header { kind: Kind::Data, flags: Flags::NONE, stream: id.get(), length }, header);
                    bytes.extend(header.encode());
                    bytes.extend(pattern(id, side, half.sent).take(length as usize));
                    half.sent += u64::from(length);
                    session.ready(id);
                }
            }
            halves.retain(|_, half| !half.is_gone());
            held += bytes.len();
            pipe.push_back((self.now + self.latency, bytes));
        }
    }

    fn read(&mut self, side: Side, most: usize, elsewhere: bool) {
        let mut chunk = Vec::new();
        let pipe = &mut self.pipes[side];
        while let Some((at, bytes)) = pipe.front_mut()
            && *at <= self.now
            && chunk.len() < most
        {
            let part = bytes.len().min(most - chunk.len());
            chunk.extend(bytes.drain(..part));
            if bytes.is_empty() {
                pipe.pop_front();
            }
        }
        if chunk.is_empty() || self.lost {
            return;
        }
        self.ends[side].heard = self.now;
        let mut input = &chunk[..];
        loop {
            let ahead = self.ends[side].session.payload_ahead().filter(|_| elsewhere && !input.is_empty());
            if let Some((id, left)) = ahead {
                let (payload, rest) = input.split_at(input.len().min(left as usize));
                input = rest;
                self.ends[side].session.received_elsewhere(payload.len() as u32, self.now);
                self.payload(side, id, payload);
            }
            // Header by header, so that there is something ahead.
            let mut piece = if elsewhere { &input[..input.len().min(HEADER_LEN / 2)] } else { input };
            let before = piece.len();
            let received = self.ends[side].session.receive(&mut piece, self.now);
            input = &input[before - piece.len()..];
            match received {
                Ok(None) if input.is_empty() => return,
                Ok(None) => {}
                Ok(Some(received)) => self.handle(side, received),
                Err(error) => panic!("side {side} blames its honest peer: {error}"),
            }
        }
    }

    fn handle(&mut self, side: Side, received: Received<'_>) {
        let halves = &mut self.ends[side].halves;
        match received {
            Received::Opened(id) => {
                assert_eq!(side, 1);
                self.taken.insert(id);
                assert!(halves.insert(id, Half::new()).is_none());
            }
            Received::Acknowledged(id) => assert!(side == 0 && halves.contains_key(&id)),
            Received::Payload(id, payload) => self.payload(side, id, payload),
            Received::Finished(id) => {
                let half = halves.get_mut(&id).expect("who finishes lives");
                assert_eq!(self.totals.get(&(id, 1 - side)), Some(&half.received), "all bytes come before the end");
                assert!(!std::mem::replace(&mut half.peer_finished, true));
                halves.retain(|_, half| !half.is_gone());
            }
            Received::Ended(id, why) => {
                assert_eq!(why, StreamEnd::PeerReset);
                assert!(halves.remove(&id).is_some());
                assert!(self.broken.contains(&id) || !self.taken.contains(&id), "{id} was reset without a cause");
            }
            Received::Refusing => {}
        }
    }

    fn payload(&mut self, side: Side, id: StreamId, payload: &[u8]) {
        let End { session, halves, .. } = &mut self.ends[side];
        let half = halves.get_mut(&id).expect("payload is for streams that live");
        let wanted = pattern(id, 1 - side, half.received);
        assert!(payload.iter().copied().eq(wanted.take(payload.len())), "bytes of {id} are wrong or out of order");
        half.received += payload.len() as u64;
        let taken = if half.queue == 0 { half.appetite.min(payload.len()) } else { 0 };
        half.queue += payload.len() - taken;
        session.delivered(id, taken, self.now);
        session.queued(id, payload.len() - taken, self.now);
        while let Some((id, _)) = session.overflowed() {
            let half = halves.remove(&id).expect("who stalls lives");
            assert!(half.queue > 0);
            self.broken.insert(id);
        }
    }

    fn users(&mut self, side: Side) {
        let End { session, halves, .. } = &mut self.ends[side];
        for (id, half) in &mut *halves {
            let taken = half.appetite.min(half.queue);
            half.queue -= taken;
            session.dequeued(*id, taken, self.now);
        }
        halves.retain(|_, half| !half.is_gone());
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        for end in &mut self.ends {
            let silence = self.now - end.heard;
            let due = end.session.poll_timeout().is_some_and(|at| at <= self.now);
            match end.session.handle_timeout(self.now) {
                Ok(()) => assert!(silence < Duration::from_secs(30)),
                Err(error) => {
                    assert!(due && error == SessionError::Silent && silence >= Duration::from_secs(30));
                    assert!(end.session.is_at_rest());
                    self.lost = true;
                }
            }
        }
    }

    fn check(&self) {
        for (side, end) in self.ends.iter().enumerate() {
            end.session.check();
            assert!(end.session.len() == end.halves.len(), "side {side} holds what is over, or the other way");
            for (id, half) in &end.halves {
                let Some((send, _)) = end.session.credit(*id) else { panic!("{id} has no state") };
                let other = &self.ends[1 - side];
                let granted = u64::from(INITIAL_WINDOW) + other.granted.get(id).copied().unwrap_or(0);
                assert!(half.sent + u64::from(send) <= granted, "credit of {id} was made from nothing");
                assert!(half.queue <= end.session.queued_bytes());
                // With nothing on its way, both sides agree.
                if self.pipes.iter().all(VecDeque::is_empty)
                    && let Some((_, receive)) = other.session.credit(*id)
                {
                    assert_eq!(send, receive, "credit of {id} was lost");
                }
            }
            assert!(end.session.queued_bytes() <= MAX_QUEUED);
        }
    }

    /// Users take what comes and sources come to their end: so must everything else.
    fn settle(&mut self) {
        for round in 0.. {
            let quiet = self.pipes.iter().all(VecDeque::is_empty);
            if quiet && self.ends.iter().all(|end| end.halves.is_empty() && end.session.is_at_rest()) {
                return;
            }
            for end in &mut self.ends {
                for (id, half) in &mut end.halves {
                    half.appetite = usize::MAX;
                    if !std::mem::replace(&mut half.closed, true) {
                        end.session.ready(*id);
                    }
                }
            }
            self.round(PIPE);
            if self.lost {
                assert!(round < 2, "silence can only be what came before");
                return;
            }
            self.check();
            assert!(round < 10_000, "nothing moves any more: {:?}", self.ends.each_ref().map(|end| &end.session));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn op() -> impl Strategy<Value = Op> {
        any::<RawOp>().prop_map(Op::from)
    }

    proptest! {
        #[test]
        fn every_byte_arrives_in_order_or_an_error_does(latency in 0_u8..120, ops in vec(op(), 0..200)) {
            run(latency, ops);
        }
    }
}
