//! What the relay has given out: the names of tickets and pools.
//!
//! Plain synchronous bookkeeping: no socket is opened here and nothing waits. What is given out is a
//! guard that takes itself back when it is dropped, so nothing can leak, however a task ends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relay_proto::handshake::Id;

/// Locks a mutex whose holders cannot leave it half changed, so poison means nothing.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// The same, if that may have it.
    pub(super) fn take_if(&self, id: &Id, may: impl FnOnce(&T) -> bool) -> Option<T> {
        let mut names = lock(&self.0);
        names.get(id).is_some_and(may).then(|| names.remove(id)).flatten()
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
    fn a_name_is_taken_once() {
        let names = Names::default();
        let name = names.give("user");
        let id = name.id().clone();
        assert_eq!(names.take_if(&id, |_| false), None);
        assert_eq!(names.take_if(&id, |_| true), Some("user"));
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
