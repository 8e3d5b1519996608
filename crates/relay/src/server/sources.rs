//! What one network may do: users at once, new users a second, failed proofs.
//!
//! A source is an IPv4 address, or the /64 that one IPv6 host usually has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::registry::lock;

/// Sources remembered that have no user at the moment.
const MOST_REMEMBERED: usize = 8192;
/// The first penalty after too many failed proofs; each further failure doubles it.
const FIRST_PENALTY: Duration = Duration::from_secs(1);
/// The longest penalty.
const LONGEST_PENALTY: Duration = Duration::from_mins(5);
/// After so long without one, failures are forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_mins(10);

/// Where connections come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source(u64);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            // Never equal to an IPv4 address: no IPv6 prefix that is routed fits into 32 bits.
            IpAddr::V6(v6) => u64::try_from(v6.to_bits() >> 64).unwrap_or(u64::MAX),
        })
    }
}

/// What a source may do.
#[derive(Clone, Debug)]
pub(super) struct Allowance {
    pub(super) users: usize,
    pub(super) new_users_per_second: usize,
    pub(super) failures: usize,
    /// Networks that this does not concern.
    pub(super) exempt: Vec<IpNet>,
}

/// Why a user is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    Users,
    Rate,
}

/// What is known of all sources. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Sources(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    allowance: Allowance,
    table: Mutex<HashMap<Source, Record>>,
}

#[derive(Debug)]
struct Record {
    users: usize,
    /// When a user who comes at the allowed rate may come; up to a second behind is caught up with.
    next_user: Instant,
    failures: usize,
    last_failure: Option<Instant>,
}

impl Record {
    fn new(now: Instant) -> Self {
        Self { users: 0, next_user: now, failures: 0, last_failure: None }
    }

    /// How long proofs of this source are not looked at.
    fn penalty(&self, free: usize) -> Duration {
        let doublings = self.failures.checked_sub(free.max(1));
        doublings.map_or(Duration::ZERO, |doublings| {
            FIRST_PENALTY.saturating_mul(1 << doublings.min(16)).min(LONGEST_PENALTY)
        })
    }

    /// Says nothing any more that a new record would not.
    fn is_stale(&self, now: Instant) -> bool {
        self.users == 0 && self.next_user <= now && self.last_failure.is_none_or(|last| now - last >= FORGIVEN_AFTER)
    }
}

impl Sources {
    pub(super) fn new(allowance: Allowance) -> Self {
        Self(Arc::new(Shared { allowance, table: Mutex::default() }))
    }

    /// Lets a user in.
    pub(super) fn enter(&self, address: IpAddr) -> Result<Visit, Excess> {
        let Allowance { users, new_users_per_second, exempt, .. } = &self.0.allowance;
        if exempt.iter().any(|network| network.contains(&address)) {
            return Ok(Visit(None));
        }
        let (source, now) = (Source::from(address), Instant::now());
        let mut table = lock(&self.0.table);
        let record = remembered(&mut table, source, now);
        if record.users >= *users {
            return Err(Excess::Users);
        }
        let next = record.next_user.max(now)
            + Duration::from_secs(1) / u32::try_from(*new_users_per_second).unwrap_or(u32::MAX).max(1);
        if next > now + Duration::from_secs(1) {
            return Err(Excess::Rate);
        }
        record.next_user = next;
        record.users += 1;
        Ok(Visit(Some((self.0.clone(), source))))
    }

    /// How long no proof of that source is looked at any more.
    pub(super) fn penalty(&self, address: IpAddr) -> Option<Duration> {
        let table = lock(&self.0.table);
        let record = table.get(&Source::from(address))?;
        let since = record.last_failure?.elapsed();
        let left = record.penalty(self.0.allowance.failures).saturating_sub(since);
        (!left.is_zero()).then_some(left)
    }

    /// A proof was not right. Gives whether it was the one with which the penalties begin.
    pub(super) fn failed(&self, address: IpAddr) -> bool {
        let now = Instant::now();
        let mut table = lock(&self.0.table);
        let record = remembered(&mut table, Source::from(address), now);
        if record.last_failure.is_some_and(|last| now - last >= FORGIVEN_AFTER) {
            record.failures = 0;
        }
        record.failures = record.failures.saturating_add(1);
        record.last_failure = Some(now);
        record.failures == self.0.allowance.failures.max(1)
    }
}

/// The record of a source; others that say nothing, or else one that has no users, make room for a new one.
fn remembered(table: &mut HashMap<Source, Record>, source: Source, now: Instant) -> &mut Record {
    if !table.contains_key(&source) && table.len() >= MOST_REMEMBERED {
        table.retain(|_, record| !record.is_stale(now));
        // Still half full: forget those who failed longest ago.
        if table.len() >= MOST_REMEMBERED / 2 {
            let mut idle: Vec<_> = table
                .iter()
                .filter(|(_, record)| record.users == 0)
                .map(|(&source, record)| (record.last_failure, source))
                .collect();
            idle.sort_unstable_by_key(|(last, _)| *last);
            for (_, source) in idle.into_iter().take(MOST_REMEMBERED / 2) {
                table.remove(&source);
            }
        }
    }
    table.entry(source).or_insert_with(|| Record::new(now))
}

/// A user who is there, until this is dropped.
#[derive(Debug)]
pub(super) struct Visit(Option<(Arc<Shared>, Source)>);

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some((shared, source)) = &self.0
            && let Some(record) = lock(&shared.table).get_mut(source)
        {
            record.users -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(users: usize, new_users_per_second: usize) -> Sources {
        let exempt = vec!["198.51.100.0/24".parse().unwrap()];
        Sources::new(Allowance { users, new_users_per_second, failures: 3, exempt })
    }

    fn from(last: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0xc000_0200 + last).into()
    }

    #[test]
    fn one_host_is_one_source() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
    }

    #[tokio::test(start_paused = true)]
    async fn users_at_once_are_bounded_for_each_source() {
        let sources = sources(2, 1000);
        let visits: Vec<_> = (0..2).map(|_| sources.enter(from(1)).unwrap()).collect();
        assert_eq!(sources.enter(from(1)).unwrap_err(), Excess::Users);
        assert!(sources.enter(from(2)).is_ok());
        drop(visits);
        assert!(sources.enter(from(1)).is_ok());
        let here: IpAddr = [198, 51, 100, 7].into();
        let many: Vec<_> = (0..100).map(|_| sources.enter(here)).collect();
        assert!(many.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn users_who_come_too_fast_are_refused() {
        let sources = sources(1000, 10);
        let burst = (0..100).filter(|_| sources.enter(from(1)).is_ok()).count();
        assert_eq!((burst, sources.enter(from(1)).unwrap_err()), (10, Excess::Rate));
        assert!(sources.enter(from(2)).is_ok());
        tokio::time::advance(Duration::from_millis(300)).await;
        assert_eq!((0..100).filter(|_| sources.enter(from(1)).is_ok()).count(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_cost_more_and_more() {
        let sources = sources(1, 1);
        assert!(!sources.failed(from(1)) && !sources.failed(from(1)));
        assert_eq!(sources.penalty(from(1)), None);
        assert!(sources.failed(from(1)));
        assert_eq!(sources.penalty(from(1)), Some(Duration::from_secs(1)));
        assert!(!sources.failed(from(1)));
        assert_eq!(sources.penalty(from(1)), Some(Duration::from_secs(2)));
        assert_eq!(sources.penalty(from(2)), None);
        for _ in 0..100 {
            sources.failed(from(1));
        }
        assert_eq!(sources.penalty(from(1)), Some(LONGEST_PENALTY));
        tokio::time::advance(FORGIVEN_AFTER).await;
        assert_eq!(sources.penalty(from(1)), None);
        assert!(!sources.failed(from(1)));
        assert_eq!(sources.penalty(from(1)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_users_are_not_forgotten() {
        let sources = sources(1, 1);
        let here = sources.enter(from(0)).unwrap();
        for source in 1..100_000 {
            sources.failed(from(source));
            assert!(lock(&sources.0.table).len() <= MOST_REMEMBERED);
        }
        assert_eq!(sources.enter(from(0)).unwrap_err(), Excess::Users);
        drop(here);
        assert_eq!(lock(&sources.0.table)[&Source::from(from(0))].users, 0);
    }
}
