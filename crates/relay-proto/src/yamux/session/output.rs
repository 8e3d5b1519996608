//! What to write next.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::super::frame::{Flags, Header, Kind, StreamId};
use super::super::pace::{FRAME_LARGEST, FRAME_SMALLEST};
use super::super::stream::{Opening, Sending, Stream};
use super::{Session, Transmit};

/// Places that a queue may hold for streams that are gone, beside one for each that lives.
const STALE_MOST: usize = 64;

impl Session {
    /// What all streams that wait should put on the link in one round, in bytes (see [`Pace`](crate::yamux::Pace)).
    pub fn set_round(&mut self, bytes: u32) {
        self.round = bytes;
    }

    /// How many bytes of credit the next renewals may grant each; with 0 they wait. Without a bound unless this is
    /// called. What a stream was granted at its opening can neither be held back nor taken back.
    pub fn set_renewal_most(&mut self, bytes: u32) {
        self.renewal_most = bytes;
    }

    /// Whether a stream waits for credit to be renewed.
    pub fn has_renewals(&self) -> bool {
        !self.renewals.is_empty()
    }

    /// Whether a stream waits for its turn among data.
    pub fn has_turns(&self) -> bool {
        !self.turns.is_empty()
    }

    /// What to write next; `None` when there is nothing. Pongs come first, then pings, resets and what
    /// opens streams or grants credit, then data and FINs, stream by stream in turn.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.poll_control(now).map(Transmit::Frame).or_else(|| self.poll_turn())
    }

    /// The part of [`poll_transmit`](Self::poll_transmit) that goes ahead of data.
    pub fn poll_control(&mut self, now: Instant) -> Option<Header> {
        if self.over {
            return self.go_away.take().map(|code| Header::of_session(Kind::GoAway, Flags::NONE, code));
        }
        if let Some(value) = self.pongs.pop_front() {
            return Some(Header::of_session(Kind::Ping, Flags::ACK, value));
        }
        if std::mem::take(&mut self.ping.due) {
            let value = self.ping.next_value;
            self.ping.next_value = value.wrapping_add(1);
            self.ping.sent = Some((value, now));
            return Some(Header::of_session(Kind::Ping, Flags::SYN, value));
        }
        if let Some(code) = self.go_away.take() {
            return Some(Header::of_session(Kind::GoAway, Flags::NONE, code));
        }
        if let Some(id) = self.resets.pop_front() {
            return Some(Header::of_stream(Kind::WindowUpdate, Flags::RST, id, 0));
        }
        while let Some(id) = self.control.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.in_control = false;
            let flags = match std::mem::replace(&mut stream.opening, Opening::Done) {
                Opening::Syn => Flags::SYN,
                Opening::Ack => Flags::ACK,
                Opening::Done => continue,
            };
            let delta = stream.receive.grant(self.renewal_most);
            return Some(Header::of_stream(Kind::WindowUpdate, flags, id, delta));
        }
        while self.renewal_most > 0
            && let Some(id) = self.renewals.pop_front()
        {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.in_renewals = false;
            // It may have waited: what the user takes next makes it due again.
            stream.receive.due &= stream.may_renew(self.queued.is_pressed());
            let delta = stream.receive.grant(self.renewal_most);
            if stream.receive.due {
                self.want_renewal(id);
            }
            if delta > 0 {
                return Some(Header::of_stream(Kind::WindowUpdate, Flags::NONE, id, delta));
            }
        }
        None
    }

    fn poll_turn(&mut self) -> Option<Transmit> {
        while let Some(id) = self.turns.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.in_turn = false;
            if !stream.wants_turn() {
                continue;
            }
            if stream.sending == Sending::Finishing {
                stream.sending = Sending::Finished;
                self.remove_if_gone(id);
                return Some(Transmit::Frame(Header::of_stream(Kind::WindowUpdate, Flags::FIN, id, 0)));
            }
            stream.ready = false;
            let waiting = u32::try_from(self.turns.len()).unwrap_or(u32::MAX);
            let limit = (self.round / waiting.saturating_add(1)).clamp(FRAME_SMALLEST, FRAME_LARGEST);
            return Some(Transmit::Data { stream: id, max: stream.send_credit.min(limit) });
        }
        None
    }

    /// The header for `bytes` of payload that were read from the stream's source after
    /// [`Transmit::Data`] allowed them. `None` when the stream is gone: drop the bytes.
    pub fn sent(&mut self, id: StreamId, bytes: u32) -> Option<Header> {
        let stream = self.streams.get_mut(&id)?;
        debug_assert!(bytes <= stream.send_credit, "the driver keeps to the credit that it was given");
        stream.send_credit = stream.send_credit.saturating_sub(bytes);
        Some(Header::of_stream(Kind::Data, Flags::NONE, id, bytes))
    }

    pub(super) fn want_control(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !std::mem::replace(&mut stream.in_control, true)
        {
            self.control.push_back(id);
            drop_stale(&mut self.control, &mut self.streams, |stream| &mut stream.in_control);
        }
    }

    pub(super) fn want_renewal(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !std::mem::replace(&mut stream.in_renewals, true)
        {
            self.renewals.push_back(id);
            drop_stale(&mut self.renewals, &mut self.streams, |stream| &mut stream.in_renewals);
        }
    }

    pub(super) fn want_turn(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.wants_turn()
            && !std::mem::replace(&mut stream.in_turn, true)
        {
            self.turns.push_back(id);
            drop_stale(&mut self.turns, &mut self.streams, |stream| &mut stream.in_turn);
        }
    }
}

/// A queue of streams keeps the ids of those that are gone until it is read. A peer that opens and
/// resets streams and never reads must not make it grow: beyond twice the streams that live, each of
/// these keeps one place, as its flag says, and the others go.
fn drop_stale(
    queue: &mut VecDeque<StreamId>,
    streams: &mut HashMap<StreamId, Stream>,
    flag: impl Fn(&mut Stream) -> &mut bool,
) {
    if queue.len() <= 2 * streams.len() + STALE_MOST {
        return;
    }
    queue.retain(|id| streams.get_mut(id).is_some_and(|stream| std::mem::take(flag(stream))));
    for id in queue {
        if let Some(stream) = streams.get_mut(id) {
            *flag(stream) = true;
        }
    }
}
