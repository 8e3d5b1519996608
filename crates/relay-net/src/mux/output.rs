//! From the streams' sockets to the link.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::MutexGuard;
use std::time::Instant;

use relay_proto::yamux::{FRAME_LARGEST, Flags, HEADER_LEN, Header, StreamId, Transmit};

use super::link::{Ended, Shared, State};
use super::stream::Read;

/// Frames are collected until there are as many bytes as this; the last may go beyond by its own length.
const BATCH: usize = 64 * 1024;
/// What one task writes for all before it leaves the rest to the writer, in bytes: a bulk stream must
/// not keep the task of another user for ever.
const WRITE_IN_A_ROW: usize = 1024 * 1024;

thread_local! {
    /// One for each thread, not one for each link: what the link does not take is copied.
    static FRAMES: RefCell<Batch> = RefCell::new(Batch::new());
}

/// Frames without payload that go ahead of data in one write, and that may wait for the link. Beyond it the
/// session keeps them, and counts them.
const MAX_CONTROL_WAITING: usize = 1024;

/// What was made and the link did not take: at most a batch, [`MAX_CONTROL_WAITING`] frames without payload
/// and those that the batch before had left. While anything stands here, nothing is read from a source.
#[derive(Default)]
pub(super) struct Output {
    /// Some task is writing for all.
    busy: bool,
    /// The link took less than it was given: only its writer tries again, once there is room.
    full: bool,
    /// The rest of a frame of which the link took a part, and its stream.
    begun: (u32, Vec<u8>),
    /// Frames behind it, with their streams. What must go ahead of data overtakes them, a reset drops
    /// those of its stream.
    waiting: VecDeque<(u32, Box<[u8]>)>,
    /// How many of those that wait have no payload.
    control_waiting: usize,
}

impl Output {
    /// The streams of which something was made and not written.
    pub(super) fn unwritten(&self) -> HashSet<u32> {
        let begun = Some(self.begun.0).filter(|_| !self.begun.1.is_empty());
        self.waiting.iter().map(|(stream, _)| *stream).chain(begun).collect()
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn pop_waiting(&mut self) -> Option<(u32, Box<[u8]>)> {
        let (stream, frame) = self.waiting.pop_front()?;
        self.control_waiting -= usize::from(frame.len() == HEADER_LEN);
        Some((stream, frame))
    }

    /// Puts `frame` ahead of those that wait.
    fn wait_first(&mut self, stream: u32, frame: Box<[u8]>) {
        self.control_waiting += usize::from(frame.len() == HEADER_LEN);
        self.waiting.push_front((stream, frame));
    }

    /// Drops what waits of a stream that is reset.
    fn drop_waiting(&mut self, stream: u32) {
        self.waiting.retain(|(of, _)| *of != stream);
        self.control_waiting = self.waiting.iter().filter(|(_, frame)| frame.len() == HEADER_LEN).count();
    }
}

/// How an attempt to write everything ended.
enum Written {
    All,
    /// The link is full, or has had its share.
    Blocked,
    Failed(io::ErrorKind),
    /// Somebody else is writing and takes what is there along, or waits for room and will.
    Busy,
}

impl Shared {
    /// The stream's socket is readable.
    pub(super) fn ready(&self, id: StreamId) {
        self.state().session.ready(id);
        self.flush();
    }

    /// Writes what there is to write, as far as the link takes it. Never waits.
    pub(super) fn flush(&self) {
        let state = self.state();
        if !state.is_over() && !state.output.full {
            self.flush_now(state);
        }
    }

    /// There is room again: writes as [`flush`](Self::flush) does.
    pub(super) fn flush_after_wait(&self) {
        let mut state = self.state();
        if !state.is_over() {
            state.output.full = false;
            self.flush_now(state);
        }
    }

    fn flush_now(&self, state: MutexGuard<'_, State>) {
        match self.write_all(state) {
            Written::All => {
                let mut state = self.state();
                if state.may_finish() && !state.is_over() && !state.output.busy {
                    state.session.go_away();
                    drop(state);
                    self.end(Ended::Finished);
                }
            }
            Written::Blocked => self.blocked.notify_one(),
            Written::Failed(kind) => self.end(Ended::Io(kind)),
            Written::Busy => {}
        }
    }

    /// Writes what is left to say on a link that is over. Cancel safe, but what was not written is lost.
    pub(super) async fn write_last_words(&self) {
        loop {
            match self.write_all(self.state()) {
                Written::All | Written::Failed(_) => return,
                Written::Busy => tokio::task::yield_now().await,
                Written::Blocked => {
                    if self.wire.writable().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn write_all<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Written {
        if std::mem::replace(&mut state.output.busy, true) {
            return Written::Busy;
        }
        FRAMES.with_borrow_mut(|batch| {
            let mut total = 0;
            loop {
                let (stream, begun) = std::mem::take(&mut state.output.begun);
                batch.begin(stream, &begun);
                state = self.gather(state, batch);
                if batch.is_empty() {
                    state.output.busy = false;
                    return Written::All;
                }
                drop(state);
                let written = write(self, batch.bytes());
                state = self.state();
                let taken = match written {
                    Ok(taken) => taken,
                    Err(kind) => {
                        state.output.busy = false;
                        return Written::Failed(kind);
                    }
                };
                let full = taken < batch.bytes().len();
                state.pace.wrote(taken, full, Instant::now());
                let limit = state.pace.frame_limit();
                state.session.set_frame_limit(limit);
                total += taken;
                state.output.full = full;
                if full {
                    batch.keep_from(taken, &mut state.output);
                }
                if full || total >= WRITE_IN_A_ROW {
                    state.output.busy = false;
                    return Written::Blocked;
                }
            }
        })
    }

    /// Collects frames in the order that the session gives. Reads sources without the lock.
    fn gather<'a>(&'a self, mut state: MutexGuard<'a, State>, batch: &mut Batch) -> MutexGuard<'a, State> {
        let now = Instant::now();
        while batch.bytes().len() < BATCH {
            let may_overtake = batch.frames.len().max(state.output.control_waiting) < MAX_CONTROL_WAITING;
            if let Some(header) = may_overtake.then(|| state.session.poll_control(now)).flatten() {
                if header.flags.has(Flags::RST) {
                    state.output.drop_waiting(header.stream);
                }
                batch.push(header.stream, &header.encode());
                continue;
            }
            if let Some((id, frame)) = state.output.pop_waiting() {
                batch.push(id, &frame);
                continue;
            }
            let (id, max) = match state.session.poll_transmit(now) {
                None => break,
                Some(Transmit::Frame(header)) => {
                    // Only the end of a stream has its turn among data.
                    if let Some(slot) = StreamId::new(header.stream).and_then(|id| state.slots.get(&id)) {
                        slot.finished_sending();
                    }
                    batch.push(header.stream, &header.encode());
                    continue;
                }
                Some(Transmit::Data { stream, max }) => (stream, max),
            };
            let Some(slot) = state.slots.get(&id).cloned() else { continue };
            drop(state);
            let read = slot.read_source(batch.payload_space(max as usize));
            state = self.state();
            match read {
                Read::Bytes(read) => {
                    // A stream that was reset meanwhile has no use for them.
                    let length = u32::try_from(read).unwrap_or(max);
                    if let Some(header) = state.session.sent(id, length) {
                        batch.push_payload(header, read);
                        slot.count_sent(read);
                        state.session.ready(id);
                    }
                }
                Read::End => state.session.finish(id),
                Read::Nothing => {}
            }
        }
        state
    }
}

fn write(shared: &Shared, bytes: &[u8]) -> Result<usize, io::ErrorKind> {
    loop {
        match shared.wire.try_write(bytes) {
            Ok(taken) => return Ok(taken),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.kind()),
        }
    }
}

/// Frames one behind another, and where each ends.
struct Batch {
    buffer: Vec<u8>,
    len: usize,
    /// The stream and the length of the rest of a frame that was begun before.
    begun: (u32, usize),
    frames: Vec<(u32, usize)>,
}

impl Batch {
    /// With room for the largest frame behind a batch that is almost full.
    fn new() -> Self {
        let room = BATCH + 2 * HEADER_LEN + 2 * FRAME_LARGEST as usize;
        Self { buffer: vec![0; room], len: 0, begun: (0, 0), frames: Vec::new() }
    }

    fn begin(&mut self, stream: u32, begun: &[u8]) {
        self.frames.clear();
        self.begun = (stream, begun.len());
        self.len = begun.len();
        self.buffer[..begun.len()].copy_from_slice(begun);
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    fn push(&mut self, stream: u32, frame: &[u8]) {
        self.buffer[self.len..self.len + frame.len()].copy_from_slice(frame);
        self.len += frame.len();
        self.frames.push((stream, self.len));
    }

    /// Where at most `max` bytes of the next frame's payload may be put.
    fn payload_space(&mut self, max: usize) -> &mut [u8] {
        let start = self.len + HEADER_LEN;
        &mut self.buffer[start..start + max]
    }

    /// Completes the frame whose payload was put into [`payload_space`](Self::payload_space).
    fn push_payload(&mut self, header: Header, payload: usize) {
        self.buffer[self.len..self.len + HEADER_LEN].copy_from_slice(&header.encode());
        self.len += HEADER_LEN + payload;
        self.frames.push((header.stream, self.len));
    }

    /// Keeps what stands from `taken` on.
    fn keep_from(&self, taken: usize, output: &mut Output) {
        let (stream, mut start) = self.begun;
        if taken < start {
            output.begun = (stream, self.buffer[taken..start].to_vec());
        }
        let mut kept = Vec::new();
        for &(stream, end) in &self.frames {
            if taken <= start {
                kept.push((stream, self.buffer[start..end].into()));
            } else if taken < end {
                output.begun = (stream, self.buffer[taken..end].to_vec());
            }
            start = end;
        }
        // What waits behind this batch already came later.
        for (stream, frame) in kept.into_iter().rev() {
            output.wait_first(stream, frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Kept = ((u32, Vec<u8>), Vec<(u32, Vec<u8>)>);

    fn kept(taken: usize) -> Kept {
        let mut batch = Batch::new();
        batch.begin(9, b"rest");
        batch.push(1, b"first");
        batch.push(2, b"second");
        let mut output = Output::default();
        output.wait_first(3, b"third".as_slice().into());
        batch.keep_from(taken, &mut output);
        (output.begun, output.waiting.into_iter().map(|(id, frame)| (id, frame.into_vec())).collect())
    }

    #[test]
    fn a_frame_that_was_begun_is_finished_first_and_the_others_stay_whole() {
        let frame = |id, bytes: &[u8]| (id, bytes.to_vec());
        let all = || vec![frame(1, b"first"), frame(2, b"second"), frame(3, b"third")];
        assert_eq!(kept(0), (frame(9, b"rest"), all()));
        assert_eq!(kept(3), (frame(9, b"t"), all()));
        assert_eq!(kept(4), (frame(0, b""), all()));
        assert_eq!(kept(5), (frame(1, b"irst"), all()[1..].to_vec()));
        assert_eq!(kept(9), (frame(0, b""), all()[1..].to_vec()));
        assert_eq!(kept(14), (frame(2, b"d"), all()[2..].to_vec()));
        assert_eq!(kept(15), (frame(0, b""), all()[2..].to_vec()));
    }
}
