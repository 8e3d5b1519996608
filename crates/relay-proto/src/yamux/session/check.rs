//! What must hold between any two calls, for tests and fuzz targets.

use std::collections::BTreeSet;

use super::super::stream::Opening;
use super::input::{Input, Step};
use super::{MAX_PENDING_PONGS, MAX_REMEMBERED, Session, StreamId};

impl Session {
    /// Panics where the state contradicts itself. All payload that was given must be accounted for.
    #[doc(hidden)]
    pub fn check(&self) {
        let streams = || self.streams.iter();
        let ids = |queue: &std::collections::VecDeque<StreamId>| queue.iter().copied().collect::<BTreeSet<_>>();
        let (control, renewals, turns) = (ids(&self.control), ids(&self.renewals), ids(&self.turns));

        assert_eq!(self.unacknowledged, streams().filter(|(_, stream)| stream.unacknowledged).count());
        assert_eq!(self.queued.bytes(), streams().map(|(_, stream)| stream.queued as usize).sum::<usize>());
        let waiting = streams().filter(|(_, s)| s.queued > 0).map(|(id, s)| (s.waiting_since, *id));
        assert_eq!(self.waiting, waiting.collect::<BTreeSet<_>>());
        for (id, stream) in streams() {
            assert!(!stream.is_gone(), "{id} is gone and still held");
            assert!(
                stream.opening == Opening::Done || stream.in_control,
                "{id} has a control frame that nobody writes"
            );
            assert!(!stream.receive.due || stream.in_renewals, "{id} has credit that nobody writes");
            assert!(!stream.wants_turn() || stream.in_turn, "{id} has data that nobody writes");
            assert!(!stream.in_control || control.contains(id), "{id} lost its place among control frames");
            assert!(!stream.in_renewals || renewals.contains(id), "{id} lost its place among renewals");
            assert!(!stream.in_turn || turns.contains(id), "{id} lost its turn");

            let window = &stream.receive;
            let coming = match self.input {
                Input::Frame { id: of, step: Step::Payload { left, discard: false }, .. } if of == *id => left,
                _ => 0,
            };
            let all = [window.credit, window.taken, stream.queued, coming].map(u64::from).iter().sum::<u64>();
            assert_eq!(all, u64::from(window.size), "credit of {id} was lost or made");
            assert!(window.size <= self.config.max_window.max(super::INITIAL_WINDOW));
        }

        let most = self.config.max_streams;
        assert!(self.streams.len() <= most);
        assert!(self.pongs.len() <= MAX_PENDING_PONGS);
        assert!(self.resets.len() <= 2 * most, "{} resets wait", self.resets.len());
        assert!(self.remembered.len() <= self.remembered_order.len() && self.remembered_order.len() <= MAX_REMEMBERED);
        assert!(self.control.len() <= 2 * most + 65, "{} control frames wait", self.control.len());
        assert!(self.renewals.len() <= 2 * most + 65, "{} renewals wait", self.renewals.len());
        assert!(self.turns.len() <= 2 * most + 65, "{} turns wait", self.turns.len());
    }

    /// Whether nothing is held for any stream, living or gone, but the memory of resets.
    #[doc(hidden)]
    pub fn is_at_rest(&self) -> bool {
        self.streams.is_empty()
            && self.resets.is_empty()
            && self.control.is_empty()
            && self.renewals.is_empty()
            && self.turns.is_empty()
            && self.pongs.is_empty()
            && self.waiting.is_empty()
            && (self.queued.bytes(), self.unacknowledged) == (0, 0)
    }

    /// How many entries the queues hold that grow with what a peer sends: pongs, resets, SYNs, ACKs and credit,
    /// turns, and resets remembered.
    #[doc(hidden)]
    pub fn held(&self) -> [usize; 5] {
        let remembered = self.remembered_order.len().max(self.remembered.len());
        let control = self.control.len() + self.renewals.len();
        [self.pongs.len(), self.resets.len(), control, self.turns.len(), remembered]
    }

    /// The size of a stream's receive window, in bytes.
    #[doc(hidden)]
    pub fn window(&self, id: StreamId) -> Option<u32> {
        self.streams.get(&id).map(|stream| stream.receive.size)
    }

    /// Makes the next stream opened have that id, unless it is in use.
    #[doc(hidden)]
    pub fn set_next_id(&mut self, id: StreamId) {
        self.next_id = id.get();
    }

    /// How much a stream may send, and how much it has left to receive, in bytes.
    #[doc(hidden)]
    pub fn credit(&self, id: StreamId) -> Option<(u32, u32)> {
        self.streams.get(&id).map(|stream| (stream.send_credit, stream.receive.credit))
    }
}
