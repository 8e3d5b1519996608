//! A bounded number of connections that wait: clients that have not yet shown what they want, users
//! who are not yet served.
//!
//! At the bound the source that has most of them loses its oldest, so whoever floods crowds out only
//! itself. A burst of honest peers is soon done; so nobody is pushed out before its grace has passed:
//! until then the accept loop waits for the oldest to be old enough, or for anyone to be done.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::registry::lock;
use super::sources::Source;

/// What to do about the bound now.
#[derive(Debug, PartialEq, Eq)]
enum Relief<T> {
    /// All fit.
    Fits,
    /// This one was removed.
    Removed(T),
    /// One must go, but none before then.
    NotBefore(Instant),
}

/// The bookkeeping, given the time.
#[derive(Debug)]
struct Crowd<T> {
    limit: usize,
    grace: Duration,
    len: usize,
    next: u64,
    sources: HashMap<Source, BTreeMap<u64, (Instant, T)>>,
}

impl<T> Crowd<T> {
    fn new(limit: usize, grace: Duration) -> Self {
        Self { limit, grace, len: 0, next: 0, sources: HashMap::new() }
    }

    fn of(&self, source: Source) -> usize {
        self.sources.get(&source).map_or(0, BTreeMap::len)
    }

    fn enter(&mut self, source: Source, now: Instant, who: T) -> u64 {
        let key = self.next;
        self.next += 1;
        self.len += 1;
        self.sources.entry(source).or_default().insert(key, (now, who));
        key
    }

    /// Removes one that is done; nothing if it was removed before.
    fn leave(&mut self, source: Source, key: u64) -> Option<T> {
        let members = self.sources.get_mut(&source)?;
        let (_, who) = members.remove(&key)?;
        if members.is_empty() {
            self.sources.remove(&source);
        }
        self.len -= 1;
        Some(who)
    }

    fn relieve(&mut self, now: Instant) -> Relief<T> {
        if self.len <= self.limit {
            return Relief::Fits;
        }
        let oldest =
            |members: &BTreeMap<u64, (Instant, T)>| members.first_key_value().map(|(&key, &(since, _))| (key, since));
        let largest = self
            .sources
            .iter()
            .filter_map(|(&source, members)| oldest(members).map(|(key, since)| (members.len(), source, key, since)))
            // Among the largest, the one whose oldest is older.
            .max_by_key(|&(len, _, key, _)| (len, std::cmp::Reverse(key)));
        let Some((_, source, key, since)) = largest else { return Relief::Fits };
        if now < since + self.grace {
            return Relief::NotBefore(since + self.grace);
        }
        self.leave(source, key).map_or(Relief::Fits, Relief::Removed)
    }
}

/// A bounded crowd. Clones are the same crowd.
#[derive(Clone, Debug)]
pub(super) struct Pending(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    crowd: Mutex<Crowd<oneshot::Sender<()>>>,
    left: Notify,
}

impl Pending {
    /// At most `limit` at a time, one more while [`Pending::settle`] waits; nobody is pushed out
    /// before `grace`.
    pub(super) fn new(limit: usize, grace: Duration) -> Self {
        Self(Arc::new(Shared { crowd: Mutex::new(Crowd::new(limit, grace)), left: Notify::new() }))
    }

    /// Lets one more in, at once. Call [`Pending::settle`] before the next.
    pub(super) fn enter(&self, address: IpAddr) -> Place {
        let (push, pushed_out) = oneshot::channel();
        let source = Source::from(address);
        let key = lock(&self.0.crowd).enter(source, Instant::now(), push);
        Place { shared: self.0.clone(), source, key, pushed_out }
    }

    /// Whether both are the same crowd.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// How many wait, of all sources.
    pub(super) fn len(&self) -> usize {
        lock(&self.0.crowd).len
    }

    /// How many of that source wait.
    pub(super) fn of(&self, address: IpAddr) -> usize {
        lock(&self.0.crowd).of(Source::from(address))
    }

    /// Returns once all fit: at once below the bound, else after somebody left or was pushed out,
    /// within the grace. For one task at a time; cancel safe.
    pub(super) async fn settle(&self) {
        loop {
            let relief = lock(&self.0.crowd).relieve(Instant::now());
            match relief {
                Relief::Fits => return,
                Relief::Removed(pushed) => drop(pushed),
                Relief::NotBefore(when) => {
                    // Early or in time, the crowd is looked at again.
                    let _ = timeout_at(when, self.0.left.notified()).await;
                }
            }
        }
    }
}

/// A place in the crowd, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    shared: Arc<Shared>,
    source: Source,
    key: u64,
    pushed_out: oneshot::Receiver<()>,
}

impl Place {
    /// Waits until the place is lost to a newcomer. Cancel safe; not to be called again afterwards.
    pub(super) async fn pushed_out(&mut self) {
        let _ = (&mut self.pushed_out).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.shared.crowd).leave(self.source, self.key);
        self.shared.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(100);

    fn from(last: u8) -> Source {
        Source::from(IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn below_the_bound_nobody_goes() {
        let now = Instant::now();
        let mut crowd = Crowd::new(2, GRACE);
        crowd.enter(from(1), now, 1);
        crowd.enter(from(1), now, 2);
        assert_eq!(crowd.relieve(now + GRACE), Relief::Fits);
    }

    #[test]
    fn a_flood_crowds_out_only_itself() {
        let mut now = Instant::now();
        let mut crowd = Crowd::new(8, GRACE);
        for honest in 1..=3 {
            crowd.enter(from(honest), now, u64::from(honest));
        }
        for flood in 100..1000 {
            now += GRACE;
            crowd.enter(from(200), now, flood);
            if let Relief::Removed(gone) = crowd.relieve(now) {
                assert_eq!(gone, flood - 5, "the flooder's oldest goes");
            }
            assert!(crowd.len <= 8);
        }
        // A newcomer from elsewhere is let in at the flooder's cost.
        now += GRACE;
        crowd.enter(from(4), now, 4);
        assert_eq!(crowd.relieve(now), Relief::Removed(995));
        assert_eq!(crowd.sources.len(), 5);
    }

    #[test]
    fn a_burst_is_never_refused() {
        let start = Instant::now();
        let mut crowd = Crowd::new(4, GRACE);
        let burst: Vec<_> = (0..5).map(|n| crowd.enter(from(1), start, n)).collect();
        let just_before = start + GRACE - Duration::from_millis(1);
        assert_eq!(crowd.relieve(just_before), Relief::NotBefore(start + GRACE));
        assert_eq!(crowd.leave(from(1), burst[2]), Some(2));
        assert_eq!(crowd.relieve(just_before), Relief::Fits, "somebody was done in time");
    }

    #[test]
    fn among_equals_the_oldest_goes() {
        let start = Instant::now();
        let mut crowd = Crowd::new(3, GRACE);
        for source in 1..=4 {
            crowd.enter(from(source), start, source);
        }
        assert_eq!(crowd.relieve(start + GRACE), Relief::Removed(1));
        assert_eq!(crowd.relieve(start + GRACE), Relief::Fits);
    }

    #[test]
    fn who_left_is_forgotten() {
        let now = Instant::now();
        let mut crowd = Crowd::new(1, GRACE);
        let key = crowd.enter(from(1), now, ());
        assert_eq!(crowd.leave(from(1), key), Some(()));
        assert_eq!(crowd.leave(from(1), key), None);
        assert_eq!((crowd.len, crowd.sources.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_accept_loop_waits_for_the_grace_and_no_longer() {
        let pending = Pending::new(1, GRACE);
        let start = Instant::now();
        let mut first = pending.enter(IpAddr::from([192, 0, 2, 1]));
        pending.settle().await;
        let second = pending.enter(IpAddr::from([192, 0, 2, 1]));
        pending.settle().await;
        assert_eq!(start.elapsed(), GRACE);
        first.pushed_out().await;
        drop((first, second));
        assert_eq!(lock(&pending.0.crowd).len, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_accept_loop_goes_on_as_soon_as_one_is_done() {
        let pending = Pending::new(1, GRACE);
        let start = Instant::now();
        let first = pending.enter(IpAddr::from([192, 0, 2, 1]));
        let mut second = pending.enter(IpAddr::from([192, 0, 2, 1]));
        tokio::spawn(async move {
            tokio::time::sleep(GRACE / 10).await;
            drop(first);
        });
        pending.settle().await;
        assert_eq!(start.elapsed(), GRACE / 10);
        tokio::select! {
            biased;
            () = second.pushed_out() => panic!("pushed out although there was room"),
            () = std::future::ready(()) => {}
        }
    }
}
