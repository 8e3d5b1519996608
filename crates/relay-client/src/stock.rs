//! How many members a pool keeps.
//!
//! A user's byte tells half a round trip late that a member was taken, and the next member needs one and
//! a half: one for TCP, half for its line. Those two round trips, twice the time of a dial, the stock has
//! to last. So twice as many are wanted as were taken in that time: users come in bursts, and a stock that
//! ran out shows no more demand than it had members.
//!
//! A stock shrinks only by not replacing what was taken; no idle member is ever closed. Its end would
//! cross the byte of a user whom the relay gives to it at that moment, and a relay of 2017 does not even
//! notice and gives it to a user later. What a rush leaves behind costs each side a descriptor and a
//! keepalive every 10 s until users have taken it: that is what [`MAX_MEMBERS`] bounds.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How many idle members a pool keeps at least, unless told otherwise.
pub const DEFAULT_MEMBERS: usize = 8;

/// To how many idle members demand makes a pool grow. 256: enough for bursts of 64 users in each round
/// trip, and a quarter of the 1 024 descriptors that a program often has and of the 1 024 joins that a
/// relay lets be under way, so that no bound of their own is needed.
pub const MAX_MEMBERS: usize = 256;

/// After how long without need the stock is halved. Longer than the pauses between bursts of clients
/// that come back each half minute.
const HALVED_AFTER: Duration = Duration::from_mins(1);

/// How long a relay that took no more members is asked for no more than it took.
const FULL_FOR: Duration = Duration::from_mins(1);

#[derive(Debug)]
pub(crate) struct Stock {
    least: usize,
    wanted: usize,
    /// When the last users came, no more than can count.
    users: VecDeque<Instant>,
    /// When more than half of the stock was last needed, or the stock halved.
    needed_at: Instant,
    /// It does not grow before.
    full_until: Instant,
}

impl Stock {
    pub(crate) fn new(least: usize, now: Instant) -> Self {
        let least = least.max(1);
        Self { least, wanted: least, users: VecDeque::new(), needed_at: now, full_until: now }
    }

    /// How many members there should be, idle or joining.
    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }

    /// A user came on a member whose dial had taken that long.
    pub(crate) fn taken(&mut self, now: Instant, dial: Duration) {
        self.users.push_back(now);
        if self.users.len() > MAX_MEMBERS / 2 {
            self.users.pop_front();
        }
        let past = self.users.partition_point(|&user| now - user > 2 * dial);
        let needed = 2 * (self.users.len() - past);
        while self.wanted > self.least && now - self.needed_at >= HALVED_AFTER {
            self.wanted = (self.wanted / 2).max(self.least);
            self.needed_at += HALVED_AFTER;
        }
        if needed > self.wanted / 2 {
            self.needed_at = now;
        }
        if now >= self.full_until {
            self.wanted = self.wanted.max(needed);
        }
    }

    /// A member was refused while there are `held` others. Whether that says no more than that the relay
    /// takes no more: then no more are wanted. With less than the least it says more.
    pub(crate) fn full_at(&mut self, now: Instant, held: usize) -> bool {
        if held < self.least {
            return false;
        }
        self.wanted = self.wanted.min(held);
        self.full_until = now + FULL_FOR;
        true
    }

    /// The relay, or the way to it, is in trouble: it is not to be stormed. Users who still come show what
    /// they need.
    pub(crate) fn back_to_least(&mut self) {
        self.wanted = self.least;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(50);

    enum Happens {
        /// To the relay: a user sends its byte.
        UserCame,
        /// To the client: a user's byte.
        Taken,
        /// To the relay.
        Joined,
    }
    use Happens::{Joined, Taken, UserCame};

    /// A pool on a long path.
    struct Path {
        now: Instant,
        stock: Stock,
        /// As the client knows them, those under way included.
        held: usize,
        /// At the relay.
        idle: usize,
        /// Users without a member, since when.
        waiting: VecDeque<Instant>,
        next: BTreeMap<(Instant, usize), Happens>,
        happened: usize,
    }

    impl Path {
        fn new() -> Self {
            let now = Instant::now();
            let stock = Stock::new(DEFAULT_MEMBERS, now);
            let (held, idle) = (stock.wanted(), stock.wanted());
            Self { now, stock, held, idle, waiting: VecDeque::new(), next: BTreeMap::new(), happened: 0 }
        }

        fn later(&mut self, after: Duration, what: Happens) {
            self.happened += 1;
            self.next.insert((self.now + after, self.happened), what);
        }

        /// So many users, each of whom comes again as soon as it was served. How long each waited for a member.
        fn serve(&mut self, users: usize, during: Duration) -> Vec<Duration> {
            let end = self.now + during;
            let mut waits = Vec::new();
            for _ in 0..users {
                self.later(Duration::ZERO, UserCame);
            }
            while let Some(((now, _), what)) = self.next.pop_first() {
                self.now = now;
                match what {
                    UserCame => self.waiting.push_back(now),
                    Joined => self.idle += 1,
                    Taken => {
                        self.held -= 1;
                        self.stock.taken(now, ROUND_TRIP);
                        while self.held < self.stock.wanted() {
                            self.held += 1;
                            self.later(ROUND_TRIP * 3 / 2, Joined);
                        }
                    }
                }
                while self.idle > 0
                    && let Some(since) = self.waiting.pop_front()
                {
                    self.idle -= 1;
                    waits.push(now - since);
                    self.later(ROUND_TRIP / 2, Taken);
                    if now < end {
                        self.later(ROUND_TRIP, UserCame);
                    }
                }
            }
            self.now = self.now.max(end);
            waits
        }
    }

    #[test]
    fn twice_as_many_are_wanted_as_came_within_two_dials() {
        let start = Instant::now();
        let mut stock = Stock::new(1, start);
        let wanted = [0, 1, 2, 3].map(|at| {
            stock.taken(start + ROUND_TRIP * at, ROUND_TRIP);
            stock.wanted()
        });
        assert_eq!(wanted, [2, 4, 6, 6]);
    }

    #[test]
    fn who_comes_alone_needs_no_more_than_the_least() {
        let mut path = Path::new();
        let waits = path.serve(1, Duration::from_secs(10));
        assert!(waits.iter().all(Duration::is_zero));
        assert_eq!((path.idle, path.stock.wanted()), (DEFAULT_MEMBERS, DEFAULT_MEMBERS));
        assert!(path.stock.users.len() <= MAX_MEMBERS / 2);
    }

    #[test]
    fn it_grows_until_nobody_waits() {
        for users in [8, 32, 64] {
            let mut path = Path::new();
            let warm = path.serve(users, ROUND_TRIP * 10);
            assert!(warm.iter().any(|wait| !wait.is_zero()), "the least is not enough for {users}");
            let waits = path.serve(users, ROUND_TRIP * 40);
            assert!(waits.len() >= users * 40 && waits.iter().all(Duration::is_zero), "{users}: {waits:?}");
            assert!(path.stock.wanted() <= users * 6, "{users}: {}", path.stock.wanted());
        }
    }

    #[test]
    fn it_grows_no_further_than_the_bound() {
        let mut path = Path::new();
        path.serve(10_000, ROUND_TRIP * 10);
        assert_eq!((path.held, path.stock.wanted()), (MAX_MEMBERS, MAX_MEMBERS));
        assert_eq!(Stock::new(MAX_MEMBERS * 2, path.now).wanted(), MAX_MEMBERS * 2, "the caller knows");
    }

    #[test]
    fn it_shrinks_by_half_each_minute_that_did_not_need_it() {
        let mut path = Path::new();
        path.serve(32, ROUND_TRIP * 40);
        let rush = path.stock.wanted();
        let mut idle = Vec::new();
        path.serve(1, HALVED_AFTER / 2);
        for _ in 0..6 {
            idle.push(path.idle);
            path.serve(1, HALVED_AFTER);
        }
        assert_eq!(idle[..3], [rush, rush / 2, rush / 4]);
        assert_eq!(idle[5], DEFAULT_MEMBERS);

        // Nor do minutes without any user keep it; what is idle serves those who come back.
        path.serve(32, ROUND_TRIP * 40);
        let idle = path.idle;
        path.now += HALVED_AFTER * 10;
        path.serve(1, Duration::ZERO);
        assert_eq!((path.idle, path.stock.wanted()), (idle - 1, DEFAULT_MEMBERS));
        assert!(path.serve(32, ROUND_TRIP * 40).iter().all(Duration::is_zero));
    }

    #[test]
    fn a_need_that_comes_back_each_half_minute_keeps_it() {
        let mut path = Path::new();
        path.serve(32, ROUND_TRIP * 40);
        for _ in 0..10 {
            path.now += HALVED_AFTER / 2;
            assert!(path.serve(32, ROUND_TRIP * 2).iter().all(Duration::is_zero));
        }
    }

    #[test]
    fn what_a_relay_takes_no_more_is_not_wanted_for_a_while() {
        let mut path = Path::new();
        path.serve(32, ROUND_TRIP * 40);
        let held = path.stock.wanted() - 1;
        assert!(path.stock.full_at(path.now, held));
        assert!(path.stock.full_at(path.now, held - 1));
        assert!(!path.stock.full_at(path.now, DEFAULT_MEMBERS - 1), "with so few it is a refusal");
        path.stock.taken(path.now, Duration::MAX / 2);
        assert_eq!(path.stock.wanted(), held - 1);
        path.stock.taken(path.now + FULL_FOR, Duration::MAX / 2);
        assert_eq!(path.stock.wanted(), MAX_MEMBERS);
    }

    #[test]
    fn trouble_forgets_demand_until_it_shows_again() {
        let mut path = Path::new();
        path.serve(32, ROUND_TRIP * 40);
        path.stock.back_to_least();
        assert_eq!(path.stock.wanted(), DEFAULT_MEMBERS);
        path.stock.taken(path.now, Duration::MAX / 2);
        assert_eq!(path.stock.wanted(), MAX_MEMBERS);
    }
}
