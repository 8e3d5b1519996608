//! How long to wait before the next try.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Exponential backoff with full jitter, without a clock.
///
/// The n-th wait is anything from nothing to a ceiling that doubles from [`Backoff::FIRST`] up to
/// [`Backoff::LONGEST`]: a thousand clients that lost the same relay come back spread out.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    ceiling: Duration,
}

impl Backoff {
    /// The ceiling of the first wait.
    pub(crate) const FIRST: Duration = Duration::from_millis(250);
    /// No wait is longer.
    pub(crate) const LONGEST: Duration = Duration::from_secs(15);

    /// Starts from the shortest wait.
    pub(crate) fn new() -> Self {
        Self { ceiling: Self::FIRST }
    }

    /// The next wait, drawn from `rng`.
    pub(crate) fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = (ceiling * 2).min(Self::LONGEST);
        ceiling.mul_f64(rng.random())
    }

    /// What was tried has worked: starts over.
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn ceilings_double_up_to_the_longest() {
        let mut highest = [Duration::ZERO; 12];
        let mut lowest = [Backoff::LONGEST; 12];
        for seed in 0..2000 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut backoff = Backoff::new();
            for (high, low) in highest.iter_mut().zip(&mut lowest) {
                let wait = backoff.next(&mut rng);
                *high = wait.max(*high);
                *low = wait.min(*low);
            }
        }
        for (at, (high, low)) in highest.iter().zip(lowest).enumerate() {
            let ceiling = (Backoff::FIRST * (1 << at)).min(Backoff::LONGEST);
            assert!(*high <= ceiling && *high > ceiling.mul_f64(0.95), "wait {at}: at most {high:?}");
            assert!(low < ceiling.mul_f64(0.05), "wait {at}: at least {low:?}");
        }
    }

    #[test]
    fn a_success_starts_over() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new();
        for _ in 0..10 {
            backoff.next(&mut rng);
        }
        backoff.reset();
        assert!(backoff.next(&mut rng) <= Backoff::FIRST);
    }
}
