//! From the link to the streams' sockets.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use relay_proto::yamux::{HEADER_LEN, Received, StreamEnd, StreamId};

use super::inbox::Inbox;
use super::link::{Ended, Shared};
use super::slot::{Cause, Slot};
use crate::splice::{BULK, KernelPipe};

/// What is read from a link at once, in bytes: large enough that a system call costs little, and small
/// enough to stay in the processor's cache until it is written.
const READ_AT_ONCE: usize = 128 * 1024;
/// How often the reader reads before other tasks of its thread get their turn.
const READS_IN_A_ROW: usize = 16;

thread_local! {
    /// One for each thread, not one for each link: nothing in it outlives a call.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_AT_ONCE]);
}

impl Shared {
    /// Reads and processes what the link has. Gives whether it may have more. `bulk` says that payload is spliced
    /// past our memory as far as it goes, so that little else is to be read.
    pub(super) fn read_some(&self, bulk: &mut bool) -> Result<bool, Ended> {
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..READS_IN_A_ROW {
                let ahead = self.state().session.payload_ahead();
                if let Some((id, length)) = ahead.filter(|(_, length)| *length as usize >= BULK) {
                    *bulk = self.splice_ahead(id, length)?;
                    if *bulk {
                        // The frame's end may have come with that.
                        self.process(&[])?;
                        continue;
                    }
                }
                // The rest of this frame and the next header.
                let rest = ahead.map_or(0, |(_, length)| length as usize);
                let most = if *bulk { buffer.len().min(rest + HEADER_LEN) } else { buffer.len() };
                match self.wire.try_read_out(&mut buffer[..most]) {
                    Ok(0) => return Err(Ended::PeerClosed),
                    Ok(read) => {
                        self.process(&buffer[..read])?;
                        let ahead = self.state().session.payload_ahead();
                        *bulk = *bulk && ahead.is_some_and(|(_, length)| length as usize >= BULK);
                        if read < most {
                            return Ok(false);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(Ended::Io(error.kind())),
                }
            }
            Ok(true)
        })
    }

    /// Moves payload of that stream, at most `length`, from the link to the stream's socket without reading
    /// it. Gives whether it could.
    fn splice_ahead(&self, id: StreamId, length: u32) -> Result<bool, Ended> {
        let now = Instant::now();
        let Some(wire) = self.wire.bare_tcp() else { return Ok(false) };
        let Some(slot) = self.state().slots.get(&id).cloned() else { return Ok(false) };
        let mut inbox = slot.inbox();
        let Some(socket) = inbox.spliceable() else { return Ok(false) };
        let Some(mut pipe) = KernelPipe::get() else { return Ok(false) };
        let moved = match pipe.fill(wire, length as usize) {
            Ok(0) => return Err(Ended::PeerClosed),
            Ok(moved) => moved,
            // A read may find more.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(Ended::Io(error.kind())),
        };
        self.state().session.received_elsewhere(u32::try_from(moved).unwrap_or(length), now);
        let drained = socket.bare_tcp().map_or(Ok(0), |stream| pipe.drain(stream));
        match drained {
            Ok(taken) => {
                pipe.take(|bytes| inbox.queue(bytes)).map_err(|error| Ended::Io(error.kind()))?;
                self.account(id, &slot, inbox, taken, moved - taken, now);
            }
            Err(error) => {
                inbox.fail(error.kind());
                drop(inbox);
                slot.wake_down();
            }
        }
        Ok(true)
    }

    /// Gives what the link brought to the streams it is for.
    pub(super) fn process(&self, mut input: &[u8]) -> Result<(), Ended> {
        let now = Instant::now();
        let mut state = self.state();
        let result = loop {
            let received = match state.session.receive(&mut input, now) {
                Ok(Some(received)) => received,
                Ok(None) => break Ok(()),
                Err(error) => break Err(Ended::Session(error)),
            };
            match received {
                Received::Payload(id, bytes) => {
                    if let Some(slot) = state.slots.get(&id).cloned() {
                        drop(state);
                        self.deliver(id, &slot, bytes, now);
                        state = self.state();
                    }
                }
                Received::Opened(id) => {
                    state.push_accepted(id);
                    self.accepted();
                }
                Received::Acknowledged(id) => {
                    if let Some(slot) = state.slots.get(&id) {
                        slot.acknowledge();
                    }
                }
                Received::Finished(id) => {
                    if let Some(slot) = state.slots.get(&id).cloned() {
                        drop(state);
                        slot.finish();
                        state = self.state();
                    }
                }
                Received::Ended(id, why) => {
                    if let Some(slot) = state.slots.remove(&id) {
                        drop(state);
                        slot.end(Cause::Stream(why));
                        state = self.state();
                    }
                }
                Received::Refusing => self.refuse(),
            }
        };
        drop(state);
        result
    }

    /// Writes payload to the stream's socket, and queues what the socket does not take.
    fn deliver(&self, id: StreamId, slot: &Slot, bytes: &[u8], now: Instant) {
        let mut inbox = slot.inbox();
        let Some(taken) = inbox.write_through(bytes) else {
            // The stream's task resets it.
            drop(inbox);
            return slot.wake_down();
        };
        let rest = &bytes[taken..];
        inbox.queue(rest);
        self.account(id, slot, inbox, taken, rest.len(), now);
    }

    /// Payload has arrived: so much of it was written to the stream's socket, and so much queued. The inbox was
    /// locked until here, so that its task does not account for what it writes before.
    fn account(
        &self,
        id: StreamId,
        slot: &Slot,
        inbox: MutexGuard<'_, Inbox>,
        taken: usize,
        queued: usize,
        now: Instant,
    ) {
        let mut evicted: Vec<(Arc<Slot>, StreamEnd)> = Vec::new();
        let mut state = self.state();
        state.count_received(taken + queued, now);
        state.session.delivered(id, taken, now);
        state.session.queued(id, queued, now);
        while let Some((id, why)) = state.session.overflowed() {
            evicted.extend(state.slots.remove(&id).map(|slot| (slot, why)));
        }
        let waits = queued > 0 || inbox.is_unflushed();
        drop((state, inbox));
        slot.count_delivered(taken);
        if waits {
            slot.wake_down();
        }
        for (slot, why) in evicted {
            slot.end(Cause::Stream(why));
        }
    }
}
