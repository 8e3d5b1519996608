//! One user's stream: a pipe between a socket and the link.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use relay_proto::yamux::{StreamEnd, StreamId};
use tokio::io::Interest;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time;

use super::link::Shared;
use crate::pipe::{Beginning, End, Moved};
use crate::socket::Socket;
use crate::splice::{BULK, KernelPipe};

/// Which party the socket given to a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A user of the relay: the stream leads to the service.
    User,
    /// The service behind the forwarder: the stream leads to the user.
    Service,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::User => Self::Service,
            Self::Service => Self::User,
        }
    }

    fn aborted(self, kind: io::ErrorKind) -> End {
        match self {
            Self::User => End::UserAborted(kind),
            Self::Service => End::ServiceAborted(kind),
        }
    }
}

/// Why a stream is no longer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause {
    Stream(StreamEnd),
    LinkLost,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(end) => end.fmt(f),
            Self::LinkLost => f.write_str("the link was lost"),
        }
    }
}

/// What the link's tasks and the stream's own task share about one stream.
pub(super) struct Slot {
    id: StreamId,
    /// Held until the peer has accepted the stream.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
    socket: OnceLock<Arc<Socket>>,
    inbox: Mutex<Inbox>,
    source: Mutex<Source>,
    /// How what goes to the link begins, if that is not simply what the socket gives.
    beginning: Option<Box<Mutex<Beginning>>>,
    /// The last read of the source was so large that the next is to be spliced.
    bulk: AtomicBool,
    /// Asks for the stream's turn when the socket becomes readable.
    ask: OnceLock<Waker>,
    /// Our end of the stream is written.
    finished_sending: AtomicBool,
    ended: AtomicBool,
    up: Notify,
    down: Notify,
    sent: AtomicU64,
    delivered: AtomicU64,
}

/// What has arrived for the socket. Its lock is held while the socket is written to, so that what the
/// reader writes and what was queued before never change places.
pub(super) struct Inbox {
    socket: Option<Arc<Socket>>,
    /// What the socket did not take: at most the stream's window.
    queue: VecDeque<u8>,
    /// The peer's end of the stream stands behind the queue.
    finished: bool,
    failed: Option<io::ErrorKind>,
    cause: Option<Cause>,
}

/// What was found when the socket was last read for the link.
#[derive(Clone, Copy)]
enum Source {
    /// It has something, and it is the link's turn.
    Asked,
    Drained,
    Ended,
    Failed(io::ErrorKind),
    /// Its party may not begin as it did.
    Refused,
}

/// What a read for the link gave.
pub(super) enum Read {
    Bytes(usize),
    End,
    Nothing,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    pub(super) fn new(id: StreamId, permit: Option<OwnedSemaphorePermit>, beginning: Beginning) -> Self {
        let is_plain = beginning.ahead.is_empty() && beginning.refuses.is_none();
        let inbox = Inbox { socket: None, queue: VecDeque::new(), finished: false, failed: None, cause: None };
        Self {
            id,
            permit: Mutex::new(permit),
            socket: OnceLock::new(),
            inbox: Mutex::new(inbox),
            source: Mutex::new(Source::Drained),
            beginning: (!is_plain).then(|| Box::new(Mutex::new(beginning))),
            bulk: AtomicBool::new(false),
            ask: OnceLock::new(),
            finished_sending: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            up: Notify::new(),
            down: Notify::new(),
            sent: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
        }
    }

    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        lock(&self.inbox)
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// The peer has accepted the stream, or it is over: another may be opened.
    pub(super) fn acknowledge(&self) {
        lock(&self.permit).take();
    }

    /// The peer sends no more.
    pub(super) fn finish(&self) {
        self.acknowledge();
        self.inbox().finished = true;
        self.wake_down();
    }

    pub(super) fn finished_sending(&self) {
        self.finished_sending.store(true, Ordering::Relaxed);
    }

    /// Both sides have said all; perhaps not all has been delivered.
    pub(super) fn is_complete(&self) -> bool {
        self.finished_sending.load(Ordering::Relaxed) && self.inbox().finished
    }

    /// The stream is gone; what is queued will never be delivered.
    pub(super) fn end(&self, cause: Cause) {
        self.acknowledge();
        self.ended.store(true, Ordering::Relaxed);
        let mut inbox = self.inbox();
        inbox.cause.get_or_insert(cause);
        inbox.queue = VecDeque::new();
        drop(inbox);
        self.wake_down();
    }

    pub(super) fn wake_down(&self) {
        self.down.notify_one();
    }

    pub(super) fn count_delivered(&self, bytes: usize) {
        self.delivered.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether the socket has failed. Whoever meets its error first is the only one to see it: to the
    /// others it then looks as if its party had finished.
    fn failure(&self) -> Option<io::ErrorKind> {
        self.inbox().failed
    }

    /// Reads from the socket for the link. When it gives nothing, the stream asks for its turn again once there is
    /// something, or its task is told what to do.
    pub(super) fn read_source(&self, buffer: &mut [u8]) -> Read {
        let ahead = self.beginning.as_ref().map_or(0, |beginning| lock(beginning).give(buffer));
        if ahead > 0 {
            return Read::Bytes(ahead);
        }
        let (Some(socket), Some(ask)) = (self.socket.get(), self.ask.get()) else { return Read::Nothing };
        let (read, source) = loop {
            break match socket.try_read(buffer) {
                Ok(0) => match self.failure() {
                    None => (Read::End, Source::Ended),
                    Some(kind) => (Read::Nothing, Source::Failed(kind)),
                },
                Ok(read) if self.refuses(&buffer[..read]) => (Read::Nothing, Source::Refused),
                Ok(read) => {
                    self.bulk.store(read >= BULK, Ordering::Relaxed);
                    return Read::Bytes(read);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Before the question, as its answer may come at once.
                    *lock(&self.source) = Source::Drained;
                    match socket.poll_read_ready(&mut Context::from_waker(ask)) {
                        Poll::Pending => return Read::Nothing,
                        Poll::Ready(Ok(())) => {
                            *lock(&self.source) = Source::Asked;
                            continue;
                        }
                        Poll::Ready(Err(error)) => (Read::Nothing, Source::Failed(error.kind())),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => (Read::Nothing, Source::Failed(error.kind())),
            };
        };
        *lock(&self.source) = source;
        self.up.notify_one();
        read
    }

    /// Whether the socket's party may not begin with these bytes, which are its first.
    fn refuses(&self, bytes: &[u8]) -> bool {
        let refuses = self.beginning.as_ref().and_then(|beginning| lock(beginning).refuses.take());
        refuses.is_some_and(|refuses| refuses(bytes))
    }

    /// Moves at most `most` bytes of a bulky source into a pipe. `None` where that cannot be or is not worth it, or
    /// where a read has to say why nothing came.
    pub(super) fn splice_source(&self, most: usize) -> Option<KernelPipe> {
        if most < BULK || !self.bulk.load(Ordering::Relaxed) {
            return None;
        }
        let stream = self.socket.get()?.bare_tcp()?;
        let mut pipe = KernelPipe::get()?;
        let moved = match pipe.fill(stream, most) {
            Ok(moved) => moved,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                // A read will not see it any more.
                self.inbox().fail(error.kind());
                0
            }
        };
        self.bulk.store(moved >= BULK, Ordering::Relaxed);
        (moved > 0).then_some(pipe)
    }

    /// Whether bytes wait, for the link or for the socket.
    fn holds(&self) -> bool {
        matches!(*lock(&self.source), Source::Asked) || !self.inbox().queue.is_empty()
    }

    fn moved(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.delivered.load(Ordering::Relaxed))
    }
}

impl Inbox {
    /// The socket, if bytes may go to it past the queue.
    pub(super) fn spliceable(&self) -> Option<Arc<Socket>> {
        let open = self.cause.is_none() && self.failed.is_none() && self.queue.is_empty();
        self.socket.clone().filter(|socket| open && socket.bare_tcp().is_some())
    }

    /// Whether the socket holds ciphertext that its task has to flush.
    pub(super) fn is_unflushed(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| socket.is_unflushed())
    }

    pub(super) fn fail(&mut self, kind: io::ErrorKind) {
        self.failed = Some(kind);
    }

    /// Writes what the socket takes at once, unless other bytes stand before. Gives how much that was;
    /// `None` when there is nobody left to have them.
    pub(super) fn write_through(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.cause.is_some() || self.failed.is_some() {
            return None;
        }
        let Some(socket) = self.socket.as_ref().filter(|_| self.queue.is_empty()) else { return Some(0) };
        let mut written = 0;
        while written < bytes.len() {
            match socket.try_write(&bytes[written..]) {
                Ok(taken) => written += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = Some(error.kind());
                    return None;
                }
            }
        }
        Some(written)
    }

    pub(super) fn queue(&mut self, bytes: &[u8]) {
        self.queue.extend(bytes);
    }

    /// Writes what the socket takes of the queue; gives how much that was.
    fn write_queue(&mut self) -> usize {
        let Some(socket) = &self.socket else { return 0 };
        let mut written = 0;
        while !self.queue.is_empty() {
            match socket.try_write(self.queue.as_slices().0) {
                Ok(taken) => {
                    self.queue.drain(..taken);
                    written += taken;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = Some(error.kind());
                    break;
                }
            }
        }
        // What is counted is what waits: the room that it takes must not stay far above.
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        } else if self.queue.len() <= self.queue.capacity() / 4 {
            self.queue.shrink_to(2 * self.queue.len());
        }
        written
    }
}

/// Asks for a stream's turn when woken.
struct Ask {
    shared: Weak<Shared>,
    slot: Weak<Slot>,
}

impl Wake for Ask {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let (Some(shared), Some(slot)) = (self.shared.upgrade(), self.slot.upgrade()) else { return };
        match &mut *lock(&slot.source) {
            // Woken by what has been read meanwhile.
            Source::Ended | Source::Failed(_) | Source::Refused => return,
            source => *source = Source::Asked,
        }
        let sleeper = {
            let mut state = shared.state();
            state.session.ready(slot.id);
            state.news()
        };
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }
}

/// How soon to look again whether a socket whose party has gone is still read.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How a pipe ended, seen from its socket.
enum Failure {
    Socket(io::ErrorKind),
    Stream(Cause),
    Idle,
    Refused,
}

/// One user's stream. Dropping it resets it.
pub struct Stream {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    done: bool,
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, slot: Arc<Slot>) -> Self {
        Self { shared, slot, done: false }
    }

    /// Pipes between `socket` and the stream until both directions have ended and the kernel has delivered
    /// the rest. Each side's end-of-file is passed on; an abort of one side becomes a reset of the other. When
    /// one direction has ended and no byte has moved in the other for `idle`, both are reset, unless the
    /// socket's party is still taking what the kernel holds for it. Dropping the future resets both.
    pub fn pipe(self, socket: Socket, side: Side, moved: &Moved, idle: Duration) -> impl Future<Output = End> + Send {
        // Until the good end, every other way out is an abort; so is the death of the process.
        socket.reset_on_close();
        let socket = Arc::new(socket);
        async move {
            let slot = self.slot.clone();
            let _count = CountWhenDone { slot: &slot, side, moved };
            match self.carry(&socket, idle).await {
                Ok(()) => End::Done,
                Err(Failure::Idle) => End::Idle,
                Err(Failure::Refused) => End::Refused,
                Err(Failure::Stream(Cause::Stream(StreamEnd::Stalled))) => End::Stalled,
                Err(Failure::Stream(Cause::Stream(StreamEnd::CrowdedOut))) => End::CrowdedOut,
                Err(Failure::Socket(kind)) => side.aborted(kind),
                Err(Failure::Stream(cause)) => {
                    tracing::debug!(stream = %slot.id, %cause, "stream ended");
                    side.other().aborted(io::ErrorKind::ConnectionReset)
                }
            }
        }
    }

    async fn carry(mut self, socket: &Arc<Socket>, idle: Duration) -> Result<(), Failure> {
        self.run(socket, idle).await?;
        self.done = true;
        drop(self);
        socket.flushed().await.map_err(Failure::socket)?;
        socket.deliver_on_close();
        Ok(())
    }

    /// Resets the stream: the party at its other end sees a reset.
    pub fn reset(self) {}

    /// Waits until the peer resets the stream, or the link ends. Cancel safe.
    pub async fn was_reset(&self) {
        self.ended().await;
    }

    async fn ended(&self) -> Cause {
        loop {
            let cause = self.slot.inbox().cause;
            match cause {
                Some(cause) => return cause,
                None => self.slot.down.notified().await,
            }
        }
    }

    async fn run(&self, socket: &Arc<Socket>, idle: Duration) -> Result<(), Failure> {
        // Set once, by the only pipe that a stream can have.
        let _ = self.slot.socket.set(socket.clone());
        self.slot.inbox().socket = Some(socket.clone());
        let mut up = std::pin::pin!(self.up(socket));
        let mut down = std::pin::pin!(self.down(socket));
        tokio::select! {
            result = &mut up => {
                result?;
                tokio::select! {
                    result = down => result,
                    failure = self.failed(socket) => Err(failure),
                    failure = self.idle(socket, idle) => Err(failure),
                }
            }
            result = &mut down => {
                result?;
                tokio::select! {
                    result = up => result,
                    cause = self.ended() => Err(Failure::Stream(cause)),
                    failure = self.idle(socket, idle) => Err(failure),
                }
            }
        }
    }

    /// From the socket to the link: asks for the stream's first turn. From then on the link's task reads the socket
    /// whenever there is something and room for it, and says how it ended.
    async fn up(&self, socket: &Socket) -> Result<(), Failure> {
        let ask = Arc::new(Ask { shared: Arc::downgrade(&self.shared), slot: Arc::downgrade(&self.slot) });
        // Set once, by the only pipe that a stream can have.
        let ask = self.slot.ask.get_or_init(|| Waker::from(ask));
        ask.wake_by_ref();
        let mut aborted = false;
        loop {
            let source = *lock(&self.slot.source);
            match source {
                Source::Ended => return Ok(()),
                Source::Failed(kind) => return Err(Failure::Socket(kind)),
                Source::Refused => return Err(Failure::Refused),
                // Its party has gone, and the peer grants no credit or the link is full: nobody reads the socket
                // to the end.
                Source::Asked if aborted && self.shared.holds_up(self.slot.id) => {
                    return Err(self.failed(socket).await);
                }
                Source::Asked | Source::Drained => tokio::select! {
                    () = self.slot.up.notified() => {}
                    _ = socket.ready(Interest::ERROR), if !aborted => aborted = true,
                    () = time::sleep(LOOK_AGAIN), if aborted => {}
                },
            }
        }
    }

    /// From the link to the socket: what the link's reader could not write at once, then the end.
    async fn down(&self, socket: &Socket) -> Result<(), Failure> {
        loop {
            let (written, queues, finished) = {
                let mut inbox = self.slot.inbox();
                if let Some(cause) = inbox.cause {
                    return Err(Failure::Stream(cause));
                }
                let written = inbox.write_queue();
                if written > 0 {
                    // The inbox stays locked: the reader must not account for what comes next before.
                    self.shared.state().session.dequeued(self.slot.id, written, Instant::now());
                    self.slot.count_delivered(written);
                }
                if let Some(kind) = inbox.failed {
                    return Err(Failure::Socket(kind));
                }
                (written, !inbox.queue.is_empty(), inbox.finished)
            };
            let ends = finished && !queues;
            if written > 0 || ends {
                self.shared.tell();
            }
            if ends {
                socket.shutdown_write().map_err(Failure::socket)?;
                return socket.taken().await.map_err(Failure::socket);
            }
            let waits = queues || !socket.flush().map_err(Failure::socket)?;
            if waits {
                tokio::select! {
                    writable = socket.writable() => writable.map_err(Failure::socket)?,
                    () = self.slot.down.notified() => {}
                }
            } else {
                self.slot.down.notified().await;
            }
        }
    }

    /// Waits until the socket's party has aborted. Only for a socket that nobody reads: who reads it finds
    /// out by itself, after the bytes that came before.
    async fn failed(&self, socket: &Socket) -> Failure {
        let ready = socket.ready(Interest::ERROR).await;
        let mut inbox = self.slot.inbox();
        let kind = match inbox.failed {
            Some(kind) => kind,
            None => ready.err().unwrap_or_else(|| socket.failure()).kind(),
        };
        inbox.failed = Some(kind);
        Failure::Socket(kind)
    }

    /// Waits until nothing has moved for `idle`, to within a quarter of it. What waits for a party that has
    /// paused counts as moving.
    async fn idle(&self, socket: &Socket, idle: Duration) -> Failure {
        let mut seen = self.slot.moved();
        let mut since = time::Instant::now();
        while since.elapsed() < idle {
            time::sleep(idle / 4).await;
            let moved = self.slot.moved();
            if moved != seen || socket.unsent() > 0 || self.slot.holds() {
                (seen, since) = (moved, time::Instant::now());
            }
        }
        Failure::Idle
    }
}

impl Failure {
    #[allow(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
    fn socket(error: io::Error) -> Self {
        Self::Socket(error.kind())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        // The id may have been given to another stream by now.
        if state.slots.get(&self.slot.id).is_some_and(|slot| Arc::ptr_eq(slot, &self.slot)) {
            state.slots.remove(&self.slot.id);
            if !self.done {
                state.session.reset(self.slot.id);
            }
        }
        drop(state);
        // Only now does the session, too, have room for another.
        self.slot.acknowledge();
        self.shared.tell();
    }
}

/// Adds what was moved to the tunnel's count, however the pipe ends.
struct CountWhenDone<'a> {
    slot: &'a Slot,
    side: Side,
    moved: &'a Moved,
}

impl Drop for CountWhenDone<'_> {
    fn drop(&mut self) {
        let (sent, delivered) = self.slot.moved();
        let (up, down) = match self.side {
            Side::User => (sent, delivered),
            Side::Service => (delivered, sent),
        };
        self.moved.up.fetch_add(up, Ordering::Relaxed);
        self.moved.down.fetch_add(down, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::super::{Config, Link, Role};
    use super::*;

    /// The runtime wakes after it has said that the socket is ready, on another thread.
    #[tokio::test]
    async fn a_wake_that_comes_late_does_not_hide_how_a_source_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let link = Link::start(Role::Relay, wire, vec![], Config::default());
        let stream = link.open().await.unwrap();
        let ask = Arc::new(Ask { shared: Arc::downgrade(&link.0), slot: Arc::downgrade(&stream.slot) });
        ask.wake_by_ref();
        assert!(matches!(*lock(&stream.slot.source), Source::Asked));
        for ended in [Source::Ended, Source::Failed(io::ErrorKind::ConnectionReset)] {
            *lock(&stream.slot.source) = ended;
            ask.wake_by_ref();
            assert!(!matches!(*lock(&stream.slot.source), Source::Asked));
        }
    }
}
