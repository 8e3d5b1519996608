//! What the relay has given out: public ports, and the names of tickets and pools.
//!
//! Plain synchronous bookkeeping: no socket is opened here and nothing waits. What is given out is a
//! guard that takes itself back when it is dropped, so nothing can leak, however a task ends.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relay_proto::handshake::Id;

/// Locks a mutex whose holders cannot leave it half changed, so poison means nothing.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The public ports in use by this relay.
///
/// It remembers them so that finding the first free one needs no attempt to bind those of ours.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports(Arc<Mutex<BTreeSet<u16>>>);

impl Ports {
    /// Reserves the first port from `first` to `last`, both included, that is not ours yet. Whether
    /// another program has it is for the caller to find out; if so, it asks again from the next on.
    pub(super) fn reserve(&self, first: u16, last: u16) -> Option<ReservedPort> {
        if first > last {
            return None;
        }
        let mut ours = lock(&self.0);
        let mut free = first;
        for &taken in ours.range(first..=last) {
            if taken != free {
                break;
            }
            free = free.checked_add(1)?;
        }
        if free > last {
            return None;
        }
        ours.insert(free);
        Some(ReservedPort { ports: self.clone(), number: free })
    }
}

/// A port that is ours until this is dropped.
#[derive(Debug)]
pub(super) struct ReservedPort {
    ports: Ports,
    number: u16,
}

impl ReservedPort {
    pub(super) fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for ReservedPort {
    fn drop(&mut self) {
        lock(&self.ports.0).remove(&self.number);
    }
}

/// What ids lead to: a ticket to its waiting user, a pool's name to the pool.
#[derive(Debug)]
pub(super) struct Names<T>(Arc<Mutex<HashMap<Id, T>>>);

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Names<T> {
    /// Lets a fresh, random name lead to `to`.
    pub(super) fn give(&self, to: T) -> Name<T> {
        // 128 random bits are never drawn twice.
        let id = Id::from_random(rand::random());
        lock(&self.0).insert(id.clone(), to);
        Name { names: Self(self.0.clone()), id }
    }

    /// What the name leads to, once: nobody else gets it afterwards.
    pub(super) fn take(&self, id: &Id) -> Option<T> {
        lock(&self.0).remove(id)
    }

    /// What the name leads to.
    pub(super) fn get(&self, id: &Id) -> Option<T>
    where
        T: Clone,
    {
        lock(&self.0).get(id).cloned()
    }

    /// Whether the name still leads anywhere.
    pub(super) fn contains(&self, id: &Id) -> bool {
        lock(&self.0).contains_key(id)
    }
}

/// A name that leads somewhere until it is taken or this is dropped.
#[derive(Debug)]
pub(super) struct Name<T> {
    names: Names<T>,
    id: Id,
}

impl<T> Name<T> {
    pub(super) fn id(&self) -> &Id {
        &self.id
    }
}

impl<T> Drop for Name<T> {
    fn drop(&mut self) {
        // Bound to a variable so that what it led to is dropped after the lock.
        let _to = self.names.take(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_upwards_and_come_back() {
        let ports = Ports::default();
        let all: Vec<_> = (0..3).map(|_| ports.reserve(1235, 65535).unwrap()).collect();
        assert_eq!(all.iter().map(ReservedPort::number).collect::<Vec<_>>(), [1235, 1236, 1237]);
        let mut all = all.into_iter();
        let first = all.next();
        drop(all.next());
        assert_eq!(ports.reserve(1235, 65535).unwrap().number(), 1236, "the hole is filled first");
        drop(first);
        assert_eq!(ports.reserve(1235, 65535).unwrap().number(), 1235);
    }

    #[test]
    fn a_range_is_inclusive_and_ends() {
        let ports = Ports::default();
        let low = ports.reserve(9, 10).unwrap();
        let high = ports.reserve(9, 10).unwrap();
        assert_eq!((low.number(), high.number()), (9, 10));
        assert!(ports.reserve(9, 10).is_none());
        assert_eq!(ports.reserve(65535, 65535).unwrap().number(), 65535);
    }

    #[test]
    fn the_last_port_of_all_is_no_overflow() {
        let ports = Ports::default();
        let _last = ports.reserve(65535, 65535).unwrap();
        assert!(ports.reserve(65535, 65535).is_none());
        assert!(ports.reserve(9, 8).is_none(), "an empty range has none");
    }

    #[test]
    fn a_name_is_taken_once() {
        let names = Names::default();
        let name = names.give("user");
        let id = name.id().clone();
        assert_eq!(names.take(&id), Some("user"));
        assert_eq!(names.take(&id), None);
        drop(name);
        assert!(!names.contains(&id));
    }

    #[test]
    fn a_dropped_name_leads_nowhere() {
        let names = Names::default();
        let name = names.give("pool");
        let id = name.id().clone();
        assert_eq!((names.get(&id), names.get(&id)), (Some("pool"), Some("pool")));
        drop(name);
        assert_eq!(names.get(&id), None);
        assert!(lock(&names.0).is_empty());
    }
}
