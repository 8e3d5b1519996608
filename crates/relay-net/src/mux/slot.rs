//! What the link's task and the owner of a stream share about it.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use relay_proto::yamux::{StreamEnd, StreamId};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::inbox::Inbox;
use super::link::Shared;
use super::outbox::Outbox;
use crate::pipe::{Beginning, Refuses};
use crate::socket::Socket;
use crate::splice::{BULK, KernelPipe};

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

impl std::error::Error for Cause {}

impl From<Cause> for io::Error {
    fn from(cause: Cause) -> Self {
        Self::new(io::ErrorKind::ConnectionReset, cause)
    }
}

/// One stream, as the link's task and its owner see it: a pipe between the stream and a socket, or a program that reads
/// and writes by itself and may make it a pipe later.
pub(super) struct Slot {
    pub(super) id: StreamId,
    /// Held until the peer has accepted the stream.
    permit: Mutex<Option<OwnedSemaphorePermit>>,
    inbox: Mutex<Inbox>,
    outbox: Mutex<Outbox>,
    /// Where a pipe's bytes come from. Without one, they come from the outbox.
    pub(super) socket: OnceLock<Arc<Socket>>,
    source: Mutex<Source>,
    /// What the socket's party may not begin with, and whether it has begun.
    refuses: Option<Refuses>,
    begun: AtomicBool,
    /// The last read of the source was so large that the next is to be spliced.
    bulk: AtomicBool,
    /// It has been so before, and the socket is set up for it.
    prepared: AtomicBool,
    /// Asks for the stream's turn when the socket becomes readable.
    pub(super) ask: OnceLock<Waker>,
    /// Our end of the stream is written.
    finished_sending: AtomicBool,
    ended: AtomicBool,
    pub(super) up: Notify,
    pub(super) down: Notify,
    sent: AtomicU64,
    delivered: AtomicU64,
}

/// What was found when the socket was last read for the link.
#[derive(Clone, Copy)]
pub(super) enum Source {
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

/// Has the task of `context` woken by whoever takes it from there.
pub(super) fn wait(waker: &mut Option<Waker>, context: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(context.waker()),
        None => *waker = Some(context.waker().clone()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    pub(super) fn new(id: StreamId, permit: Option<OwnedSemaphorePermit>, beginning: Beginning) -> Self {
        Self {
            id,
            permit: Mutex::new(permit),
            inbox: Mutex::default(),
            outbox: Mutex::new(Outbox::holding(beginning.ahead)),
            socket: OnceLock::new(),
            source: Mutex::new(Source::Drained),
            refuses: beginning.refuses,
            begun: AtomicBool::new(false),
            bulk: AtomicBool::new(false),
            prepared: AtomicBool::new(false),
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

    pub(super) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        lock(&self.outbox)
    }

    pub(super) fn source(&self) -> Source {
        *lock(&self.source)
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

    /// The link has taken our end of the stream.
    pub(super) fn finished_sending(&self) {
        let mut outbox = self.outbox();
        outbox.end_taken();
        self.finished_sending.store(true, Ordering::Relaxed);
    }

    pub(super) fn has_finished_sending(&self) -> bool {
        self.finished_sending.load(Ordering::Relaxed)
    }

    /// Whether a program has to hear when what it wrote has left.
    pub(super) fn is_written_by_program(&self) -> bool {
        self.socket.get().is_none()
    }

    /// The kernel has all that the link has taken.
    pub(super) fn settle(&self) {
        let mut outbox = self.outbox();
        let writer = if self.is_ended() { None } else { outbox.settle() };
        drop(outbox);
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    /// Both sides have said all; perhaps not all has been delivered.
    pub(super) fn is_complete(&self) -> bool {
        self.has_finished_sending() && self.inbox().finished
    }

    /// The stream is gone; what is queued will never be delivered.
    pub(super) fn end(&self, cause: Cause) {
        self.acknowledge();
        self.ended.store(true, Ordering::Relaxed);
        self.inbox().end(cause);
        let writer = self.outbox().end();
        if let Some(writer) = writer {
            writer.wake();
        }
        self.wake_down();
    }

    /// Why the stream has ended; only to be asked when it has.
    pub(super) fn lost(&self) -> io::Error {
        // It may be about to be said.
        self.inbox().cause.map_or_else(|| io::ErrorKind::ConnectionReset.into(), io::Error::from)
    }

    /// Wakes whoever takes what has arrived. Not while the inbox is locked.
    pub(super) fn wake_down(&self) {
        self.down.notify_one();
        let reader = self.inbox().reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
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

    /// Reads from the near end for the link. When it gives nothing, the stream asks for its turn again once there is
    /// something, or its task is told what to do.
    pub(super) fn read_source(&self, buffer: &mut [u8]) -> Read {
        let (Some(socket), Some(ask)) = (self.socket.get(), self.ask.get()) else { return self.read_outbox(buffer) };
        let (read, source) = loop {
            break match socket.try_read(buffer) {
                Ok(0) => match self.failure() {
                    None => (Read::End, Source::Ended),
                    Some(kind) => (Read::Nothing, Source::Failed(kind)),
                },
                Ok(read) if self.is_refused(&buffer[..read]) => (Read::Nothing, Source::Refused),
                Ok(read) => {
                    self.bulk.store(read >= BULK, Ordering::Relaxed);
                    if read >= BULK && !self.prepared.swap(true, Ordering::Relaxed) {
                        socket.bound_unread_of_link();
                    }
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

    /// Whether the socket's party begins, and may not with these bytes.
    fn is_refused(&self, bytes: &[u8]) -> bool {
        self.refuses.is_some_and(|refuses| !self.begun.swap(true, Ordering::Relaxed) && refuses(bytes))
    }

    fn read_outbox(&self, buffer: &mut [u8]) -> Read {
        let (read, writer) = self.outbox().take(buffer);
        if let Some(writer) = writer {
            writer.wake();
        }
        read
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
    pub(super) fn holds(&self) -> bool {
        matches!(self.source(), Source::Asked) || self.inbox().is_queueing()
    }

    pub(super) fn moved(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.delivered.load(Ordering::Relaxed))
    }
}

/// Asks for a stream's turn when woken.
struct Ask {
    shared: Weak<Shared>,
    slot: Weak<Slot>,
}

/// What asks for that stream's turn when it is woken.
pub(super) fn ask(shared: &Arc<Shared>, slot: &Arc<Slot>) -> Waker {
    Arc::new(Ask { shared: Arc::downgrade(shared), slot: Arc::downgrade(slot) }).into()
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
        let ask = ask(&link.0, &stream.slot);
        ask.wake_by_ref();
        assert!(matches!(*lock(&stream.slot.source), Source::Asked));
        for ended in [Source::Ended, Source::Failed(io::ErrorKind::ConnectionReset), Source::Refused] {
            *lock(&stream.slot.source) = ended;
            ask.wake_by_ref();
            assert!(!matches!(*lock(&stream.slot.source), Source::Asked));
        }
    }
}
