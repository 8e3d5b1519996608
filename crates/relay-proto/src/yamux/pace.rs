//! How much the streams of this link may write in one round of turns.
//!
//! A frame cannot be interrupted, so on a slow link a large one delays every other stream; on a fast one
//! a small one wastes work. What serves both is that all frames of a round together are what the link drains in
//! about a millisecond.

use std::time::{Duration, Instant};

/// The smallest limit for a frame's payload, in bytes, however many streams wait.
pub const FRAME_SMALLEST: u32 = 16 * 1024;
/// The largest limit for a frame's payload, in bytes.
pub const FRAME_LARGEST: u32 = 256 * 1024;

/// The largest round, in bytes: eight of the largest frames.
const ROUND_LARGEST: u32 = 8 * FRAME_LARGEST;

/// What the link should drain while one round passes.
const ROUND_TIME: Duration = Duration::from_millis(1);
/// How long bytes are counted before a rate is taken from them: many times a round's own time, because
/// a kernel's buffer drains in bursts.
const SAMPLE: Duration = Duration::from_millis(50);

/// Estimates the size of a round from what the link took.
///
/// A link that never refuses a byte is faster than we are: only while it blocks does what it took say
/// how fast it drains.
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    taken: u64,
    blocked: bool,
    round: u32,
}

impl Pace {
    /// Starts without an opinion: the smallest rounds, until the link shows what it drains.
    pub fn new(now: Instant) -> Self {
        Self { since: now, taken: 0, blocked: false, round: FRAME_SMALLEST }
    }

    /// The link took `bytes`; `blocked` says that it then refused more.
    pub fn wrote(&mut self, bytes: usize, blocked: bool, now: Instant) {
        // The time in which there was nothing to write says nothing about the link.
        if !self.blocked && now.saturating_duration_since(self.since) >= SAMPLE {
            (self.since, self.taken) = (now, 0);
        }
        self.taken = self.taken.saturating_add(bytes as u64);
        self.blocked |= blocked;
        let elapsed = now.saturating_duration_since(self.since);
        // A link that takes as much many times over without a pause has shown enough.
        let unhindered = !self.blocked && self.taken >= 8 * u64::from(self.round);
        if unhindered {
            self.round = (self.round * 2).min(ROUND_LARGEST);
        } else if elapsed < SAMPLE {
            return;
        } else if self.blocked {
            let round = u128::from(self.taken) * ROUND_TIME.as_micros() / elapsed.as_micros().max(1);
            let round = u32::try_from(round).unwrap_or(ROUND_LARGEST);
            self.round = round.clamp(FRAME_SMALLEST, ROUND_LARGEST);
        }
        (self.since, self.taken, self.blocked) = (now, 0, false);
    }

    /// What to put into one round of all streams that wait, in bytes.
    pub fn round(&self) -> u32 {
        self.round
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes as fast as a link of `rate` bytes a second drains; gives the limit in the end.
    fn settle(rate: u64) -> u32 {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let end = now + 20 * SAMPLE;
        while now < end {
            let bytes = pace.round();
            now += Duration::from_nanos(u64::from(bytes) * 1_000_000_000 / rate);
            pace.wrote(bytes as usize, true, now);
        }
        pace.round()
    }

    #[test]
    fn a_round_takes_about_a_millisecond() {
        assert_eq!(settle(1_000_000), FRAME_SMALLEST);
        assert!((90_000..=110_000).contains(&settle(100_000_000)), "{}", settle(100_000_000));
        assert!((900_000..=1_100_000).contains(&settle(1_000_000_000)), "{}", settle(1_000_000_000));
        assert_eq!(settle(9_000_000_000), ROUND_LARGEST);
    }

    #[test]
    fn a_link_that_never_blocks_gets_large_rounds_at_once() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let mut written = 0;
        while pace.round() < ROUND_LARGEST {
            written += pace.round();
            pace.wrote(pace.round() as usize, false, now);
        }
        assert!(written <= 32 * 1024 * 1024, "{written}");
    }

    #[test]
    fn a_pause_says_nothing_about_the_link() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..100 {
            pace.wrote(ROUND_LARGEST as usize, false, now);
        }
        now += Duration::from_mins(1);
        for _ in 0..20 {
            pace.wrote(8 * ROUND_LARGEST as usize, true, now);
            assert_eq!(pace.round(), ROUND_LARGEST);
            now += Duration::from_millis(5);
        }
    }

    #[test]
    fn a_link_that_slows_down_gets_small_rounds_again() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..100 {
            pace.wrote(ROUND_LARGEST as usize, false, now);
        }
        assert_eq!(pace.round(), ROUND_LARGEST);
        // The first sample still counts what went before.
        for _ in 0..2 {
            now += SAMPLE;
            pace.wrote(50_000, true, now);
        }
        assert_eq!(pace.round(), FRAME_SMALLEST);
    }
}
