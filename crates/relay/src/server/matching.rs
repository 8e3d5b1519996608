//! Who gets whom in a pool: first come, first served, on both sides.
//!
//! A user who sent a byte takes any member, a silent one only a member that has spoken. So probes and
//! spare connections use up no members, and services that speak first need not wait for the user. A
//! user who sent only an end-of-file comes after those with bytes and gets only a member that has
//! settled: to the client, a fresh one that ends without a byte looks refused. Plain synchronous code
//! without I/O or clock: `U` is told of its `M`.

use std::collections::{BTreeMap, BTreeSet};

/// What a user has shown of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Nothing yet.
    Silent,
    /// Its end, without a byte.
    Finished,
    /// A byte; or nothing, where users need not.
    Eager,
}

/// The users and idle members of one pool that have not found each other.
///
/// Everyone has a key, given in the order of their coming, and stays until matched or removed.
#[derive(Debug)]
pub(super) struct Matching<U, M> {
    next: u64,
    silent: BTreeMap<u64, U>,
    finished: BTreeMap<u64, U>,
    eager: BTreeMap<u64, U>,
    idle: BTreeMap<u64, M>,
    /// Those of the idle who have spoken.
    speaking: BTreeSet<u64>,
    /// Those of the idle who have been here for a while.
    settled: BTreeSet<u64>,
}

impl<U, M> Default for Matching<U, M> {
    fn default() -> Self {
        Self {
            next: 0,
            silent: BTreeMap::new(),
            finished: BTreeMap::new(),
            eager: BTreeMap::new(),
            idle: BTreeMap::new(),
            speaking: BTreeSet::new(),
            settled: BTreeSet::new(),
        }
    }
}

impl<U, M> Matching<U, M> {
    /// A key later than all others.
    pub(super) fn key(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A user waits for a member. Who behaved otherwise before, or was matched in vain, keeps its key
    /// and so its place.
    pub(super) fn add_user(&mut self, key: u64, manner: Manner, user: U) {
        let users = match manner {
            Manner::Silent => &mut self.silent,
            Manner::Finished => &mut self.finished,
            Manner::Eager => &mut self.eager,
        };
        users.insert(key, user);
    }

    pub(super) fn remove_user(&mut self, key: u64) {
        for users in [&mut self.silent, &mut self.finished, &mut self.eager] {
            users.remove(&key);
        }
    }

    /// An idle member, which has neither spoken nor settled.
    pub(super) fn add_member(&mut self, key: u64, member: M) {
        self.idle.insert(key, member);
    }

    /// An idle member has spoken; nothing if it was matched meanwhile.
    pub(super) fn speaks(&mut self, key: u64) {
        if self.idle.contains_key(&key) {
            self.speaking.insert(key);
        }
    }

    /// An idle member has settled; nothing if it was matched meanwhile.
    pub(super) fn settles(&mut self, key: u64) {
        if self.idle.contains_key(&key) {
            self.settled.insert(key);
        }
    }

    pub(super) fn remove_member(&mut self, key: u64) -> Option<M> {
        self.speaking.remove(&key);
        self.settled.remove(&key);
        self.idle.remove(&key)
    }

    /// How many members are idle.
    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Takes out the next pair, if there is one.
    pub(super) fn pair(&mut self) -> Option<(U, M)> {
        let choices = [
            (&mut self.eager, self.idle.keys().next()),
            (&mut self.finished, self.settled.first()),
            (&mut self.silent, self.speaking.first()),
        ];
        let (user, key) = choices.into_iter().find_map(|(users, member)| {
            let key = *member?;
            Some((users.pop_first()?.1, key))
        })?;
        Some((user, self.remove_member(key)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(silent: &[&'static str], members: &[(&'static str, bool)]) -> Matching<&'static str, &'static str> {
        let mut matching = Matching::default();
        for user in silent {
            let key = matching.key();
            matching.add_user(key, Manner::Silent, *user);
        }
        for &(member, speaks) in members {
            let key = matching.key();
            matching.add_member(key, member);
            if speaks {
                matching.speaks(key);
            }
        }
        matching
    }

    fn change(matching: &mut Matching<&'static str, &'static str>, key: u64, manner: Manner, user: &'static str) {
        matching.remove_user(key);
        matching.add_user(key, manner, user);
    }

    #[test]
    fn silent_users_use_up_no_members() {
        let mut matching = with(&["probe"], &[("a", false)]);
        assert_eq!(matching.pair(), None);
        matching.settles(2);
        assert_eq!(matching.pair(), None);
        let key = matching.key();
        matching.add_user(key, Manner::Eager, "browser");
        assert_eq!(matching.pair(), Some(("browser", "a")));
        assert_eq!(matching.pair(), None);
    }

    #[test]
    fn first_come_first_served() {
        let mut matching = with(&["first", "second"], &[("a", false), ("b", false)]);
        change(&mut matching, 2, Manner::Eager, "second");
        assert_eq!(matching.pair(), Some(("second", "a")));
        change(&mut matching, 1, Manner::Eager, "first");
        assert_eq!(matching.pair(), Some(("first", "b")));
        assert_eq!(matching.pair(), None);
    }

    #[test]
    fn a_service_that_speaks_first_gets_the_silent_user() {
        let mut matching = with(&["first", "second"], &[("a", false), ("b", false)]);
        matching.speaks(4);
        assert_eq!(matching.pair(), Some(("first", "b")));
        assert_eq!(matching.pair(), None);
        matching.add_member(5, "c");
        matching.speaks(5);
        assert_eq!(matching.pair(), Some(("second", "c")));
        assert_eq!(matching.pair(), None);
        assert_eq!(matching.idle(), 1);
    }

    #[test]
    fn a_user_who_only_finished_gets_a_settled_member() {
        let mut matching = with(&["first", "second"], &[("a", false), ("b", false), ("c", false)]);
        change(&mut matching, 1, Manner::Finished, "first");
        assert_eq!(matching.pair(), None);
        matching.settles(4);
        assert_eq!(matching.pair(), Some(("first", "b")));
        change(&mut matching, 2, Manner::Finished, "second");
        assert_eq!(matching.pair(), None, "what one settled is not the other's");
        // Who sent a byte comes first, though it came later.
        matching.settles(3);
        let key = matching.key();
        matching.add_user(key, Manner::Eager, "eager");
        assert_eq!(matching.pair(), Some(("eager", "a")));
        assert_eq!(matching.pair(), None);
        matching.settles(5);
        assert_eq!(matching.pair(), Some(("second", "c")));
    }

    #[test]
    fn a_silent_user_waits_for_no_settled_member() {
        let mut matching = with(&["finished", "silent"], &[("a", true)]);
        change(&mut matching, 1, Manner::Finished, "finished");
        assert_eq!(matching.pair(), Some(("silent", "a")));
        assert_eq!(matching.pair(), None);
    }

    #[test]
    fn who_is_matched_or_gone_comes_no_more() {
        let mut matching = with(&["user"], &[("a", true), ("b", true)]);
        matching.settles(2);
        matching.remove_member(2);
        assert_eq!(matching.pair(), Some(("user", "b")));
        matching.speaks(3);
        matching.settles(3);
        matching.remove_user(1);
        change(&mut matching, 4, Manner::Finished, "late");
        assert_eq!(matching.pair(), None);
        assert_eq!((matching.idle(), matching.speaking.len(), matching.settled.len()), (0, 0, 0));
    }

    #[test]
    fn who_was_matched_in_vain_keeps_its_place() {
        let mut matching = with(&["first", "second"], &[("dead", false)]);
        change(&mut matching, 1, Manner::Eager, "first");
        assert_eq!(matching.pair(), Some(("first", "dead")));
        change(&mut matching, 2, Manner::Eager, "second");
        matching.add_user(1, Manner::Eager, "first");
        let key = matching.key();
        matching.add_member(key, "alive");
        assert_eq!(matching.pair(), Some(("first", "alive")));
    }
}
