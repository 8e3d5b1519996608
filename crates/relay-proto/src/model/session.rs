//! One session, driven by any sequence of operations of its driver and frames of a peer that keeps to
//! nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RawOp;
use crate::yamux::{Budget, Config, HEADER_LEN, Received, Role, Session, StreamId, Transmit};

/// Runs `ops` on a session of each role; both share a budget.
pub fn run(ops: &[RawOp]) {
    let now = Instant::now();
    let budget = Arc::new(Budget::new(600_000));
    let mut drivers = [Role::Relay, Role::Forwarder].map(|role| {
        let budget = Some(budget.clone());
        let config = Config { max_streams: 6, max_unacknowledged: 3, max_queued: 400_000, budget, ..Config::default() };
        (Driver { session: Session::new(role, config, now), now, queues: BTreeMap::new() }, true)
    });
    for &op in ops {
        for (driver, lives) in drivers.iter_mut().filter(|(_, lives)| *lives) {
            *lives = driver.step(op);
            driver.session.check();
        }
        assert_eq!(budget.held(), drivers.iter().map(|(driver, _)| driver.session.queued_bytes()).sum());
        assert!(budget.held() <= 600_000);
    }
    for (driver, _) in &mut drivers {
        driver.finish();
    }
    assert_eq!(budget.held(), 0);
}

struct Driver {
    session: Session,
    now: Instant,
    /// What waits for the users of streams, in bytes.
    queues: BTreeMap<StreamId, usize>,
}

impl Driver {
    /// Gives whether the session still lives.
    fn step(&mut self, (kind, which, amount): RawOp) -> bool {
        let Some(id) = StreamId::new(u32::from(which % 8) + 1) else { return true };
        match kind % 16 {
            0 => {
                if let Ok(id) = self.session.open(self.now) {
                    self.queues.insert(id, 0);
                }
            }
            1 => self.session.ready(id),
            2 => self.session.finish(id),
            3 => {
                self.session.reset(id);
                self.queues.remove(&id);
            }
            4 => self.take(id, amount.into()),
            5 => {
                // Late words about a stream that is gone, or never was.
                if !self.queues.contains_key(&id) {
                    self.session.delivered(id, amount.into(), self.now);
                    self.session.dequeued(id, amount.into(), self.now);
                }
            }
            6 => {
                for _ in 0..=which % 4 {
                    self.transmit(amount.into());
                }
            }
            7 => {
                let _ = self.session.poll_control(self.now);
            }
            8 => {
                self.now += Duration::from_millis(u64::from(amount) / 2);
                return self.session.handle_timeout(self.now).is_ok();
            }
            9 if which > 250 => self.session.go_away(),
            9 if which % 2 == 0 => self.session.set_renewal_most(u32::from(amount)),
            9 => self.session.set_round(u32::from(amount) * 8),
            // The frames: the upper bits of `which` are the flags.
            10..=12 => return self.data(which >> 4, id, u32::from(amount) * 5, which & 8 != 0),
            13 => return self.frame(1, which >> 4, id.get(), u32::from(amount) << (which & 16)),
            14 => return self.frame(2, which >> 4, 0, amount.into()),
            _ => return self.frame(u8::from(which < 250) + 1 + u8::from(which > 253), which, 0, amount.into()),
        }
        true
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, length: u32) -> bool {
        let mut bytes = [0; HEADER_LEN];
        (bytes[1], bytes[3]) = (kind, flags);
        bytes[4..8].copy_from_slice(&stream.to_be_bytes());
        bytes[8..].copy_from_slice(&length.to_be_bytes());
        self.receive(&bytes)
    }

    fn data(&mut self, flags: u8, id: StreamId, length: u32, elsewhere: bool) -> bool {
        if !self.frame(0, flags, id.get(), length) {
            return false;
        }
        let mut left = length as usize;
        if elsewhere && let Some((id, ahead)) = self.session.payload_ahead() {
            let part = ahead / 2;
            self.session.received_elsewhere(part, self.now);
            self.payload(id, part as usize);
            left -= part as usize;
        }
        self.receive(&vec![0; left])
    }

    fn receive(&mut self, mut input: &[u8]) -> bool {
        loop {
            match self.session.receive(&mut input, self.now) {
                Ok(None) => {
                    assert!(input.is_empty());
                    return true;
                }
                Ok(Some(Received::Payload(id, bytes))) => self.payload(id, bytes.len()),
                Ok(Some(Received::Opened(id))) => {
                    self.queues.insert(id, 0);
                }
                Ok(Some(Received::Ended(id, _))) => {
                    assert!(self.queues.remove(&id).is_some() || !self.queues.contains_key(&id));
                }
                Ok(Some(_)) => {}
                Err(_) => return false,
            }
        }
    }

    /// The user takes every other payload at once, unless others wait before.
    fn payload(&mut self, id: StreamId, bytes: usize) {
        let queue = self.queues.entry(id).or_default();
        if *queue == 0 && bytes.is_multiple_of(2) {
            self.session.delivered(id, bytes, self.now);
        } else {
            let part = if *queue == 0 { bytes / 2 } else { 0 };
            *queue += bytes - part;
            self.session.delivered(id, part, self.now);
            self.session.queued(id, bytes - part, self.now);
        }
        while let Some((id, _)) = self.session.overflowed() {
            self.queues.remove(&id);
        }
    }

    fn take(&mut self, id: StreamId, most: usize) {
        if let Some(queue) = self.queues.get_mut(&id) {
            let bytes = most.min(*queue);
            *queue -= bytes;
            self.session.dequeued(id, bytes, self.now);
        }
    }

    fn transmit(&mut self, source: u32) {
        if let Some(Transmit::Data { stream, max }) = self.session.poll_transmit(self.now) {
            assert!(max > 0);
            match source.min(max) {
                0 => self.session.finish(stream),
                bytes => assert!(self.session.sent(stream, bytes).is_some()),
            }
        }
    }

    /// Whatever happened, resetting what lives and writing what is due frees everything.
    fn finish(&mut self) {
        for id in (1..=u32::from(u8::MAX)).filter_map(StreamId::new) {
            self.session.reset(id);
        }
        self.session.set_renewal_most(u32::MAX);
        let mut written = 0;
        while self.session.poll_transmit(self.now).is_some() {
            written += 1;
            assert!(written < 1000, "there is always one more thing to write");
        }
        self.session.check();
        assert!(self.session.is_at_rest(), "{:?}", self.session);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_operations_keep_the_state_whole(ops in vec(any::<crate::model::RawOp>(), 0..200)) {
            super::run(&ops);
        }
    }
}
