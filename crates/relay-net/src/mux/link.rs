//! A link: its state, its tasks and its end.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use relay_proto::yamux::{self, Role, Session, SessionError, StreamId};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{unconstrained, yield_now};
use tokio::time;

use super::limit::Limit;
use super::output::{Output, Written};
use super::path::Path;
use super::slot::{Cause, Slot};
use super::stream::Stream;
use crate::pipe::Beginning;
use crate::rate::Bucket;
use crate::socket::Socket;

/// How long a link that has said its last word waits for the peer to close too, so that the kernel does
/// not cut off what the peer has yet to read.
const LINGER: Duration = Duration::from_secs(2);

/// What a link may do.
#[derive(Clone, Debug)]
pub struct Config {
    /// The limits of its session.
    pub session: yamux::Config,
    /// On a long path that keeps losing packets, change the connection's congestion control to BBR, where the
    /// system has it (Linux only).
    pub bbr: bool,
    /// Bytes a second of all streams, both ways together; `None` for no bound. With one, windows grow no larger than
    /// what it lets go at once.
    pub rate: Option<Arc<Bucket>>,
}

impl Default for Config {
    fn default() -> Self {
        Self { session: yamux::Config::default(), bbr: true, rate: None }
    }
}

/// Why a link ended. A new link to the same peer may work in each case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// After its last stream, as we had asked.
    Finished,
    /// The peer closed the connection.
    PeerClosed,
    /// The peer broke the protocol, ended the session, or is silent.
    Session(SessionError),
    /// The connection failed.
    Io(io::ErrorKind),
    /// We ended it at once.
    Aborted,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::PeerClosed => f.write_str("the peer closed the link"),
            Self::Session(error) => error.fmt(f),
            Self::Io(kind) => write!(f, "the link failed: {kind}"),
            Self::Aborted => f.write_str("aborted"),
        }
    }
}

impl std::error::Error for Ended {}

/// Why no stream was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The link has as many streams as it may have; later it may work.
    Full,
    /// The peer takes no new streams, or the link is finishing.
    Refused,
    /// The link has ended.
    Ended(Ended),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the link has as many streams as it may have"),
            Self::Refused => f.write_str("the link takes no new streams"),
            Self::Ended(why) => why.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

/// A multiplexed link. Cheap to clone; it lives until one side ends it, also without a clone.
#[derive(Clone)]
pub struct Link(pub(super) Arc<Shared>);

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("streams", &self.streams()).finish_non_exhaustive()
    }
}

/// How far a link is from its end.
#[derive(Clone, Debug)]
enum Phase {
    Open,
    /// The peer takes no new streams.
    Refusing,
    /// Nothing moves any more; the last words may still be on their way.
    Ended(Ended),
    Closed(Ended),
}

impl Phase {
    fn why_ended(&self) -> Option<Ended> {
        match self {
            Self::Open | Self::Refusing => None,
            Self::Ended(why) | Self::Closed(why) => Some(why.clone()),
        }
    }
}

pub(super) struct Shared {
    pub(super) wire: Socket,
    state: Mutex<State>,
    phase: watch::Sender<Phase>,
    /// One permit for each stream that may yet be opened without an ACK.
    unacknowledged: Arc<Semaphore>,
    incoming: Notify,
}

/// What the tasks of a link share. Locked for moments, never across a system call; a slot's lock is
/// taken before this one, never after, but for its outbox.
pub(super) struct State {
    pub(super) session: Session,
    pub(super) slots: HashMap<StreamId, Arc<Slot>>,
    pub(super) output: Output,
    pub(super) limit: Option<Limit>,
    accepted: VecDeque<Arc<Slot>>,
    finishing: bool,
    over: bool,
    /// Something changed that the link's task has to look at.
    news: bool,
    /// The link's task, while it waits.
    sleeper: Option<Waker>,
}

impl Link {
    /// Starts the link's task on the current runtime. `early` was read from the socket already.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(role: Role, socket: impl Into<Socket>, early: Vec<u8>, config: Config) -> Self {
        let (link, task) = Self::with_task(role, socket.into(), early, config);
        // It gives way by itself; counted by tokio as well, it would hear of sources that it may not read yet.
        tokio::spawn(unconstrained(task));
        link
    }

    /// A link and its task, which is still to be run.
    pub(super) fn with_task(
        role: Role,
        socket: Socket,
        early: Vec<u8>,
        mut config: Config,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let now = Instant::now();
        let path = Path::new(&socket, config.bbr, now);
        socket.bound_unread_of_link();
        if let Some(rate) = &config.rate {
            config.session.max_window = config.session.max_window.min(rate.burst());
        }
        let shared = Arc::new(Shared {
            wire: socket,
            unacknowledged: Arc::new(Semaphore::new(config.session.max_unacknowledged)),
            state: Mutex::new(State {
                session: Session::new(role, config.session, now),
                slots: HashMap::new(),
                output: Output::default(),
                limit: config.rate.map(|rate| Limit::new(rate, now)),
                accepted: VecDeque::new(),
                finishing: false,
                over: false,
                news: false,
                sleeper: None,
            }),
            phase: watch::Sender::new(Phase::Open),
            incoming: Notify::new(),
        });
        (Self(shared.clone()), run(shared, early, path))
    }

    /// Opens a stream; its SYN leaves at once. While as many as may be lack an ACK it waits, first come,
    /// first served. Cancel safe.
    ///
    /// # Errors
    /// The link takes no more streams: for now, or for ever.
    pub async fn open(&self) -> Result<Stream, OpenError> {
        self.open_with(Beginning::default()).await
    }

    /// As [`open`](Self::open), for a stream that begins so. What goes ahead, at most 1 KiB, leaves with its SYN, in one
    /// write.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub async fn open_with(&self, beginning: Beginning) -> Result<Stream, OpenError> {
        let shared = &self.0;
        let permit = shared.unacknowledged.clone().acquire_owned().await;
        let slot = {
            let mut state = shared.state();
            let permit = permit.map_err(|_| OpenError::Ended(shared.why_ended()))?;
            let id = state.session.open(Instant::now()).map_err(|error| match error {
                yamux::OpenError::Full => OpenError::Full,
                yamux::OpenError::Refused => OpenError::Refused,
            })?;
            if !beginning.ahead.is_empty() {
                state.session.ready(id);
            }
            let slot = Arc::new(Slot::new(id, Some(permit), beginning));
            state.slots.insert(id, slot.clone());
            slot
        };
        shared.tell();
        Ok(Stream::new(shared.clone(), slot))
    }

    /// The next stream that the peer opened, acknowledged already; `None` once the link has ended. Cancel safe.
    pub async fn accept(&self) -> Option<Stream> {
        loop {
            let incoming = self.0.incoming.notified();
            {
                let mut state = self.0.state();
                while let Some(slot) = state.accepted.pop_front() {
                    if !slot.is_ended() {
                        return Some(Stream::new(self.0.clone(), slot));
                    }
                }
                if state.over {
                    // Others may wait too.
                    self.0.incoming.notify_one();
                    return None;
                }
            }
            incoming.await;
        }
    }

    /// Waits until the link is closed and says why. Its streams end before, when it is lost: what is left
    /// then is to let the peer read our last words, for at most 2 s. Cancel safe.
    pub async fn ended(&self) -> Ended {
        self.0.wait(|phase| matches!(phase, Phase::Closed(_))).await;
        self.0.why_ended()
    }

    /// Waits until the peer takes no new streams; gives why, if that is because the link has ended. Cancel
    /// safe.
    pub async fn refusing(&self) -> Option<Ended> {
        self.0.wait(|phase| !matches!(phase, Phase::Open)).await;
        self.0.phase.borrow().why_ended()
    }

    /// Asks the peer for a sign of life, and gives whether a byte came within that time. Cancel safe.
    pub async fn answers(&self, within: Duration) -> bool {
        /// How often it is looked: this is asked too rarely for every byte to be told.
        const LOOK_AGAIN: Duration = Duration::from_millis(20);
        let asked = Instant::now();
        self.0.state().session.ask();
        self.0.tell();
        while asked.elapsed() < within {
            time::sleep(LOOK_AGAIN).await;
            let state = self.0.state();
            if state.over || state.session.last_received() > asked {
                return !state.over;
            }
        }
        false
    }

    /// Tells the peer that we take no new streams (GoAway 0). Those that live go on.
    pub fn go_away(&self) {
        self.0.state().session.go_away();
        self.0.tell();
    }

    /// Ends the link after its last stream: then GoAway 0, unless it was sent before, and a close. Streams
    /// that nobody has [accepted](Self::accept) are reset. The peer may open others until then, which only
    /// [`go_away`](Self::go_away) forbids.
    pub fn finish(&self) {
        let accepted = {
            let mut state = self.0.state();
            state.finishing = true;
            std::mem::take(&mut state.accepted)
        };
        for slot in accepted {
            drop(Stream::new(self.0.clone(), slot));
        }
        self.0.tell();
    }

    /// Ends the link and resets its streams at once.
    pub fn abort(&self) {
        self.0.end(Ended::Aborted);
    }

    /// How many streams live.
    pub fn streams(&self) -> usize {
        self.0.state().session.len()
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock; if it did, the state would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the link, for the first reason given: users are reset, openers and acceptors told.
    pub(super) fn end(&self, why: Ended) {
        let (slots, unwritten) = {
            let mut state = self.state();
            if std::mem::replace(&mut state.over, true) {
                return;
            }
            state.accepted.clear();
            let mut unwritten = state.output.unwritten();
            unwritten.extend(state.output.unsettled.drain(..).map(|slot| slot.id.get()));
            (std::mem::take(&mut state.slots), unwritten)
        };
        self.phase.send_replace(Phase::Ended(why));
        self.unacknowledged.close();
        for (id, slot) in slots {
            // A stream that had come to its end on the link has only to be delivered.
            if !slot.is_complete() || unwritten.contains(&id.get()) {
                slot.end(Cause::LinkLost);
            }
        }
        self.incoming.notify_one();
        self.tell();
    }

    /// Wakes the link's task, to write what there is to write or to end.
    pub(super) fn tell(&self) {
        let sleeper = self.state().news();
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    /// Why the link has ended; only to be asked when it has.
    fn why_ended(&self) -> Ended {
        self.phase.borrow().why_ended().unwrap_or(Ended::Aborted)
    }

    async fn wait(&self, reached: impl FnMut(&Phase) -> bool) {
        // The sender lives in `self`: it cannot be gone.
        let _ = self.phase.subscribe().wait_for(reached).await;
    }

    pub(super) fn refuse(&self) {
        self.phase.send_if_modified(|phase| {
            let open = matches!(phase, Phase::Open);
            if open {
                *phase = Phase::Refusing;
            }
            open
        });
    }

    pub(super) fn accepted(&self) {
        self.incoming.notify_one();
    }
}

impl State {
    /// Notes that the link's task has something to do; whoever is given must be woken.
    pub(super) fn news(&mut self) -> Option<Waker> {
        self.news = true;
        self.sleeper.take()
    }

    /// The peer opened that stream.
    pub(super) fn push_accepted(&mut self, id: StreamId) {
        let slot = Arc::new(Slot::new(id, None, Beginning::default()));
        self.slots.insert(id, slot.clone());
        self.accepted.push_back(slot);
        // Streams that were reset before anyone took them must not pile up.
        if self.accepted.len() > 2 * self.slots.len() + 64 {
            self.accepted.retain(|slot| !slot.is_ended());
        }
    }

    /// Nothing is left to say but goodbye.
    pub(super) fn may_finish(&self) -> bool {
        self.finishing && self.session.is_empty()
    }
}

/// Reads, writes and keeps time, to the end.
async fn run(shared: Arc<Shared>, early: Vec<u8>, mut path: Path) {
    let why = match shared.process(&early) {
        Ok(()) => {
            drop(early);
            shared.drive(&mut path).await
        }
        Err(why) => why,
    };
    let linger = matches!(why, Ended::Finished | Ended::Session(_));
    shared.end(why.clone());
    if linger {
        let _ = time::timeout(LINGER, close(&shared, &mut path)).await;
    }
    // Handles to the link may live on, and with them the socket and what it did not take.
    shared.state().output = Output::default();
    shared.wire.shutdown();
    shared.phase.send_replace(Phase::Closed(why));
}

/// The shortest time between two looks at the clock.
const TICK: Duration = Duration::from_millis(10);

impl Shared {
    /// Reads and writes until the link ends, and says why. Neither waits for the other.
    async fn drive(&self, path: &mut Path) -> Ended {
        let mut timer = pin!(time::sleep(Duration::ZERO));
        let mut bulk = false;
        let mut full = false;
        loop {
            let mut more = match self.read_some(&mut bulk) {
                Ok(more) => more,
                Err(why) => return why,
            };
            if !full {
                match self.write_some(path) {
                    Written::All if self.may_finish() => return Ended::Finished,
                    Written::All => {}
                    Written::Some => more = true,
                    Written::Full => full = true,
                    Written::Failed(kind) => return Ended::Io(kind),
                }
            }
            if more {
                yield_now().await;
            }
            let woken = poll_fn(|context| self.poll_work(context, timer.as_mut(), full, more)).await;
            match woken {
                Ok(writable) => full &= !writable,
                Err(why) => return why,
            }
        }
    }

    /// Ready once there is something to read, to write or to say, and at once if `more` is known to be there.
    /// Gives whether a `full` link has room again.
    fn poll_work(
        &self,
        context: &mut Context<'_>,
        timer: Pin<&mut time::Sleep>,
        full: bool,
        more: bool,
    ) -> Poll<Result<bool, Ended>> {
        let resumes = {
            let mut state = self.state();
            if state.over {
                return Poll::Ready(Err(self.why_ended()));
            }
            if !(std::mem::take(&mut state.news) || more) {
                state.sleeper = Some(context.waker().clone());
            }
            state.resumes()
        };
        let readable = self.wire.poll_read_ready(context);
        let writable = full && self.wire.poll_write_ready(context).is_ready();
        if let Err(why) = self.keep_time(context, timer, resumes) {
            return Poll::Ready(Err(why));
        }
        if let Poll::Ready(Err(error)) = readable {
            return Poll::Ready(Err(Ended::Io(error.kind())));
        }
        // Without one there was news, before the sockets were asked or since.
        let sleeps = self.state().sleeper.is_some();
        if sleeps && readable.is_pending() && !writable {
            return Poll::Pending;
        }
        self.state().sleeper = None;
        Poll::Ready(Ok(writable))
    }

    /// `resumes` is when somebody who waits for the rate may go on.
    fn keep_time(
        &self,
        context: &mut Context<'_>,
        mut timer: Pin<&mut time::Sleep>,
        resumes: Option<Instant>,
    ) -> Result<(), Ended> {
        if let Some(resumes) = resumes.map(time::Instant::from_std).filter(|at| *at < timer.deadline()) {
            timer.as_mut().reset(resumes);
        }
        // Bytes push the time ahead without touching the timer; it looks again when it rings.
        while timer.as_mut().poll(context).is_ready() {
            let mut state = self.state();
            state.session.handle_timeout(Instant::now()).map_err(Ended::Session)?;
            let due = state.session.poll_timeout().unwrap_or_else(|| Instant::now() + LINGER);
            timer.as_mut().reset(time::Instant::from_std(due).max(time::Instant::now() + TICK));
            // A ping may have become due.
            state.sleeper = None;
        }
        Ok(())
    }

    fn may_finish(&self) -> bool {
        let mut state = self.state();
        let done = state.may_finish();
        if done {
            state.session.go_away();
        }
        done
    }
}

/// Says that we are done and reads on until the peer is done too: a close with unread bytes would send
/// a reset, which destroys what the peer has not yet taken.
async fn close(shared: &Shared, path: &mut Path) {
    loop {
        match shared.write_some(path) {
            Written::All => break,
            Written::Some => yield_now().await,
            Written::Full if shared.wire.writable().await.is_ok() => {}
            Written::Full | Written::Failed(_) => return,
        }
    }
    // It ends one way or the other: the read below sees how.
    let _ = shared.wire.shutdown_write();
    let _ = shared.wire.taken().await;
    let mut discard = [0; 4096];
    while shared.wire.readable().await.is_ok() {
        match shared.wire.try_read(&mut discard) {
            Ok(0) => break,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
            _ => yield_now().await,
        }
    }
}
