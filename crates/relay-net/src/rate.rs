//! Bytes a second, for all flows that share them.
//!
//! A bucket is told what was moved and owes it to time: who finds it in debt waits until that is paid. So it can be
//! charged for what nobody could hold back, and what is moved in the long run is the rate all the same.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time;

/// The time whose bytes a bucket holds when it is full: long enough for a page or a screen at once, and too short to
/// be noticed by who shares the path.
const DEPTH: Duration = Duration::from_millis(100);
/// What a bucket holds at least, in bytes: a request or an answer goes at once however low the rate.
const SMALLEST_DEPTH: u64 = 16 * 1024;
/// The time whose bytes one flow may move before others have their turn. 4 ms: with a bulk flow or two beside it a
/// small exchange is hardly slower, and waking so often costs little.
const SHARE: Duration = Duration::from_millis(4);
/// The least of that, in bytes: less is not worth the headers of a packet and a frame.
const SMALLEST_SHARE: u64 = 2 * 1024;
/// The most of it, in bytes: a kernel pipe, or a large frame.
const LARGEST_SHARE: u64 = 256 * 1024;

/// What was moved, against the time that it takes at a rate.
#[derive(Debug)]
pub(crate) struct Level {
    /// Bytes a second, at least 1.
    rate: u64,
    /// The time in which an empty bucket fills.
    depth: Duration,
    full_at: Instant,
}

impl Level {
    /// A full one. A rate of 0 counts as 1.
    pub(crate) fn new(rate: u64, now: Instant) -> Self {
        let rate = rate.max(1);
        Self { rate, depth: DEPTH.max(time_of(SMALLEST_DEPTH, rate)), full_at: now }
    }

    /// Whether something may be moved.
    ///
    /// # Errors
    /// When it may be, if nothing more is charged until then.
    pub(crate) fn check(&self, now: Instant) -> Result<(), Instant> {
        let debt = self.full_at.saturating_duration_since(now).saturating_sub(self.depth);
        if debt.is_zero() { Ok(()) } else { Err(now + debt) }
    }

    pub(crate) fn charge(&mut self, bytes: usize, now: Instant) {
        let full_at = self.full_at.max(now);
        // A debt of centuries need not grow.
        self.full_at = full_at.checked_add(time_of(bytes as u64, self.rate)).unwrap_or(full_at);
    }
}

/// How long so many bytes take.
fn time_of(bytes: u64, rate: u64) -> Duration {
    const SECOND: u128 = Duration::from_secs(1).as_nanos();
    let nanos = (u128::from(bytes) * SECOND).div_ceil(rate.into());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// The token bucket of a tunnel: its flows, both ways, together move no more than its rate.
///
/// It holds 100 ms' worth, 16 KiB at least, which go at once.
pub struct Bucket {
    level: Mutex<Level>,
    share: u32,
    burst: u32,
    /// Flows that wait: one permit, and who has it is next.
    line: Semaphore,
    is_slowed: AtomicBool,
    slowed: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("rate", &self.rate()).finish_non_exhaustive()
    }
}

impl Bucket {
    /// A full one for `rate` bytes a second; 0 counts as 1. `slowed` is called the first time that somebody has to
    /// wait, from within whoever that is: it must not block.
    pub fn new(rate: u64, slowed: impl Fn() + Send + Sync + 'static) -> Self {
        let level = Level::new(rate, now());
        let in_time = |time: Duration| u64::try_from(u128::from(level.rate) * time.as_millis() / 1000);
        let share = in_time(SHARE).unwrap_or(u64::MAX).clamp(SMALLEST_SHARE, LARGEST_SHARE);
        let burst = in_time(DEPTH).unwrap_or(u64::MAX).max(SMALLEST_DEPTH);
        Self {
            level: Mutex::new(level),
            share: narrow(share),
            burst: narrow(burst),
            line: Semaphore::new(1),
            is_slowed: AtomicBool::new(false),
            slowed: Box::new(slowed),
        }
    }

    /// Bytes a second.
    pub(crate) fn rate(&self) -> u64 {
        self.level().rate
    }

    /// What it holds when it is full, in bytes.
    pub(crate) fn burst(&self) -> u32 {
        self.burst
    }

    /// The most that a flow moves in its turn, in bytes.
    pub(crate) fn largest_share(&self) -> u32 {
        self.share
    }

    /// How much a flow that has something may move before others have their turn.
    ///
    /// # Errors
    /// When it may, if nobody else moves anything until then.
    pub(crate) fn share(&self, now: Instant) -> Result<u32, Instant> {
        self.level().check(now).map(|()| self.share).inspect_err(|_| {
            if !self.is_slowed.swap(true, Ordering::Relaxed) {
                (self.slowed)();
            }
        })
    }

    /// The [`share`](Self::share) of one who need not wait for it, neither for time nor for others.
    pub(crate) fn share_at_once(&self) -> Option<u32> {
        self.share(now()).ok().filter(|_| self.line.available_permits() > 0)
    }

    /// Waits until all who came before have had their turn, and gives the share to be had then. Dropped, it loses its
    /// place.
    pub(crate) async fn turn(self: Arc<Self>) -> u32 {
        // Never closed.
        let _next = self.line.acquire().await;
        loop {
            match self.share(now()) {
                Ok(share) => return share,
                Err(until) => time::sleep_until(until.into()).await,
            }
        }
    }

    /// So many bytes were moved, or are certain to be.
    pub(crate) fn charge(&self, bytes: usize, now: Instant) {
        self.level().charge(bytes, now);
    }

    fn level(&self) -> MutexGuard<'_, Level> {
        // No code panics while it holds the lock.
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The runtime's clock, which tests can move.
pub(crate) fn now() -> Instant {
    time::Instant::now().into_std()
}

fn narrow(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// Moves `most` bytes at a time, as often as it may, for so long; gives how many that were.
    fn greedy(level: &mut Level, most: usize, from: Instant, time: Duration) -> usize {
        let (mut moved, mut now) = (0, from);
        while now < from + time {
            match level.check(now) {
                Ok(()) => {
                    level.charge(most, now);
                    moved += most;
                }
                Err(until) => now = until,
            }
        }
        moved
    }

    #[test]
    fn what_is_moved_is_the_rate_and_what_was_held() {
        let start = Instant::now();
        for rate in [1, 1_000, 1_000_000, 1_000_000_000] {
            for most in [1, 2_048, 262_144] {
                let most = most.max(rate / 1000);
                let mut level = Level::new(rate, start);
                let time = time_of(most * 50, rate) + level.depth;
                let moved = greedy(&mut level, usize::try_from(most).unwrap(), start, time);
                let exact = u128::from(rate) * (time + level.depth).as_nanos() / 1_000_000_000;
                let error = (moved as u128).abs_diff(exact);
                assert!(error <= u128::from(most) + exact / 20, "{moved} of {exact} at {rate} by {most}");
            }
        }
    }

    #[test]
    fn it_fills_and_no_further() {
        let start = Instant::now();
        let mut level = Level::new(1_000_000, start);
        level.charge(100_000, start);
        assert_eq!(level.check(start), Ok(()));
        level.charge(1_000, start);
        assert_eq!(level.check(start), Err(start + MILLI));
        // An hour later there is a tenth of a second's worth, not an hour's.
        let later = start + Duration::from_hours(1);
        level.charge(101_000, later);
        assert_eq!(level.check(later), Err(later + MILLI));
        assert_eq!(level.check(later + MILLI), Ok(()));
    }

    #[test]
    fn no_rate_and_no_debt_is_too_much_for_it() {
        let start = Instant::now();
        let mut level = Level::new(0, start);
        for _ in 0..10 {
            level.charge(usize::MAX, start);
        }
        assert!(level.check(start).is_err());
        for (rate, share, burst) in
            [(0, 2048, 16 * 1024), (1_000_000, 4_000, 100_000), (u64::MAX, 256 * 1024, u32::MAX)]
        {
            let bucket = Bucket::new(rate, || {});
            assert_eq!((bucket.share(start + MILLI), bucket.burst()), (Ok(share), burst));
        }
    }

    #[test]
    fn that_somebody_waits_is_told_once() {
        let told = Arc::new(AtomicUsize::new(0));
        let count = told.clone();
        let bucket = Bucket::new(1_000_000, move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        let start = now();
        bucket.share(start).unwrap();
        bucket.charge(1_000_000, start);
        assert_eq!(told.load(Ordering::Relaxed), 0);
        for _ in 0..3 {
            bucket.share(start).unwrap_err();
        }
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }

    /// One that always wants more has the others between any two of its turns.
    #[tokio::test(start_paused = true)]
    async fn who_waits_is_served_in_line() {
        let bucket = Arc::new(Bucket::new(1_000_000, || {}));
        bucket.charge(200_000, now());
        let order = Arc::new(Mutex::new(Vec::new()));
        let flows: Vec<_> = (0..3)
            .map(|flow| {
                let (bucket, order) = (bucket.clone(), order.clone());
                tokio::spawn(async move {
                    for _ in 0..20 {
                        assert_eq!(bucket.share_at_once(), None, "others wait");
                        let share = bucket.clone().turn().await;
                        bucket.charge(share as usize, now());
                        order.lock().unwrap().push(flow);
                    }
                })
            })
            .collect();
        let start = time::Instant::now();
        for flow in flows {
            flow.await.unwrap();
        }
        let order = order.lock().unwrap();
        assert!(order.chunks(3).all(|round| round == [0, 1, 2]), "{order:?}");
        // What was owed, and 60 turns of which the last need not be paid.
        let time = start.elapsed();
        assert!(time >= 100 * MILLI + 59 * SHARE && time <= 100 * MILLI + 60 * (SHARE + MILLI), "{time:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_does_not_hold_up_the_others() {
        let bucket = Arc::new(Bucket::new(1_000_000, || {}));
        bucket.charge(200_000, now());
        let first = tokio::spawn(bucket.clone().turn());
        let second = tokio::spawn(bucket.clone().turn());
        tokio::task::yield_now().await;
        first.abort();
        assert_eq!(second.await.unwrap(), 4_000);
    }
}
