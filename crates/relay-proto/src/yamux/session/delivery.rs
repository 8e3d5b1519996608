//! What became of payload, and the credit and the memory that follow from it.

use std::time::Instant;

use super::super::frame::StreamId;
use super::{ROUND_TRIP_AGE, Session, StreamEnd};

impl Session {
    /// `bytes` of payload went to the user without waiting.
    pub fn delivered(&mut self, id: StreamId, bytes: usize, now: Instant) {
        self.taken(id, bytes, false, now);
    }

    /// `bytes` of payload could not go to the user and wait in the driver's queue. Afterwards call
    /// [`overflowed`](Self::overflowed) until it gives `None`.
    pub fn queued(&mut self, id: StreamId, bytes: usize, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id).filter(|_| bytes > 0) else { return };
        if stream.queued == 0 {
            stream.waiting_since = now;
            self.waiting.insert((now, id));
        }
        stream.queued = stream.queued.saturating_add(narrow(bytes));
        self.queued.add(bytes);
    }

    /// `bytes` left the driver's queue for the user.
    pub fn dequeued(&mut self, id: StreamId, bytes: usize, now: Instant) {
        self.taken(id, bytes, true, now);
    }

    /// While more is queued than [`Config::max_queued`](super::Config::max_queued), or in all sessions than their
    /// [`budget`](super::Config::budget): resets the stream whose user has gone longest without taking a byte, names
    /// it and says why. The driver drops its queue and tells its user.
    pub fn overflowed(&mut self) -> Option<(StreamId, StreamEnd)> {
        let why = self.queued.excess()?;
        let (_, id) = *self.waiting.first()?;
        self.break_off(id, why);
        Some((id, why))
    }

    fn taken(&mut self, id: StreamId, bytes: usize, from_queue: bool, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id).filter(|_| bytes > 0) else { return };
        let mut bytes = narrow(bytes);
        if from_queue {
            bytes = bytes.min(stream.queued);
            self.waiting.remove(&(stream.waiting_since, id));
            stream.queued -= bytes;
            stream.waiting_since = now;
            if stream.queued > 0 {
                self.waiting.insert((now, id));
            }
            self.queued.remove(bytes as usize);
        }
        let pressed = self.queued.is_pressed();
        if stream.receive.take(bytes, stream.may_renew(pressed)) {
            let round_trip = self.ping.round_trip.filter(|_| !pressed);
            stream.receive.grow(round_trip, self.config.max_window, now);
            self.want_renewal(id);
            self.want_round_trip(now);
        }
        self.remove_if_gone(id);
    }

    fn want_round_trip(&mut self, now: Instant) {
        let old = self.ping.measured.is_none_or(|at| now.saturating_duration_since(at) >= ROUND_TRIP_AGE);
        self.ping.due |= old && self.ping.sent.is_none();
    }
}

/// A number of bytes of one stream, which its window keeps within 32 bits.
fn narrow(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
