//! One direction of a path, without a clock: when does a packet arrive, if it does?

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// What a path is like, each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
pub(crate) struct Shape {
    /// How long a packet is on its way, in milliseconds
    #[arg(long, default_value_t = 25)]
    pub(crate) delay_ms: u64,
    /// Megabits a second
    #[arg(long, default_value_t = 200)]
    pub(crate) mbit_s: u64,
    /// The most that a packet waits for those before it, in milliseconds
    #[arg(long, default_value_t = 50)]
    pub(crate) queue_ms: u64,
    /// Lost on the way, out of a thousand
    #[arg(long, default_value_t = 0)]
    pub(crate) loss: u32,
}

impl Shape {
    /// 25 ms each way, 200 Mbit/s, a queue of 50 ms.
    pub(crate) const fn with_loss(loss: u32) -> Self {
        Self { delay_ms: 25, mbit_s: 200, queue_ms: 50, loss }
    }

    /// There and back, when nothing waits.
    pub(crate) const fn round_trip(self) -> Duration {
        Duration::from_millis(2 * self.delay_ms)
    }
}

/// A queue before a line of constant rate.
#[derive(Debug)]
pub(crate) struct Queue {
    shape: Shape,
    /// When the line has sent all that was admitted.
    free: Instant,
    chance: SmallRng,
}

impl Queue {
    /// An empty one. The same seed loses the same packets.
    pub(crate) fn new(shape: Shape, now: Instant, seed: u64) -> Self {
        Self { shape, free: now, chance: SmallRng::seed_from_u64(seed) }
    }

    /// When a packet that comes now arrives at the other end; none when the queue is full or the packet gets lost.
    pub(crate) fn admit(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let begin = self.free.max(now);
        if begin - now > Duration::from_millis(self.shape.queue_ms) {
            return None;
        }
        // Bits over megabits a second are microseconds.
        self.free = begin + Duration::from_nanos(bytes as u64 * 8 * 1000 / self.shape.mbit_s);
        let lost = self.chance.random_range(0..1000) < self.shape.loss;
        (!lost).then_some(self.free + Duration::from_millis(self.shape.delay_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { delay_ms: 25, mbit_s: 12, queue_ms: 50, loss: 0 };

    #[test]
    fn a_packet_takes_its_time_on_the_line_and_the_delay() {
        let start = Instant::now();
        let mut queue = Queue::new(SHAPE, start, 0);
        // 1 500 bytes at 12 Mbit/s: 1 ms each.
        assert_eq!(queue.admit(start, 1500), Some(start + Duration::from_millis(26)));
        assert_eq!(queue.admit(start, 1500), Some(start + Duration::from_millis(27)));
        // An idle line saves nothing up.
        let later = start + Duration::from_secs(1);
        assert_eq!(queue.admit(later, 1500), Some(later + Duration::from_millis(26)));
    }

    #[test]
    fn a_full_queue_drops_and_drains() {
        let start = Instant::now();
        let mut queue = Queue::new(SHAPE, start, 0);
        // The one on the line and 50 ms of others.
        assert_eq!((0..100).filter(|_| queue.admit(start, 1500).is_some()).count(), 51);
        let later = start + Duration::from_millis(10);
        assert_eq!((0..100).filter(|_| queue.admit(later, 1500).is_some()).count(), 10);
    }

    #[test]
    fn loss_is_near_what_was_asked_for() {
        let mut now = Instant::now();
        let mut queue = Queue::new(Shape { loss: 10, ..SHAPE }, now, 7);
        let mut arrived = 0;
        for _ in 0..100_000 {
            now += Duration::from_millis(1);
            arrived += u32::from(queue.admit(now, 1500).is_some());
        }
        assert!((98_700..=99_300).contains(&arrived), "{arrived}");
    }
}
