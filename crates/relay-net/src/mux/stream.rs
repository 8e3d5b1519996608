//! One user's stream, and the pipe between it and a socket.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use relay_proto::yamux::StreamEnd;
use tokio::io::Interest;
use tokio::time;

use super::link::{Shared, State};
use super::slot::{Cause, Slot, Source, ask};
use crate::pipe::{End, Moved};
use crate::socket::Socket;

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

/// How soon to look again whether a socket whose party has gone is still read.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How a pipe ended, seen from its socket.
enum Failure {
    Socket(io::ErrorKind),
    Stream(Cause),
    Idle,
    Refused,
}

/// One user's stream: to be [piped](Self::pipe) to a socket, or read and written by a program, as tokio's
/// [`AsyncRead`](tokio::io::AsyncRead) and [`AsyncWrite`](tokio::io::AsyncWrite). Dropping it resets it, unless both
/// ends of it have been carried.
pub struct Stream {
    pub(super) shared: Arc<Shared>,
    pub(super) slot: Arc<Slot>,
    done: bool,
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, slot: Arc<Slot>) -> Self {
        Self { shared, slot, done: false }
    }

    /// The link's state, while the stream is one of it: later its number may be another's.
    pub(super) fn state(&self) -> Option<MutexGuard<'_, State>> {
        let state = self.shared.state();
        state.slots.get(&self.slot.id).is_some_and(|slot| Arc::ptr_eq(slot, &self.slot)).then_some(state)
    }

    /// Pipes between `socket` and the stream until both directions have ended and the kernel has delivered
    /// the rest. Each side's end-of-file is passed on; an abort of one side becomes a reset of the other. When
    /// one direction has ended and no byte has moved in the other for `idle`, both are reset, unless the
    /// socket's party is still taking what the kernel holds for it. What a program has read before is not given again,
    /// what it has written goes first. Dropping the future resets both.
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
                Some(cause) => {
                    // Others may wait too.
                    self.slot.down.notify_one();
                    return cause;
                }
                None => self.slot.down.notified().await,
            }
        }
    }

    async fn run(&self, socket: &Arc<Socket>, idle: Duration) -> Result<(), Failure> {
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
    async fn up(&self, socket: &Arc<Socket>) -> Result<(), Failure> {
        // What a program has written goes first.
        tokio::select! {
            biased;
            flushed = poll_fn(|context| self.poll_settled(context)) => if flushed.is_err() {
                return Err(Failure::Stream(self.ended().await));
            },
            failure = self.failed(socket) => return Err(failure),
        }
        if self.slot.outbox().is_finished() {
            return Ok(());
        }
        // Both are set once, by the only pipe that a stream can have.
        let _ = self.slot.socket.set(socket.clone());
        self.slot.ask.get_or_init(|| ask(&self.shared, &self.slot)).wake_by_ref();
        let mut aborted = false;
        loop {
            match self.slot.source() {
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
                (written, inbox.is_queueing(), inbox.finished)
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
        if let Some(mut state) = self.state() {
            state.slots.remove(&self.slot.id);
            if !self.done {
                state.session.reset(self.slot.id);
            }
        }
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
