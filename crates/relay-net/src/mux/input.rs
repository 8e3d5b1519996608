//! From the link to the streams' sockets.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use relay_proto::yamux::{Received, StreamEnd, StreamId};

use super::link::{Ended, Shared};
use super::stream::{Cause, Slot};

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
    /// Reads and processes what the link has. Gives whether it may have more.
    pub(super) fn read_some(&self) -> Result<bool, Ended> {
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..READS_IN_A_ROW {
                match self.wire.try_read(buffer) {
                    Ok(0) => return Err(Ended::PeerClosed),
                    Ok(read) => self.process(&buffer[..read])?,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(Ended::Io(error.kind())),
                }
            }
            Ok(true)
        })
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
        if result.is_ok() {
            self.flush();
        }
        result
    }

    /// Writes payload to the stream's socket, and queues what the socket does not take.
    fn deliver(&self, id: StreamId, slot: &Slot, bytes: &[u8], now: Instant) {
        let mut evicted: Vec<Arc<Slot>> = Vec::new();
        let mut inbox = slot.inbox();
        let Some(taken) = inbox.write_through(bytes) else {
            // The stream's task resets it.
            return slot.wake_down();
        };
        let rest = &bytes[taken..];
        inbox.queue(rest);
        let mut state = self.state();
        state.session.delivered(id, taken, now);
        state.session.queued(id, rest.len(), now);
        while let Some(id) = state.session.overflowed() {
            evicted.extend(state.slots.remove(&id));
        }
        drop((state, inbox));
        slot.count_delivered(taken);
        if !rest.is_empty() {
            slot.wake_down();
        }
        for slot in evicted {
            slot.end(Cause::Stream(StreamEnd::Stalled));
        }
    }
}
