//! The relay's end of a multiplexed link. It opens streams for users, never sends more than it was granted, reads
//! whatever comes whether anybody takes it or not, and notes what a client must not do.

use std::collections::HashMap;
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relay_net::socket::Socket;
use relay_proto::yamux::{Flags, HEADER_LEN, Header, INITIAL_WINDOW, Kind};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::user::{Came, SLICE_PAUSE};
use crate::conformance::peer::{End, PATIENCE};
use crate::conformance::{Seen, Verdict};

/// Payload is sent in frames of at most so many bytes, as a relay does on a busy link.
const FRAME: u32 = 64 * 1024;

/// A link; dropping it closes the connection.
pub(super) struct Link {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    state: Mutex<State>,
    /// Something has come.
    changed: Notify,
    out: mpsc::UnboundedSender<Piece>,
}

/// What goes out with one write, or with one for each byte. Only as much as the client granted waits here, and what
/// a check floods it with.
enum Piece {
    Whole(Vec<u8>),
    Sliced(Vec<u8>),
}

/// What is known of the session.
#[derive(Default)]
pub(super) struct State {
    streams: HashMap<u32, Half>,
    last_opened: u32,
    /// The values of the pongs that came.
    pub(super) pongs: Vec<u32>,
    /// What the client must not do.
    breach: Option<Seen>,
    /// How the connection ended.
    over: Option<Seen>,
}

/// What is known of one stream.
pub(super) struct Half {
    /// What came and nobody has taken yet.
    pub(super) came: Vec<u8>,
    pub(super) end: Option<End>,
    pub(super) acks: u32,
    /// What we may send.
    credit: u64,
    /// What the client may still send.
    window: u32,
    /// What was taken and has not been granted again.
    taken: u32,
    /// Whether it is granted again.
    renews: bool,
    /// Whether we reset it: what was on its way comes all the same.
    reset: bool,
}

impl Half {
    fn new() -> Self {
        Self {
            came: Vec::new(),
            end: None,
            acks: 0,
            credit: INITIAL_WINDOW.into(),
            window: INITIAL_WINDOW,
            taken: 0,
            renews: true,
            reset: false,
        }
    }
}

impl Link {
    /// Takes over a connection whose lines have been said.
    pub(super) fn start(socket: Socket, ahead: Vec<u8>) -> Self {
        let (out, pieces) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Notify::new(), out });
        let socket = Arc::new(socket);
        let mut tasks = JoinSet::new();
        tasks.spawn(write(socket.clone(), pieces));
        tasks.spawn(read(socket, ahead, shared.clone()));
        Self { shared, _tasks: tasks }
    }

    /// A stream for a user who says `first` at once.
    pub(super) fn open(&self, first: &[u8]) -> Stream {
        let stream = self.next_stream();
        self.raw([header(Kind::WindowUpdate, Flags::SYN, stream.id, 0), stream.data(first)].concat());
        stream
    }

    /// The next stream, of which the client has yet to be told.
    pub(super) fn next_stream(&self) -> Stream {
        let last = self.shared.state().last_opened;
        self.stream_of(if last == 0 { 1 } else { last.wrapping_add(2) })
    }

    /// A stream of that number, of which the client has yet to be told.
    pub(super) fn stream_of(&self, id: u32) -> Stream {
        let mut state = self.shared.state();
        state.last_opened = id;
        state.streams.insert(id, Half::new());
        Stream { shared: self.shared.clone(), id }
    }

    /// Sends bytes as they are, in one write.
    pub(super) fn raw(&self, bytes: impl Into<Vec<u8>>) {
        self.shared.send(Piece::Whole(bytes.into()));
    }

    /// Sends bytes as they are, each on its own.
    pub(super) fn raw_sliced(&self, bytes: impl Into<Vec<u8>>) {
        self.shared.send(Piece::Sliced(bytes.into()));
    }

    /// Waits for the value that `look` finds in what has come.
    ///
    /// # Errors
    /// The client broke the protocol or ended the link, or what is waited for does not come.
    pub(super) async fn until<T>(&self, what: &str, look: impl FnMut(&mut State) -> Option<T>) -> Verdict<T> {
        self.shared.until(what, look).await
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, piece: Piece) {
        // Fails only after the link has ended, which whoever waits for an answer is told.
        let _ = self.out.send(piece);
    }

    async fn until<T>(&self, what: &str, mut look: impl FnMut(&mut State) -> Option<T>) -> Verdict<T> {
        let waits = async {
            loop {
                let changed = self.changed.notified();
                {
                    let mut state = self.state();
                    if let Some(breach) = &state.breach {
                        return Err(breach.clone());
                    }
                    if let Some(found) = look(&mut state) {
                        return Ok(found);
                    }
                    if let Some(over) = &state.over {
                        return Err(over.clone().at(what));
                    }
                }
                changed.await;
            }
        };
        let late = || Err(format!("{what}: nothing within {} s", PATIENCE.as_secs()).into());
        timeout(PATIENCE, waits).await.unwrap_or_else(|_| late())
    }
}

/// One user's stream.
#[derive(Clone)]
pub(super) struct Stream {
    shared: Arc<Shared>,
    pub(super) id: u32,
}

impl Stream {
    /// Sends as the client grants room for it.
    pub(super) async fn send(&self, bytes: &[u8]) -> Verdict {
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = u64::from(FRAME).min(rest.len() as u64);
            let length = self.until("credit", |half| {
                let length = half.credit.min(most);
                half.credit -= length;
                (length > 0).then_some(length)
            });
            let (now, later) = rest.split_at(usize::try_from(length.await?).unwrap_or_default());
            self.shared.send(Piece::Whole(frame(Flags::NONE, self.id, now)));
            rest = later;
        }
        Ok(())
    }

    /// The frame of some first bytes, which the client's first window has room for; nothing if there are none.
    pub(super) fn data(&self, bytes: &[u8]) -> Vec<u8> {
        if let Some(half) = self.shared.state().streams.get_mut(&self.id) {
            half.credit = half.credit.saturating_sub(bytes.len() as u64);
        }
        if bytes.is_empty() { Vec::new() } else { frame(Flags::NONE, self.id, bytes) }
    }

    /// A frame of this stream without payload.
    pub(super) fn control(&self, flags: Flags, granted: u32) -> Vec<u8> {
        header(Kind::WindowUpdate, flags, self.id, granted)
    }

    pub(super) fn finish(&self) {
        self.shared.send(Piece::Whole(self.control(Flags::FIN, 0)));
    }

    pub(super) fn reset(&self) {
        if let Some(half) = self.shared.state().streams.get_mut(&self.id) {
            half.reset = true;
        }
        self.shared.send(Piece::Whole(self.control(Flags::RST, 0)));
    }

    /// Grants again what is taken from now on, or no longer.
    pub(super) fn renew(&self, renews: bool) {
        if let Some(half) = self.shared.state().streams.get_mut(&self.id) {
            half.renews = renews;
        }
    }

    /// Grants more, beside what is granted for what was taken.
    pub(super) fn grant(&self, bytes: u32) {
        if let Some(half) = self.shared.state().streams.get_mut(&self.id) {
            half.window += bytes;
        }
        self.shared.send(Piece::Whole(self.control(Flags::NONE, bytes)));
    }

    /// What came since it was last asked, or the end behind it.
    pub(super) async fn next(&self) -> Verdict<Came> {
        let mut granted = 0;
        let came = self.until("an answer", |half| {
            if half.came.is_empty() {
                return half.end.map(Came::End);
            }
            let came = take(&mut half.came);
            half.taken += u32::try_from(came.len()).unwrap_or_default();
            if half.renews && half.taken >= INITIAL_WINDOW / 2 {
                granted = take(&mut half.taken);
                half.window += granted;
            }
            Some(Came::Bytes(came))
        });
        let came = came.await?;
        if granted > 0 {
            self.shared.send(Piece::Whole(self.control(Flags::NONE, granted)));
        }
        Ok(came)
    }

    /// Waits for what `look` finds in this stream, as [`Link::until`].
    pub(super) async fn until<T>(&self, what: &str, mut look: impl FnMut(&mut Half) -> Option<T>) -> Verdict<T> {
        let of_stream = |state: &mut State| state.streams.get_mut(&self.id).and_then(&mut look);
        self.shared.until(what, of_stream).await.map_err(|seen| seen.at(format_args!("stream {}", self.id)))
    }
}

async fn write(socket: Arc<Socket>, mut pieces: mpsc::UnboundedReceiver<Piece>) {
    while let Some(piece) = pieces.recv().await {
        let written = match piece {
            Piece::Whole(bytes) => socket.write_all(&bytes).await,
            Piece::Sliced(bytes) => {
                let mut written = Ok(());
                for byte in bytes {
                    written = socket.write_all(&[byte]).await;
                    sleep(SLICE_PAUSE).await;
                }
                written
            }
        };
        // What the reader finds says more than an error here.
        if written.is_err() {
            return;
        }
    }
}

async fn read(socket: Arc<Socket>, mut unread: Vec<u8>, shared: Arc<Shared>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let over = {
            let mut state = shared.state();
            let mut input = &unread[..];
            while let Some((header, body)) = state.next_frame(&mut input) {
                state.heard(header, body, &shared.out);
            }
            unread = input.to_vec();
            state.breach.is_some()
        };
        shared.changed.notify_waiters();
        if over {
            return;
        }
        match socket.read(&mut buffer).await {
            Ok(read) if read > 0 => unread.extend_from_slice(&buffer[..read]),
            ended => {
                let how = if ended.is_ok() { "ended" } else { "reset" };
                shared.state().over = Some(format!("the client has {how} the link").into());
                return shared.changed.notify_waiters();
            }
        }
    }
}

impl State {
    /// The next frame that has come in whole. A length that was not granted is a breach before its bytes are waited for.
    fn next_frame<'a>(&mut self, input: &mut &'a [u8]) -> Option<(Header, &'a [u8])> {
        let (bytes, rest) = input.split_first_chunk::<HEADER_LEN>().filter(|_| self.breach.is_none())?;
        let header = match Header::decode(*bytes) {
            Ok(header) => header,
            Err(error) => {
                self.breach = Some(format!("what the client sent is no frame: {error:?}").into());
                return None;
            }
        };
        if header.kind != Kind::Data {
            *input = rest;
            return Some((header, &[]));
        }
        let window = self.streams.get(&header.stream).map_or(0, |half| half.window);
        if header.length > window {
            let Header { stream, length, .. } = header;
            let beyond = format!("{length} bytes on stream {stream} where {window} were granted");
            self.breach = Some(beyond.into());
            return None;
        }
        let (body, rest) = rest.split_at_checked(header.length as usize)?;
        *input = rest;
        Some((header, body))
    }

    fn heard(&mut self, header: Header, body: &[u8], out: &mpsc::UnboundedSender<Piece>) {
        let Header { kind, flags, length, .. } = header;
        match kind {
            Kind::Ping if flags.has(Flags::SYN) => {
                let pong = Header { flags: Flags::ACK, ..header };
                let _ = out.send(Piece::Whole(pong.encode().to_vec()));
            }
            Kind::Ping => self.pongs.push(length),
            Kind::GoAway if length == 0 => {}
            Kind::GoAway => self.breach = Some(format!("the client ends the session with code {length}").into()),
            Kind::Data | Kind::WindowUpdate => self.breach = self.heard_of(header, body).err(),
        }
    }

    fn heard_of(&mut self, header: Header, body: &[u8]) -> Verdict {
        let Header { kind, flags, stream, length } = header;
        if flags.has(Flags::SYN) {
            return Err(format!("the client opens stream {stream}, and only a relay may").into());
        }
        let Some(half) = self.streams.get_mut(&stream) else {
            // Whoever was sent frames of an unknown stream may answer with a reset.
            let answer = flags.has(Flags::RST);
            return if answer { Ok(()) } else { Err(format!("a frame of stream {stream}, which is not open").into()) };
        };
        if flags.has(Flags::ACK) {
            half.acks += 1;
        }
        if kind == Kind::WindowUpdate {
            half.credit = half.credit.saturating_add(length.into());
        } else if half.reset {
            half.window -= length;
        } else if half.end.is_some() && length > 0 {
            return Err(format!("{length} bytes on stream {stream} behind its end").into());
        } else {
            half.window -= length;
            half.came.extend_from_slice(body);
        }
        if flags.has(Flags::RST) {
            half.end = Some(End::Reset);
        } else if flags.has(Flags::FIN) {
            if half.end == Some(End::Clean) {
                return Err(format!("a second FIN of stream {stream}, at which old relays end the session").into());
            }
            half.end = half.end.or(Some(End::Clean));
        }
        Ok(())
    }
}

/// A frame without payload.
pub(super) fn header(kind: Kind, flags: Flags, stream: u32, length: u32) -> Vec<u8> {
    Header { kind, flags, stream, length }.encode().to_vec()
}

/// A frame with payload.
pub(super) fn frame(flags: Flags, stream: u32, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&header(Kind::Data, flags, stream, length), bytes].concat()
}
