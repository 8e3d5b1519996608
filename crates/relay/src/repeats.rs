//! Says a cause that keeps coming back once, then how many more there were.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Decides which of many like events are worth a line in the log.
///
/// The first of a kind is said at once; those that follow within the interval are only counted. It
/// holds one small entry for each kind seen in the last interval, so kinds must be few: a cause and a
/// port, never a peer's address or bytes.
#[derive(Debug)]
pub struct Repeats<K> {
    every: Duration,
    seen: HashMap<K, Seen>,
}

#[derive(Debug)]
struct Seen {
    said: Instant,
    more: u64,
}

impl<K: Eq + Hash + Clone> Repeats<K> {
    /// One line for each kind in each interval of `every`.
    pub fn new(every: Duration) -> Self {
        Self { every, seen: HashMap::new() }
    }

    /// One more event of that kind. `Some(more)`: say it, and that `more` like it were kept back
    /// since the last; `None`: it was counted.
    pub fn note(&mut self, kind: K, now: Instant) -> Option<u64> {
        let Some(seen) = self.seen.get_mut(&kind) else {
            self.seen.insert(kind, Seen { said: now, more: 0 });
            return Some(0);
        };
        if now.saturating_duration_since(seen.said) < self.every {
            seen.more += 1;
            return None;
        }
        seen.said = now;
        Some(std::mem::take(&mut seen.more))
    }

    /// The kinds whose interval has passed with events kept back, and how many. Called now and then,
    /// so that the count of a burst is said although nothing follows it; forgets kinds that went quiet.
    pub fn due(&mut self, now: Instant) -> Vec<(K, u64)> {
        let mut due = Vec::new();
        self.seen.retain(|kind, seen| {
            if now.saturating_duration_since(seen.said) < self.every {
                return true;
            }
            let more = std::mem::take(&mut seen.more);
            if more > 0 {
                due.push((kind.clone(), more));
                seen.said = now;
            }
            more > 0
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    #[test]
    fn the_first_is_said_and_the_rest_counted() {
        let start = Instant::now();
        let mut repeats = Repeats::new(EVERY);
        assert_eq!(repeats.note("a", start), Some(0));
        for second in 1..10 {
            assert_eq!(repeats.note("a", start + Duration::from_secs(second)), None);
        }
        assert_eq!(repeats.note("b", start), Some(0), "kinds are counted apart");
        assert_eq!(repeats.note("a", start + EVERY), Some(9));
        assert_eq!(repeats.note("a", start + EVERY * 2), Some(0));
    }

    #[test]
    fn a_burst_that_nothing_follows_is_counted_out() {
        let start = Instant::now();
        let mut repeats = Repeats::new(EVERY);
        for _ in 0..100 {
            repeats.note("a", start);
        }
        assert_eq!(repeats.due(start + EVERY / 2), []);
        assert_eq!(repeats.due(start + EVERY), [("a", 99)]);
        assert_eq!(repeats.note("a", start + EVERY), None, "the count was a line, too");
        assert_eq!(repeats.due(start + EVERY * 2), [("a", 1)]);
    }

    #[test]
    fn quiet_kinds_are_forgotten() {
        let start = Instant::now();
        let mut repeats = Repeats::new(EVERY);
        for kind in 0..1000 {
            repeats.note(kind, start);
        }
        assert_eq!(repeats.due(start + EVERY), []);
        assert!(repeats.seen.is_empty());
    }

    #[test]
    fn a_clock_that_steps_back_harms_nothing() {
        let start = Instant::now() + EVERY;
        let mut repeats = Repeats::new(EVERY);
        repeats.note("a", start);
        assert_eq!(repeats.note("a", start.checked_sub(EVERY).unwrap()), None);
    }
}
