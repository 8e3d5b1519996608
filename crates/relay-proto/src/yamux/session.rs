//! One session: the streams of a link, what arrives for them and what has to be written.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use super::frame::{Flags, FrameError, HEADER_LEN, Header, Kind, StreamId};
use super::pace::{FRAME_LARGEST, FRAME_SMALLEST};
use super::stream::{INITIAL_WINDOW, Opening, Sending, Stream};

/// Pongs that may wait to be written. An honest peer has one ping on its way.
pub const MAX_PENDING_PONGS: usize = 16;
/// Streams that a peer may try to open toward a relay before the session ends.
pub const MAX_REFUSED_SYNS: u32 = 16;
/// Streams reset with data possibly on its way that are remembered.
const MAX_REMEMBERED: usize = 4096;
/// Places that a queue may hold for streams that are gone, beside one for each that lives.
const STALE_MOST: usize = 64;
/// How old a measured round trip may be before it is measured again.
const ROUND_TRIP_AGE: Duration = Duration::from_secs(10);

/// The code of a GoAway that announces a normal end.
const GO_AWAY_NORMAL: u32 = 0;
/// The code of a GoAway after the peer broke the protocol.
const GO_AWAY_PROTOCOL: u32 = 1;

/// Which end of the link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens a stream with an odd id for each user and takes none.
    Relay,
    /// Takes streams of either parity and opens none.
    Forwarder,
}

/// The limits of a session.
#[derive(Clone, Debug)]
pub struct Config {
    /// Streams at once. 65 536: more users than a process has file descriptors for.
    pub max_streams: usize,
    /// Streams that we opened and the peer has not acknowledged. 256: the backlog beyond which the known
    /// peers refuse streams.
    pub max_unacknowledged: usize,
    /// The size to which a stream's window may grow, in bytes. 8 MiB: 600 Mbit/s over 100 ms.
    pub max_window: u32,
    /// Bytes that may wait for the users of all streams together. 64 MiB: eight users who stopped
    /// reading behind a long and fast path, or 256 behind a short one.
    pub max_queued: usize,
    /// Silence after which the peer is asked for a sign of life.
    pub ping_after: Duration,
    /// Further silence after which the link is dead.
    pub dead_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_streams: 65_536,
            max_unacknowledged: 256,
            max_window: 8 * 1024 * 1024,
            max_queued: 64 * 1024 * 1024,
            ping_after: Duration::from_secs(10),
            dead_after: Duration::from_secs(20),
        }
    }
}

/// Something that arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// The peer opened a stream; its ACK is due to be written already.
    Opened(StreamId),
    /// The peer accepted a stream: another may be opened.
    Acknowledged(StreamId),
    /// Payload. Say what becomes of it with [`Session::delivered`] and [`Session::queued`].
    Payload(StreamId, &'a [u8]),
    /// The peer has no more bytes for the stream.
    Finished(StreamId),
    /// The stream is gone. A reset that it takes is due to be written already.
    Ended(StreamId, StreamEnd),
    /// The peer takes no new streams (GoAway 0); those that live go on.
    Refusing,
}

/// Why a stream ended before both sides had finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamEnd {
    /// The peer reset it.
    PeerReset,
    /// The peer sent data after its FIN.
    DataAfterFin,
    /// The peer granted more credit than 32 bits hold.
    CreditOverflow,
    /// [`Config::max_queued`] was reached and its user had gone longest without taking a byte.
    Stalled,
}

impl fmt::Display for StreamEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerReset => "reset by the peer",
            Self::DataAfterFin => "the peer sent data after its end",
            Self::CreditOverflow => "the peer granted more credit than 32 bits hold",
            Self::Stalled => "the link's memory was full and this user had gone longest without reading",
        })
    }
}

/// Why the session is over. All but [`GoneAway`](Self::GoneAway) and [`Silent`](Self::Silent) are the
/// peer's breach of the protocol; a new session may work whichever it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionError {
    /// A frame's version or type is unknown.
    Frame(FrameError),
    /// Data or credit for stream 0.
    StreamZero,
    /// A stream was opened twice.
    DuplicateSyn(StreamId),
    /// A relay was asked to take streams, again and again.
    UnexpectedSyn,
    /// More data than was granted.
    WindowOverdrawn(StreamId),
    /// More data for a stream that does not exist than any sender could have had on its way.
    StrayData(u32),
    /// More resets are waiting to be written than there may be streams: the peer opens and does not read.
    TooManyResets,
    /// The peer ended the session with that code.
    GoneAway(u32),
    /// Not a byte arrived for [`Config::ping_after`] and [`Config::dead_after`] together.
    Silent,
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(FrameError::Version(version)) => write!(f, "the peer sent a frame of version {version}"),
            Self::Frame(FrameError::Kind(kind)) => write!(f, "the peer sent a frame of unknown type {kind}"),
            Self::StreamZero => f.write_str("the peer sent data or credit for stream 0"),
            Self::DuplicateSyn(id) => write!(f, "the peer opened stream {id} twice"),
            Self::UnexpectedSyn => f.write_str("the peer opens streams, which only the relay may"),
            Self::WindowOverdrawn(id) => write!(f, "the peer sent more on stream {id} than it was granted"),
            Self::StrayData(id) => {
                write!(f, "the peer sent more for stream {id}, which is not open, than can be stray")
            }
            Self::TooManyResets => f.write_str("the peer opens streams and does not read how they end"),
            Self::GoneAway(code) => write!(f, "the peer ended the session with code {code}"),
            Self::Silent => f.write_str("the peer has been silent for too long"),
        }
    }
}

impl std::error::Error for SessionError {}

impl From<FrameError> for SessionError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

/// Why no stream can be opened now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// [`Config::max_unacknowledged`] or [`Config::max_streams`] is reached: later it may work.
    Full,
    /// One side takes no new streams, or the session is over: it will never work.
    Refused,
}

/// What to write next.
#[derive(Debug, PartialEq, Eq)]
pub enum Transmit {
    /// A frame without payload.
    Frame(Header),
    /// At most `max` bytes (at least 1 is meant) of that stream's source: read them, write the header that
    /// [`Session::sent`] makes, then them. If the source has none after all, do nothing. If it may have
    /// more, call [`Session::ready`] again.
    Data {
        /// The stream whose turn it is.
        stream: StreamId,
        /// The most bytes that credit, link and other streams allow.
        max: u32,
    },
}

/// A yamux session without I/O; the module's text says how to drive it.
#[derive(Debug)]
pub struct Session {
    role: Role,
    config: Config,
    streams: HashMap<StreamId, Stream>,
    next_id: u32,
    unacknowledged: usize,
    refused_syns: u32,
    /// Neither side has announced its end: we may open streams.
    may_open: bool,
    /// We have not announced our end: the peer may.
    may_accept: bool,
    /// We have said so, which is done once.
    announced: bool,
    over: bool,

    input: Input,
    /// Streams reset not long ago, and how many bytes may still come for them.
    remembered: HashMap<StreamId, u32>,
    /// The oldest first. An id that was taken again may stand here without, never the other way.
    remembered_order: VecDeque<StreamId>,

    pongs: VecDeque<u32>,
    resets: VecDeque<StreamId>,
    go_away: Option<u32>,
    /// Streams with a SYN, an ACK or credit to write; a stream may stand here without, never the other way.
    control: VecDeque<StreamId>,
    /// Streams with data or a FIN to write, each once in its turn; the same holds.
    turns: VecDeque<StreamId>,
    frame_limit: u32,

    queued: usize,
    /// Streams with a queue, by the time since when their user took nothing.
    waiting: BTreeSet<(Instant, StreamId)>,

    last_received: Instant,
    ping: Ping,
}

#[derive(Debug, Default)]
struct Ping {
    due: bool,
    /// The value and the time of the ping that has no answer yet.
    sent: Option<(u32, Instant)>,
    next_value: u32,
    round_trip: Option<Duration>,
    measured: Option<Instant>,
}

/// Where in a frame the next byte of input belongs.
#[derive(Debug)]
enum Input {
    Header {
        bytes: [u8; HEADER_LEN],
        have: usize,
    },
    /// The header is read; what it says happens step by step, so that each step can be given to the driver.
    Frame {
        header: Header,
        id: StreamId,
        step: Step,
    },
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Syn,
    Ack,
    Body,
    Payload { left: u32, discard: bool },
    End,
}

impl Input {
    const START: Self = Self::Header { bytes: [0; HEADER_LEN], have: 0 };
}

impl Session {
    /// A session over a connection on which nothing was sent yet.
    pub fn new(role: Role, config: Config, now: Instant) -> Self {
        Self {
            role,
            config,
            streams: HashMap::new(),
            next_id: 1,
            unacknowledged: 0,
            refused_syns: 0,
            may_open: role == Role::Relay,
            may_accept: role == Role::Forwarder,
            announced: false,
            over: false,
            input: Input::START,
            remembered: HashMap::new(),
            remembered_order: VecDeque::new(),
            pongs: VecDeque::new(),
            resets: VecDeque::new(),
            go_away: None,
            control: VecDeque::new(),
            turns: VecDeque::new(),
            frame_limit: FRAME_SMALLEST,
            queued: 0,
            waiting: BTreeSet::new(),
            last_received: now,
            ping: Ping::default(),
        }
    }

    /// How many streams live.
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether no stream lives.
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Bytes that wait for users, in all streams.
    pub fn queued_bytes(&self) -> usize {
        self.queued
    }

    /// The shortest round trip measured so far. It is measured only where a window may have to grow.
    pub fn round_trip(&self) -> Option<Duration> {
        self.ping.round_trip
    }

    // ---- input ----

    /// Takes what the link brought, up to the next thing that concerns the driver; call it again until it
    /// gives `None`, which it does once `input` is empty.
    ///
    /// # Errors
    /// The session is over: write what [`poll_transmit`](Self::poll_transmit) still gives (a GoAway, if the
    /// peer is to be told), close, and reset all users.
    pub fn receive<'a>(&mut self, input: &mut &'a [u8], now: Instant) -> Result<Option<Received<'a>>, SessionError> {
        if !input.is_empty() {
            self.last_received = now;
        }
        let received = self.receive_step(input, now);
        if let Err(error) = &received {
            self.end(!matches!(error, SessionError::GoneAway(_)));
        }
        received
    }

    /// The stream and the length of the payload that comes next on the link, when a frame has been begun.
    /// A driver that moves these bytes past [`receive`](Self::receive) says so with
    /// [`received_elsewhere`](Self::received_elsewhere).
    pub fn payload_ahead(&self) -> Option<(StreamId, u32)> {
        match self.input {
            Input::Frame { id, step: Step::Payload { left, discard: false }, .. } if self.streams.contains_key(&id) => {
                Some((id, left))
            }
            _ => None,
        }
    }

    /// `bytes` of what [`payload_ahead`](Self::payload_ahead) announced arrived without passing through
    /// [`receive`](Self::receive). More than announced counts as what was announced.
    pub fn received_elsewhere(&mut self, bytes: u32, now: Instant) {
        self.last_received = now;
        if let Input::Frame { step: Step::Payload { left, .. }, .. } = &mut self.input {
            *left = left.saturating_sub(bytes);
        }
    }

    fn receive_step<'a>(&mut self, input: &mut &'a [u8], now: Instant) -> Result<Option<Received<'a>>, SessionError> {
        if self.over {
            *input = &[];
            return Ok(None);
        }
        loop {
            match self.input {
                Input::Header { ref mut bytes, ref mut have } => {
                    let (taken, rest) = input.split_at(input.len().min(HEADER_LEN - *have));
                    bytes[*have..*have + taken.len()].copy_from_slice(taken);
                    *have += taken.len();
                    *input = rest;
                    if *have < HEADER_LEN {
                        return Ok(None);
                    }
                    let header = Header::decode(*bytes)?;
                    self.input = Input::START;
                    if let Some(received) = self.handle_header(header, now)? {
                        return Ok(Some(received));
                    }
                }
                Input::Frame { header, id, step } => {
                    let (next, received) = match step {
                        Step::Syn => self.handle_syn(header, id, now)?,
                        Step::Ack => (Step::Body, self.handle_ack(header, id)),
                        Step::Body => self.handle_body(header, id)?,
                        Step::Payload { left: 0, .. } => (Step::End, None),
                        Step::Payload { left, discard } => {
                            if input.is_empty() {
                                return Ok(None);
                            }
                            let take = input.len().min(left as usize);
                            let (payload, rest) = input.split_at(take);
                            *input = rest;
                            let step = Step::Payload { left: left - take as u32, discard };
                            let wanted = !discard && self.streams.contains_key(&id);
                            (step, wanted.then_some(Received::Payload(id, payload)))
                        }
                        Step::End => {
                            self.input = Input::START;
                            if let Some(received) = self.handle_end(header, id) {
                                return Ok(Some(received));
                            }
                            continue;
                        }
                    };
                    self.input = Input::Frame { header, id, step: next };
                    if received.is_some() {
                        return Ok(received);
                    }
                }
            }
        }
    }

    fn handle_header(&mut self, header: Header, now: Instant) -> Result<Option<Received<'static>>, SessionError> {
        match header.kind {
            Kind::Data | Kind::WindowUpdate => {
                let id = StreamId::new(header.stream).ok_or(SessionError::StreamZero)?;
                self.input = Input::Frame { header, id, step: Step::Syn };
            }
            // A ping that nobody can answer in time is not worth memory: beyond the bound it is dropped.
            Kind::Ping if header.flags.has(Flags::SYN) => {
                if self.pongs.len() < MAX_PENDING_PONGS {
                    self.pongs.push_back(header.length);
                }
            }
            Kind::Ping => {
                if let Some((_, sent)) = self.ping.sent.take_if(|(value, _)| *value == header.length) {
                    let sample = now.saturating_duration_since(sent);
                    self.ping.round_trip = Some(self.ping.round_trip.map_or(sample, |shortest| shortest.min(sample)));
                    self.ping.measured = Some(now);
                }
            }
            Kind::GoAway if header.length == GO_AWAY_NORMAL => {
                self.may_open = false;
                return Ok(Some(Received::Refusing));
            }
            Kind::GoAway => return Err(SessionError::GoneAway(header.length)),
        }
        Ok(None)
    }

    fn handle_syn(
        &mut self,
        header: Header,
        id: StreamId,
        now: Instant,
    ) -> Result<(Step, Option<Received<'static>>), SessionError> {
        if !header.flags.has(Flags::SYN) {
            return Ok((Step::Ack, None));
        }
        if self.streams.contains_key(&id) {
            return Err(SessionError::DuplicateSyn(id));
        }
        let granted = if header.kind == Kind::WindowUpdate { header.length } else { 0 };
        // Opened and reset at once: it never was.
        if header.flags.has(Flags::RST) {
            return Ok((Self::discard(header, INITIAL_WINDOW, id)?, None));
        }
        let credit = INITIAL_WINDOW.checked_add(granted);
        let takes = self.may_accept && self.living() < self.config.max_streams;
        let (true, Some(send_credit)) = (takes, credit) else {
            if self.role == Role::Relay {
                self.refused_syns += 1;
                if self.refused_syns > MAX_REFUSED_SYNS {
                    return Err(SessionError::UnexpectedSyn);
                }
            }
            self.owe_reset(id)?;
            return Ok((Self::discard(header, INITIAL_WINDOW, id)?, None));
        };
        self.remembered.remove(&id);
        self.streams.insert(id, Stream::new(Opening::Ack, send_credit, now));
        self.want_control(id);
        // The credit is counted; what is left of the frame is its data, or nothing.
        let next = if header.kind == Kind::Data { Step::Body } else { Step::End };
        Ok((next, Some(Received::Opened(id))))
    }

    fn handle_ack(&mut self, header: Header, id: StreamId) -> Option<Received<'static>> {
        let stream = self.streams.get_mut(&id).filter(|_| header.flags.has(Flags::ACK))?;
        let first = std::mem::take(&mut stream.unacknowledged);
        if first {
            self.unacknowledged -= 1;
        }
        first.then_some(Received::Acknowledged(id))
    }

    fn handle_body(&mut self, header: Header, id: StreamId) -> Result<(Step, Option<Received<'static>>), SessionError> {
        let Some(stream) = self.streams.get_mut(&id) else {
            let allowed = self.remembered.get_mut(&id);
            // One that was forgotten may have had the largest window.
            let most = allowed.as_deref().copied().unwrap_or(self.config.max_window.max(INITIAL_WINDOW));
            let step = Self::discard(header, most, id)?;
            if let (Some(allowed), Kind::Data) = (allowed, header.kind) {
                *allowed -= header.length;
            }
            return Ok((step, None));
        };
        match header.kind {
            Kind::Data if header.length == 0 => Ok((Step::End, None)),
            Kind::Data if stream.peer_finished => {
                let step = Self::discard(header, stream.receive.size, id)?;
                Ok((step, Some(self.break_off(id, StreamEnd::DataAfterFin))))
            }
            Kind::Data => {
                stream.receive.credit =
                    stream.receive.credit.checked_sub(header.length).ok_or(SessionError::WindowOverdrawn(id))?;
                Ok((Step::Payload { left: header.length, discard: false }, None))
            }
            _ => match stream.send_credit.checked_add(header.length) {
                Some(credit) => {
                    stream.send_credit = credit;
                    self.want_turn(id);
                    Ok((Step::End, None))
                }
                None => Ok((Step::End, Some(self.break_off(id, StreamEnd::CreditOverflow)))),
            },
        }
    }

    fn handle_end(&mut self, header: Header, id: StreamId) -> Option<Received<'static>> {
        if header.flags.has(Flags::RST) {
            self.remove(id)?;
            return Some(Received::Ended(id, StreamEnd::PeerReset));
        }
        let stream =
            self.streams.get_mut(&id).filter(|stream| header.flags.has(Flags::FIN) && !stream.peer_finished)?;
        stream.peer_finished = true;
        if std::mem::take(&mut stream.unacknowledged) {
            self.unacknowledged -= 1;
        }
        self.remove_if_gone(id);
        Some(Received::Finished(id))
    }

    /// The step that passes over the payload of a frame, if any, for a stream that may have `most` bytes
    /// on their way.
    fn discard(header: Header, most: u32, id: StreamId) -> Result<Step, SessionError> {
        match header.kind {
            Kind::Data if header.length > most => Err(SessionError::StrayData(id.get())),
            Kind::Data => Ok(Step::Payload { left: header.length, discard: true }),
            _ => Ok(Step::End),
        }
    }

    // ---- what became of payload ----

    /// `bytes` of payload went to the user without waiting.
    pub fn delivered(&mut self, id: StreamId, bytes: usize, now: Instant) {
        self.taken(id, bytes, false, now);
    }

    /// `bytes` of payload could not go to the user and wait in the driver's queue. Afterwards call
    /// [`overflowed`](Self::overflowed) until it gives `None`.
    pub fn queued(&mut self, id: StreamId, bytes: usize, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id).filter(|_| bytes > 0) else { return };
        if stream.queued == 0 {
            stream.waiting_since = now;
            self.waiting.insert((now, id));
        }
        stream.queued += bytes as u32;
        self.queued += bytes;
    }

    /// `bytes` left the driver's queue for the user.
    pub fn dequeued(&mut self, id: StreamId, bytes: usize, now: Instant) {
        self.taken(id, bytes, true, now);
    }

    /// While more is queued than [`Config::max_queued`]: resets the stream whose user has gone longest
    /// without taking a byte and names it. The driver drops its queue and tells its user.
    pub fn overflowed(&mut self) -> Option<StreamId> {
        if self.queued <= self.config.max_queued {
            return None;
        }
        let (_, id) = *self.waiting.first()?;
        self.break_off(id, StreamEnd::Stalled);
        Some(id)
    }

    fn taken(&mut self, id: StreamId, bytes: usize, from_queue: bool, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id).filter(|_| bytes > 0) else { return };
        let mut bytes = bytes as u32;
        if from_queue {
            bytes = bytes.min(stream.queued);
            self.waiting.remove(&(stream.waiting_since, id));
            stream.queued -= bytes;
            stream.waiting_since = now;
            if stream.queued > 0 {
                self.waiting.insert((now, id));
            }
            self.queued -= bytes as usize;
        }
        let pressed = self.queued > self.config.max_queued / 2;
        let renewable = !stream.peer_finished && !(pressed && stream.queued > 0);
        if stream.receive.take(bytes, renewable) {
            let round_trip = self.ping.round_trip.filter(|_| !pressed);
            stream.receive.grow(round_trip, self.config.max_window, now);
            self.want_control(id);
            self.want_round_trip(now);
        }
        self.remove_if_gone(id);
    }

    fn want_round_trip(&mut self, now: Instant) {
        let old = self.ping.measured.is_none_or(|at| now.saturating_duration_since(at) >= ROUND_TRIP_AGE);
        self.ping.due |= old && self.ping.sent.is_none();
    }

    // ---- streams ----

    /// Opens a stream; its SYN is due to be written at once.
    ///
    /// # Errors
    /// There are as many as there may be, or there will be no more.
    pub fn open(&mut self, now: Instant) -> Result<StreamId, OpenError> {
        if !self.may_open || self.over {
            return Err(OpenError::Refused);
        }
        if self.living() >= self.config.max_streams || self.unacknowledged >= self.config.max_unacknowledged {
            return Err(OpenError::Full);
        }
        let id = loop {
            let id = self.next_id;
            // Odd ids, from u32::MAX on to 1 again.
            self.next_id = id.wrapping_add(2);
            match StreamId::new(id) {
                Some(id) if !self.streams.contains_key(&id) => break id,
                _ => {}
            }
        };
        self.remembered.remove(&id);
        self.streams.insert(id, Stream::new(Opening::Syn, INITIAL_WINDOW, now));
        self.unacknowledged += 1;
        self.want_control(id);
        Ok(id)
    }

    /// The stream's source has bytes to send. Nothing happens before the peer has granted credit.
    pub fn ready(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.ready = true;
            self.want_turn(id);
        }
    }

    /// The stream's source has ended: a FIN follows what was sent.
    pub fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.sending == Sending::Open) {
            stream.sending = Sending::Finishing;
            self.want_turn(id);
        }
    }

    /// Ends the stream at once, both ways. Data still on its way to us is discarded.
    pub fn reset(&mut self, id: StreamId) {
        if let Some(stream) = self.remove(id) {
            // A stream whose SYN was never written, the peer never knew.
            if stream.opening != Opening::Syn {
                self.remember(id, stream.receive.size);
                self.resets.push_back(id);
            }
        }
    }

    /// Tells the peer that we take no new streams, and opens none any more. Those that live go on.
    pub fn go_away(&mut self) {
        if !self.over && !std::mem::replace(&mut self.announced, true) {
            (self.may_open, self.may_accept) = (false, false);
            self.go_away = Some(GO_AWAY_NORMAL);
        }
    }

    /// Streams that take memory: a reset that the peer does not read counts until it is written, else
    /// opening and resetting would have no bound.
    fn living(&self) -> usize {
        self.streams.len() + self.resets.len()
    }

    fn break_off(&mut self, id: StreamId, why: StreamEnd) -> Received<'static> {
        self.reset(id);
        Received::Ended(id, why)
    }

    fn remove(&mut self, id: StreamId) -> Option<Stream> {
        let stream = self.streams.remove(&id)?;
        if stream.unacknowledged {
            self.unacknowledged -= 1;
        }
        if stream.queued > 0 {
            self.queued -= stream.queued as usize;
            self.waiting.remove(&(stream.waiting_since, id));
        }
        Some(stream)
    }

    fn remove_if_gone(&mut self, id: StreamId) {
        if self.streams.get(&id).is_some_and(Stream::is_gone) {
            self.remove(id);
        }
    }

    /// A reset for a stream that never was one of ours.
    fn owe_reset(&mut self, id: StreamId) -> Result<(), SessionError> {
        if self.resets.len() >= self.config.max_streams {
            return Err(SessionError::TooManyResets);
        }
        self.resets.push_back(id);
        Ok(())
    }

    fn remember(&mut self, id: StreamId, stray: u32) {
        self.remembered.insert(id, stray);
        self.remembered_order.push_back(id);
        if self.remembered_order.len() > MAX_REMEMBERED
            && let Some(oldest) = self.remembered_order.pop_front()
        {
            self.remembered.remove(&oldest);
        }
    }

    // ---- output ----

    /// The largest payload of a frame that suits the link now, in bytes (see [`Pace`](super::Pace)).
    pub fn set_frame_limit(&mut self, bytes: u32) {
        self.frame_limit = bytes.clamp(FRAME_SMALLEST, FRAME_LARGEST);
    }

    /// What to write next; `None` when there is nothing. Pongs come first, then pings, resets and what
    /// opens streams or grants credit, then data and FINs, stream by stream in turn.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.poll_control(now).map(Transmit::Frame).or_else(|| self.poll_turn())
    }

    /// The part of [`poll_transmit`](Self::poll_transmit) that goes ahead of data.
    pub fn poll_control(&mut self, now: Instant) -> Option<Header> {
        if self.over {
            return self.go_away.take().map(|code| Header::of_session(Kind::GoAway, Flags::NONE, code));
        }
        if let Some(value) = self.pongs.pop_front() {
            return Some(Header::of_session(Kind::Ping, Flags::ACK, value));
        }
        if std::mem::take(&mut self.ping.due) {
            let value = self.ping.next_value;
            self.ping.next_value = value.wrapping_add(1);
            self.ping.sent = Some((value, now));
            return Some(Header::of_session(Kind::Ping, Flags::SYN, value));
        }
        if let Some(code) = self.go_away.take() {
            return Some(Header::of_session(Kind::GoAway, Flags::NONE, code));
        }
        if let Some(id) = self.resets.pop_front() {
            return Some(Header::of_stream(Kind::WindowUpdate, Flags::RST, id, 0));
        }
        while let Some(id) = self.control.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.in_control = false;
            if stream.wants_control() {
                let flags = match std::mem::replace(&mut stream.opening, Opening::Done) {
                    Opening::Syn => Flags::SYN,
                    Opening::Ack => Flags::ACK,
                    Opening::Done => Flags::NONE,
                };
                let delta = if stream.receive.due { stream.receive.grant() } else { 0 };
                return Some(Header::of_stream(Kind::WindowUpdate, flags, id, delta));
            }
        }
        None
    }

    fn poll_turn(&mut self) -> Option<Transmit> {
        while let Some(id) = self.turns.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.in_turn = false;
            if !stream.wants_turn() {
                continue;
            }
            if stream.sending == Sending::Finishing {
                stream.sending = Sending::Finished;
                self.remove_if_gone(id);
                return Some(Transmit::Frame(Header::of_stream(Kind::WindowUpdate, Flags::FIN, id, 0)));
            }
            stream.ready = false;
            let limit = if self.turns.is_empty() { self.frame_limit } else { FRAME_SMALLEST };
            return Some(Transmit::Data { stream: id, max: stream.send_credit.min(limit) });
        }
        None
    }

    /// The header for `bytes` of payload that were read from the stream's source after
    /// [`Transmit::Data`] allowed them. `None` when the stream is gone: drop the bytes.
    pub fn sent(&mut self, id: StreamId, bytes: u32) -> Option<Header> {
        let stream = self.streams.get_mut(&id)?;
        debug_assert!(bytes <= stream.send_credit, "the driver keeps to the credit that it was given");
        stream.send_credit = stream.send_credit.saturating_sub(bytes);
        Some(Header::of_stream(Kind::Data, Flags::NONE, id, bytes))
    }

    fn want_control(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !std::mem::replace(&mut stream.in_control, true)
        {
            self.control.push_back(id);
            drop_stale(&mut self.control, &mut self.streams, |stream| &mut stream.in_control);
        }
    }

    fn want_turn(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.wants_turn()
            && !std::mem::replace(&mut stream.in_turn, true)
        {
            self.turns.push_back(id);
            drop_stale(&mut self.turns, &mut self.streams, |stream| &mut stream.in_turn);
        }
    }

    // ---- time and the end ----

    /// When [`handle_timeout`](Self::handle_timeout) has something to do, unless bytes arrive before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.over {
            return None;
        }
        let asked = self.ping.due || self.ping.sent.is_some_and(|(_, sent)| sent >= self.last_received);
        let silence = if asked { self.config.ping_after + self.config.dead_after } else { self.config.ping_after };
        Some(self.last_received + silence)
    }

    /// Asks a silent peer for a sign of life, and gives it up in the end.
    ///
    /// # Errors
    /// [`SessionError::Silent`]: close the connection and reset all users.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), SessionError> {
        let silence = now.saturating_duration_since(self.last_received);
        if self.over || silence < self.config.ping_after {
            return Ok(());
        }
        if silence >= self.config.ping_after + self.config.dead_after {
            self.end(false);
            return Err(SessionError::Silent);
        }
        let asked = self.ping.sent.is_some_and(|(_, sent)| sent >= self.last_received);
        self.ping.due |= !asked;
        Ok(())
    }

    fn end(&mut self, tell: bool) {
        self.over = true;
        self.go_away = tell.then_some(GO_AWAY_PROTOCOL);
        self.streams.clear();
        self.waiting.clear();
        (self.queued, self.unacknowledged) = (0, 0);
        self.remembered.clear();
        for queue in [&mut self.remembered_order, &mut self.resets, &mut self.control, &mut self.turns] {
            queue.clear();
        }
        self.pongs.clear();
        self.ping.due = false;
    }
}

/// A queue of streams keeps the ids of those that are gone until it is read. A peer that opens and
/// resets streams and never reads must not make it grow: beyond twice the streams that live, each of
/// these keeps one place, as its flag says, and the others go.
fn drop_stale(
    queue: &mut VecDeque<StreamId>,
    streams: &mut HashMap<StreamId, Stream>,
    flag: impl Fn(&mut Stream) -> &mut bool,
) {
    if queue.len() <= 2 * streams.len() + STALE_MOST {
        return;
    }
    queue.retain(|id| streams.get_mut(id).is_some_and(|stream| std::mem::take(flag(stream))));
    for id in queue {
        if let Some(stream) = streams.get_mut(id) {
            *flag(stream) = true;
        }
    }
}
