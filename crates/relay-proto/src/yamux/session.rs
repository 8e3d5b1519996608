//! One session: the streams of a link, what arrives for them and what has to be written.

#[cfg(any(test, fuzzing))]
mod check;
mod delivery;
mod input;
mod output;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::input::Input;
use super::frame::{FrameError, Header, StreamId};
use super::memory::{Budget, Held};
use super::pace::FRAME_SMALLEST;
use super::stream::{INITIAL_WINDOW, Opening, Sending, Stream};

/// Pongs that may wait to be written. An honest peer has one ping on its way.
pub const MAX_PENDING_PONGS: usize = 16;
/// Streams that a peer may try to open toward a relay before the session ends.
pub const MAX_REFUSED_SYNS: u32 = 16;
/// Streams reset with data possibly on its way that are remembered.
const MAX_REMEMBERED: usize = 4096;
/// How old a measured round trip may be before it is measured again.
const ROUND_TRIP_AGE: Duration = Duration::from_secs(10);

/// The code of a `GoAway` that announces a normal end.
const GO_AWAY_NORMAL: u32 = 0;
/// The code of a `GoAway` after the peer broke the protocol.
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
    /// The same of this and other sessions together. The session that has to hold more when it is exceeded gives
    /// up streams of its own.
    pub budget: Option<Arc<Budget>>,
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
            budget: None,
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
    /// The peer accepted a stream: another may be opened. [`Finished`](Self::Finished) and
    /// [`Ended`](Self::Ended) say the same of a stream for which this was not given before.
    Acknowledged(StreamId),
    /// Payload. Say what becomes of it with [`Session::delivered`] and [`Session::queued`].
    Payload(StreamId, &'a [u8]),
    /// The peer has no more bytes for the stream.
    Finished(StreamId),
    /// The stream is gone. A reset that it takes is due to be written already.
    Ended(StreamId, StreamEnd),
    /// The peer takes no new streams (`GoAway` 0); those that live go on.
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
    /// The same, when the [`Config::budget`] of all sessions was exceeded.
    CrowdedOut,
}

impl fmt::Display for StreamEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerReset => "reset by the peer",
            Self::DataAfterFin => "the peer sent data after its end",
            Self::CreditOverflow => "the peer granted more credit than 32 bits hold",
            Self::Stalled => "the link's memory was full and this user had gone longest without reading",
            Self::CrowdedOut => "the memory of all links was full and this user had gone longest without reading",
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
#[allow(clippy::struct_excessive_bools, reason = "four facts that are true or not, each alone")]
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
    /// Streams with a SYN or an ACK to write; a stream may stand here without, never the other way.
    control: VecDeque<StreamId>,
    /// Streams with credit to write; the same holds.
    renewals: VecDeque<StreamId>,
    /// Bytes of credit that one renewal may grant; with 0 renewals wait.
    renewal_most: u32,
    /// Streams with data or a FIN to write, each once in its turn; the same holds.
    turns: VecDeque<StreamId>,
    round: u32,

    queued: Held,
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

impl Session {
    /// A session over a connection on which nothing was sent yet.
    pub fn new(role: Role, config: Config, now: Instant) -> Self {
        Self {
            role,
            queued: Held::new(&config),
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
            renewals: VecDeque::new(),
            renewal_most: u32::MAX,
            turns: VecDeque::new(),
            round: FRAME_SMALLEST,
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
        self.queued.bytes()
    }

    /// The shortest round trip measured so far. It is measured only where a window may have to grow.
    pub fn round_trip(&self) -> Option<Duration> {
        self.ping.round_trip
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

    /// Whether the peer has granted no credit for what the stream's source has to send.
    pub fn lacks_credit(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(|stream| stream.send_credit == 0)
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
            self.queued.remove(stream.queued as usize);
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

    /// Asks the peer for a sign of life now, unless it was asked and has not answered.
    pub fn ask(&mut self) {
        self.ping.due |= self.ping.sent.is_none();
    }

    /// When the last byte arrived.
    pub fn last_received(&self) -> Instant {
        self.last_received
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
        self.queued.remove(self.queued.bytes());
        self.unacknowledged = 0;
        self.remembered.clear();
        for queue in
            [&mut self.remembered_order, &mut self.resets, &mut self.control, &mut self.renewals, &mut self.turns]
        {
            queue.clear();
        }
        self.pongs.clear();
        self.ping.due = false;
    }
}
