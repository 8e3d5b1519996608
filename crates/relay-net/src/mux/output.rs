//! From the streams' sockets to the link.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use relay_proto::yamux::{FRAME_LARGEST, Flags, HEADER_LEN, Header, StreamId, Transmit};

use super::link::{Shared, State};
use super::path::Path;
use super::slot::{Read, Slot};
use crate::socket::{self, Socket};
use crate::splice::KernelPipe;

/// Frames are collected until there are as many bytes as this; the last may go beyond by its own length.
const BATCH: usize = 64 * 1024;
/// What is written before other tasks of the thread get their turn, in bytes.
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
    /// The link took less than it was given.
    pub(super) full: bool,
    /// A frame of which the link took a part.
    begun: Begun,
    /// Frames behind it, with their streams. What must go ahead of data overtakes them, a reset drops
    /// those of its stream.
    waiting: VecDeque<(u32, Box<[u8]>)>,
    /// How many of those that wait have no payload.
    control_waiting: usize,
    /// The streams of programs of which something was taken since the kernel had all.
    pub(super) unsettled: Vec<Arc<Slot>>,
}

/// The rest of a frame: first what stands in memory, then what stands in a pipe of the kernel. With a pipe it may
/// be a whole frame: its payload has left its source past our memory, so it goes next.
#[derive(Default)]
struct Begun {
    stream: u32,
    bytes: Vec<u8>,
    pipe: Option<KernelPipe>,
}

impl Output {
    /// The streams of which something was made and not written.
    pub(super) fn unwritten(&self) -> HashSet<u32> {
        let begun = Some(self.begun.stream).filter(|_| !self.begun.bytes.is_empty() || self.begun.pipe.is_some());
        self.waiting.iter().map(|(stream, _)| *stream).chain(begun).collect()
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn is_piped(&self) -> bool {
        self.begun.pipe.is_some()
    }

    /// The link has taken something of that stream.
    fn is_to_settle(&mut self, slot: Arc<Slot>) {
        if slot.is_written_by_program() {
            self.unsettled.push(slot);
        }
    }

    /// Those of which the kernel has all, as it has what the link has taken.
    fn take_settled(&mut self) -> Vec<Arc<Slot>> {
        let unwritten = self.unwritten();
        self.unsettled.extract_if(.., |slot| !unwritten.contains(&slot.id.get())).collect()
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
pub(super) enum Written {
    All,
    /// It ended for the sake of others: another can be made at once.
    Some,
    /// The link takes no more for now.
    Full,
    Failed(io::ErrorKind),
}

impl Shared {
    /// Writes what there is to write, as far as the link takes it. Never waits. Only for the link's task.
    pub(super) fn write_some(&self, path: &mut Path) -> Written {
        FRAMES.with_borrow_mut(|batch| {
            let mut total = 0;
            // Over TLS: what was encrypted before, and what TLS itself has to say.
            let flushed = match self.wire.flush() {
                Ok(flushed) => flushed,
                Err(error) => return Written::Failed(error.kind()),
            };
            let mut state = self.state();
            state.output.full = !flushed;
            if !flushed {
                return Written::Full;
            }
            state = self.settle(state);
            loop {
                let Begun { stream, bytes, mut pipe } = std::mem::take(&mut state.output.begun);
                batch.begin(stream, &bytes);
                if pipe.is_none() {
                    (state, pipe) = self.gather(state, batch);
                }
                if batch.is_empty() && pipe.is_none() {
                    return Written::All;
                }
                drop(state);
                let taken = match self.write(batch.bytes(), pipe.as_mut()) {
                    Ok(taken) => taken,
                    Err(kind) => {
                        // These streams have not come to their end on the link.
                        let _ = batch.keep_from(0, pipe, &mut self.state().output);
                        return Written::Failed(kind);
                    }
                };
                pipe = pipe.filter(|pipe| pipe.held() > 0);
                let full = taken < batch.bytes().len() || pipe.is_some() || self.wire.is_unflushed();
                total += taken;
                let round = path.wrote(&self.wire, taken, full, Instant::now());
                state = self.state();
                state.session.set_round(round);
                batch.again.drain(..).for_each(|id| state.session.ready(id));
                state.output.full = full;
                if full && let Err(error) = batch.keep_from(taken, pipe, &mut state.output) {
                    return Written::Failed(error.kind());
                }
                if !self.wire.is_unflushed() {
                    state = self.settle(state);
                }
                if full {
                    return Written::Full;
                }
                if total >= WRITE_IN_A_ROW {
                    return Written::Some;
                }
            }
        })
    }

    /// Tells programs that the kernel has what they wrote.
    fn settle<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if state.output.unsettled.is_empty() {
            return state;
        }
        let settled = state.output.take_settled();
        drop(state);
        for slot in &settled {
            slot.settle();
        }
        self.state()
    }

    /// Whether the stream's source cannot be read now, however much it has.
    pub(super) fn holds_up(&self, id: StreamId) -> bool {
        let state = self.state();
        state.output.full || state.session.lacks_credit(id) || state.is_limited()
    }

    /// Writes `bytes`, then what the pipe holds: gives how much of both together the link took.
    fn write(&self, bytes: &[u8], pipe: Option<&mut KernelPipe>) -> Result<usize, io::ErrorKind> {
        let mut taken = 0;
        if !bytes.is_empty() {
            taken = write(&self.wire, bytes, pipe.is_some())?;
        }
        match pipe {
            Some(pipe) if taken == bytes.len() => {
                let drained = self.wire.bare_tcp().map_or(Ok(0), |wire| pipe.drain(wire));
                Ok(taken + drained.map_err(|error| error.kind())?)
            }
            _ => Ok(taken),
        }
    }

    /// Collects frames in the order that the session gives. Reads sources without the lock. The payload of the
    /// last may be in the pipe that it gives.
    fn gather<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        batch: &mut Batch,
    ) -> (MutexGuard<'a, State>, Option<KernelPipe>) {
        let now = Instant::now();
        while batch.bytes().len() < BATCH {
            let may_overtake = batch.frames.len().max(state.output.control_waiting) < MAX_CONTROL_WAITING;
            if let Some(header) = may_overtake.then(|| state.poll_control(now)).flatten() {
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
            if !may_overtake {
                break;
            }
            let (id, max) = match state.poll_turn(now) {
                None => break,
                Some(Transmit::Frame(header)) => {
                    // Only the end of a stream has its turn among data.
                    if let Some(slot) = StreamId::new(header.stream).and_then(|id| state.slots.get(&id)).cloned() {
                        slot.finished_sending();
                        state.output.is_to_settle(slot);
                    }
                    batch.push(header.stream, &header.encode());
                    continue;
                }
                Some(Transmit::Data { stream, max }) => (stream, max),
            };
            let Some(slot) = state.slots.get(&id).cloned() else { continue };
            drop(state);
            let may_splice = self.wire.bare_tcp().is_some();
            if let Some(pipe) = may_splice.then(|| slot.splice_source(max as usize)).flatten() {
                state = self.state();
                // A stream that was reset meanwhile has no use for them.
                if let Some(header) = state.session.sent(id, u32::try_from(pipe.held()).unwrap_or(max)) {
                    batch.push(header.stream, &header.encode());
                    slot.count_sent(pipe.held());
                    state.count_sent(pipe.held(), now);
                    state.session.ready(id);
                    return (state, Some(pipe));
                }
                continue;
            }
            let read = slot.read_source(batch.payload_space(max as usize));
            state = self.state();
            match read {
                Read::Bytes(read) => {
                    // A stream that was reset meanwhile has no use for them.
                    let length = u32::try_from(read).unwrap_or(max);
                    if let Some(header) = state.session.sent(id, length) {
                        batch.push_payload(header, read);
                        slot.count_sent(read);
                        state.count_sent(read, now);
                        // Of a source that had less than it may send, the rest can wait until this is written.
                        if length == max {
                            state.session.ready(id);
                        } else {
                            batch.again.push(id);
                        }
                        state.output.is_to_settle(slot);
                    }
                }
                Read::End => state.session.finish(id),
                Read::Nothing => {}
            }
        }
        (state, None)
    }
}

/// Writes what the link takes, 0 bytes if none. `more` follows at once: the kernel need not send these alone.
fn write(wire: &Socket, bytes: &[u8], more: bool) -> Result<usize, io::ErrorKind> {
    let mut written = 0;
    loop {
        let rest = &bytes[written..];
        let result = match wire {
            Socket::Tcp(wire) if more => socket::try_write_ahead(wire, rest),
            _ => wire.try_write(rest),
        };
        match result {
            // TLS takes a few records at a time.
            Ok(taken) if taken < rest.len() && wire.tls().is_some() => written += taken,
            Ok(taken) => return Ok(written + taken),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(written),
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
    /// Streams whose sources are to be read again.
    again: Vec<StreamId>,
}

impl Batch {
    /// With room for the largest frame behind a batch that is almost full.
    fn new() -> Self {
        let room = BATCH + 2 * HEADER_LEN + 2 * FRAME_LARGEST as usize;
        Self { buffer: vec![0; room], len: 0, begun: (0, 0), frames: Vec::new(), again: Vec::new() }
    }

    fn begin(&mut self, stream: u32, begun: &[u8]) {
        self.frames.clear();
        // Another link's, if that failed.
        self.again.clear();
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

    /// Keeps what stands from `taken` on, and what the pipe holds for the last frame.
    fn keep_from(&self, taken: usize, pipe: Option<KernelPipe>, output: &mut Output) -> io::Result<()> {
        let (stream, mut start) = self.begun;
        let mut begun = Begun::default();
        if taken < start {
            begun = Begun { stream, bytes: self.buffer[taken..start].to_vec(), pipe: None };
        }
        let mut kept = Vec::new();
        for &(stream, end) in &self.frames {
            if taken <= start {
                kept.push((stream, self.buffer[start..end].to_vec()));
            } else if taken < end {
                begun = Begun { stream, bytes: self.buffer[taken..end].to_vec(), pipe: None };
            }
            start = end;
        }
        if let Some(mut pipe) = pipe {
            match kept.pop() {
                // Others stand before it: as rarely as this is, it can do without the pipe.
                Some((stream, mut frame)) if !(kept.is_empty() && begun.bytes.is_empty()) => {
                    pipe.take(|bytes| frame.extend_from_slice(bytes))?;
                    kept.push((stream, frame));
                }
                Some((stream, bytes)) => begun = Begun { stream, bytes, pipe: Some(pipe) },
                None => {
                    begun.stream = self.frames.last().map_or(stream, |&(stream, _)| stream);
                    begun.pipe = Some(pipe);
                }
            }
        }
        output.begun = begun;
        // What waits behind this batch already came later.
        for (stream, frame) in kept.into_iter().rev() {
            output.wait_first(stream, frame.into());
        }
        Ok(())
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
        batch.keep_from(taken, None, &mut output).unwrap();
        (
            (output.begun.stream, output.begun.bytes),
            output.waiting.into_iter().map(|(id, frame)| (id, frame.into_vec())).collect(),
        )
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

    /// What is kept, all in the order in which it is written: what a frame that was begun lacks and what a pipe holds
    /// for it, then what waits.
    #[cfg(target_os = "linux")]
    type KeptBehind = ((u32, String, Option<String>), Vec<(u32, String)>);

    /// Of a frame that was begun before, two frames and one whose header alone is in memory: its payload is `pipe`.
    #[cfg(target_os = "linux")]
    fn kept_with(pipe: KernelPipe, taken: usize) -> KeptBehind {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut batch = Batch::new();
        batch.begin(9, b"rest");
        batch.push(1, b"first");
        batch.push(2, b"second");
        batch.push(4, b"header:");
        let mut output = Output::default();
        output.wait_first(3, b"third".as_slice().into());
        batch.keep_from(taken, Some(pipe), &mut output).unwrap();
        let Begun { stream, bytes, pipe } = output.begun;
        let piped = pipe.map(|mut pipe| {
            let mut held = Vec::new();
            pipe.take(|bytes| held.extend_from_slice(bytes)).unwrap();
            text(&held)
        });
        ((stream, text(&bytes), piped), output.waiting.iter().map(|(id, frame)| (*id, text(frame))).collect())
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn payload_in_a_pipe_stays_behind_its_header_and_never_goes_ahead_of_others() {
        use tokio::io::AsyncWriteExt;
        use tokio::net::TcpStream;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut source = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let near = listener.accept().await.unwrap().0;
        let frame = |id: u32, text: &str| (id, text.to_owned());
        let all = || vec![frame(1, "first"), frame(2, "second"), frame(4, "header:payload"), frame(3, "third")];
        let nothing = (0, String::new(), None);
        let header = |text: &str| ((4, text.to_owned(), Some("payload".to_owned())), vec![frame(3, "third")]);
        for (taken, expected) in [
            (0, ((9, "rest".to_owned(), None), all())),
            (4, (nothing.clone(), all())),
            (6, ((1, "rst".to_owned(), None), all()[1..].to_vec())),
            (9, (nothing, all()[1..].to_vec())),
            (14, ((2, "d".to_owned(), None), all()[2..].to_vec())),
            (15, header("header:")),
            (16, header("eader:")),
            (22, header("")),
        ] {
            source.write_all(b"payload").await.unwrap();
            near.readable().await.unwrap();
            let mut pipe = KernelPipe::get().unwrap();
            assert_eq!(pipe.fill(&near, usize::MAX).unwrap(), 7);
            assert_eq!(kept_with(pipe, taken), expected, "{taken}");
        }
    }

    /// A frame that was begun before is in the same state.
    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn a_pipe_is_kept_until_it_is_empty() {
        let mut output = Output::default();
        for (taken, rest) in [(0, b"rest".as_slice()), (3, b"t"), (4, b""), (100, b"")] {
            let mut batch = Batch::new();
            batch.begin(9, b"rest");
            batch.keep_from(taken, KernelPipe::get(), &mut output).unwrap();
            assert_eq!((output.begun.stream, &output.begun.bytes[..]), (9, rest));
            assert!(output.is_piped() && output.unwritten().contains(&9));
        }
    }

    #[test]
    fn a_batch_keeps_nothing_of_another_link() {
        let mut batch = Batch::new();
        batch.begin(9, b"rest");
        batch.push(1, b"first");
        batch.again.extend(StreamId::new(1));
        batch.begin(0, b"");
        assert!(batch.is_empty() && batch.frames.is_empty() && batch.again.is_empty());
    }
}
