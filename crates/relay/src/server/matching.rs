//! Who gets whom in a pool: first come, first served, on both sides.
//!
//! An eager user (who sent a byte, or finished) takes any member; a silent one only a member that
//! has spoken. So probes and spare connections use up no members, and services that speak first
//! need not wait for the user. Plain synchronous code without I/O: `U` is told of its `M`.

use std::collections::{BTreeMap, BTreeSet};

/// The users and idle members of one pool that have not found each other.
///
/// Everyone has a key, given in the order of their coming, and stays until matched or removed.
#[derive(Debug)]
pub(super) struct Matching<U, M> {
    next: u64,
    silent: BTreeMap<u64, U>,
    eager: BTreeMap<u64, U>,
    idle: BTreeMap<u64, M>,
    /// Those of the idle who have spoken.
    speaking: BTreeSet<u64>,
}

impl<U, M> Default for Matching<U, M> {
    fn default() -> Self {
        Self {
            next: 0,
            silent: BTreeMap::new(),
            eager: BTreeMap::new(),
            idle: BTreeMap::new(),
            speaking: BTreeSet::new(),
        }
    }
}

impl<U, M> Matching<U, M> {
    /// A key later than all others.
    pub(super) fn key(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn add_silent(&mut self, key: u64, user: U) {
        self.silent.insert(key, user);
    }

    /// A user who wants a member now. Who was silent before, or matched in vain, keeps its key and so
    /// its place.
    pub(super) fn add_eager(&mut self, key: u64, user: U) {
        self.eager.insert(key, user);
    }

    pub(super) fn remove_user(&mut self, key: u64) {
        self.silent.remove(&key);
        self.eager.remove(&key);
    }

    pub(super) fn add_member(&mut self, key: u64, member: M, speaks: bool) {
        self.idle.insert(key, member);
        if speaks {
            self.speaking.insert(key);
        }
    }

    /// An idle member has spoken; nothing if it was matched meanwhile.
    pub(super) fn speaks(&mut self, key: u64) {
        if self.idle.contains_key(&key) {
            self.speaking.insert(key);
        }
    }

    pub(super) fn remove_member(&mut self, key: u64) {
        self.idle.remove(&key);
        self.speaking.remove(&key);
    }

    /// How many members are idle.
    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Takes out the next pair, if there is one.
    pub(super) fn pair(&mut self) -> Option<(U, M)> {
        let (users, key) = if self.eager.is_empty() {
            (&mut self.silent, *self.speaking.first()?)
        } else {
            (&mut self.eager, *self.idle.first_key_value()?.0)
        };
        let (_, user) = users.pop_first()?;
        self.speaking.remove(&key);
        Some((user, self.idle.remove(&key)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(silent: &[&'static str], members: &[(&'static str, bool)]) -> Matching<&'static str, &'static str> {
        let mut matching = Matching::default();
        for user in silent {
            let key = matching.key();
            matching.add_silent(key, *user);
        }
        for &(member, speaks) in members {
            let key = matching.key();
            matching.add_member(key, member, speaks);
        }
        matching
    }

    fn hurry(matching: &mut Matching<&'static str, &'static str>, key: u64, user: &'static str) {
        matching.remove_user(key);
        matching.add_eager(key, user);
    }

    #[test]
    fn silent_users_use_up_no_members() {
        let mut matching = with(&["probe"], &[("a", false)]);
        assert_eq!(matching.pair(), None);
        let key = matching.key();
        matching.add_eager(key, "browser");
        assert_eq!(matching.pair(), Some(("browser", "a")));
        assert_eq!(matching.pair(), None);
    }

    #[test]
    fn first_come_first_served() {
        let mut matching = with(&["first", "second"], &[("a", false), ("b", false)]);
        hurry(&mut matching, 2, "second");
        assert_eq!(matching.pair(), Some(("second", "a")));
        hurry(&mut matching, 1, "first");
        assert_eq!(matching.pair(), Some(("first", "b")));
        assert_eq!(matching.pair(), None);
    }

    #[test]
    fn a_service_that_speaks_first_gets_the_silent_user() {
        let mut matching = with(&["first", "second"], &[("a", false), ("b", false)]);
        matching.speaks(4);
        assert_eq!(matching.pair(), Some(("first", "b")));
        assert_eq!(matching.pair(), None);
        matching.add_member(5, "c", true);
        assert_eq!(matching.pair(), Some(("second", "c")));
        assert_eq!(matching.pair(), None);
        assert_eq!(matching.idle(), 1);
    }

    #[test]
    fn who_is_matched_or_gone_comes_no_more() {
        let mut matching = with(&["user"], &[("a", true), ("b", true)]);
        matching.remove_member(2);
        assert_eq!(matching.pair(), Some(("user", "b")));
        matching.speaks(3);
        matching.remove_user(1);
        assert_eq!(matching.pair(), None);
        assert_eq!((matching.idle(), matching.speaking.len(), matching.eager.len()), (0, 0, 0));
    }

    #[test]
    fn who_was_matched_in_vain_keeps_its_place() {
        let mut matching = with(&["first", "second"], &[("dead", false)]);
        hurry(&mut matching, 1, "first");
        assert_eq!(matching.pair(), Some(("first", "dead")));
        hurry(&mut matching, 2, "second");
        matching.add_eager(1, "first");
        let key = matching.key();
        matching.add_member(key, "alive", false);
        assert_eq!(matching.pair(), Some(("first", "alive")));
    }
}
