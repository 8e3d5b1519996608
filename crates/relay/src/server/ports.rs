//! Which public port a tunnel gets, and whose it stays when the client is gone.
//!
//! Plain synchronous code without I/O; what is given out is a guard that takes itself back when it is dropped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relay_proto::identity::Name;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::registry::lock;

/// How long a port stays its identity's when the client is gone. 10 minutes: a machine restarts in less.
pub const KEPT_FOR: Duration = Duration::from_mins(10);

/// Ports, as ranges that include both ends, in order and apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    pub(super) fn range(first: u16, last: u16) -> Self {
        Self(if first <= last { vec![(first, last)] } else { Vec::new() })
    }

    pub(super) fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&port))
    }

    /// The same without those from `first` to `last`.
    pub(super) fn without(self, first: u16, last: u16) -> Self {
        let pieces = self.0.into_iter().flat_map(|(from, to)| {
            let below = first.checked_sub(1).map(|end| (from, to.min(end)));
            let above = last.checked_add(1).map(|start| (from.max(start), to));
            if first > to || last < from { [Some((from, to)), None] } else { [below, above] }
        });
        Self(pieces.flatten().filter(|(from, to)| from <= to).collect())
    }

    /// The lower half of all: at least one, if there is any.
    pub(super) fn lower_half(&self) -> Self {
        let all: u32 = self.0.iter().map(|&(first, last)| u32::from(last - first) + 1).sum();
        let mut left = all.div_ceil(2);
        let mut half = Vec::new();
        for &(first, last) in &self.0 {
            let Some(more) = left.checked_sub(1) else { break };
            let end = u32::from(last).min(u32::from(first) + more);
            let end = u16::try_from(end).unwrap_or(last);
            half.push((first, end));
            left -= u32::from(end - first) + 1;
        }
        Self(half)
    }

    /// The first port from `from` on that `taken` does not have.
    fn first_free<T>(&self, from: u16, taken: &BTreeMap<u16, T>) -> Option<u16> {
        self.0.iter().find_map(|&(first, last)| {
            let mut free = first.max(from);
            if free > last {
                return None;
            }
            for &port in taken.range(free..=last).map(|(port, _)| port) {
                if port != free {
                    break;
                }
                free = free.checked_add(1)?;
            }
            (free <= last).then_some(free)
        })
    }

    pub(super) fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }
}

/// Which port a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// The lowest that is free, not below this one; that of the same service before, if there is one.
    Any(u16),
    /// The same, but not that of the same service before: it cannot be had.
    Other(u16),
    /// This one, if it can be had.
    Wish(u16),
    /// This one or none.
    Demand(u16),
}

/// The identity that a port is for.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) name: Name,
    /// How many it may have.
    pub(super) most: usize,
    /// It may not use the relay any more.
    pub(super) cut: CancellationToken,
}

/// Who asks for a port.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    /// Nobody for anonymous clients, for whom nothing is kept.
    pub(super) owner: Option<Owner>,
    /// The client's word for its service.
    pub(super) service: Option<Box<str>>,
    /// What it may have.
    pub(super) may: PortSet,
}

/// Why there is no port.
#[derive(Debug)]
pub(super) enum NoPort {
    /// The one demanded is not among those it may have.
    NotAllowed(u16),
    /// Somebody else has it.
    Taken(u16),
    /// An older tunnel of the same identity has it.
    Contested(u16, Arc<Standing>),
    /// All that it may have are in use.
    AllTaken,
    /// The identity has as many as it may have.
    TooMany(usize),
}

/// A tunnel's hold on a port, as others see it.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// A newer client of the identity wants the port: is the tunnel's own still there?
    contested: Notify,
    lives: Notify,
    gone: CancellationToken,
}

impl Standing {
    /// Has the tunnel look whether its client is still there, and waits until that is known; for at most `patience`.
    pub(super) async fn contest(&self, patience: Duration) {
        let lives = self.lives.notified();
        self.contested.notify_one();
        tokio::select! {
            () = self.gone.cancelled() => {}
            () = lives => {}
            () = tokio::time::sleep(patience) => {}
        }
    }

    /// The client is still there.
    pub(super) fn lives(&self) {
        self.lives.notify_waiters();
    }

    /// Waits until somebody contests the port. Cancel safe.
    pub(super) async fn contested(&self) {
        self.contested.notified().await;
    }
}

/// Whose a port is.
#[derive(Debug)]
struct Hold {
    owner: Option<Owner>,
    service: Option<Box<str>>,
    state: State,
}

#[derive(Debug)]
enum State {
    Used(Arc<Standing>),
    KeptUntil(Instant),
}

impl Hold {
    fn is_of(&self, owner: Option<&Owner>) -> bool {
        self.owner.as_ref().zip(owner).is_some_and(|(one, other)| one.name == other.name)
    }

    fn kept_until(&self) -> Option<Instant> {
        match self.state {
            State::KeptUntil(until) => Some(until),
            State::Used(_) => None,
        }
    }

    /// Kept for nobody any more.
    fn is_over(&self, now: Instant) -> bool {
        let cut = self.owner.as_ref().is_none_or(|owner| owner.cut.is_cancelled());
        self.kept_until().is_some_and(|until| until <= now || cut)
    }
}

/// A port that is its identity's, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The port.
    pub port: u16,
    /// Whose it is.
    pub owner: Name,
    /// The word for the service behind it.
    pub service: Option<Box<str>>,
    /// When it ends; `None` while a tunnel uses it.
    pub until: Option<Instant>,
}

/// All ports that are in use or kept for somebody.
#[derive(Clone, Debug)]
pub(super) struct Ports(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    held: Mutex<BTreeMap<u16, Hold>>,
    /// What is to be written down has changed.
    changed: watch::Sender<()>,
}

impl Ports {
    /// With what an earlier run wrote down, and whose that is now: what a tunnel used then is kept from now on.
    pub(super) fn new(kept: impl IntoIterator<Item = (Reservation, Owner)>) -> Self {
        let latest = Instant::now() + KEPT_FOR;
        let held = kept.into_iter().map(|(Reservation { port, service, until, .. }, owner)| {
            let state = State::KeptUntil(until.map_or(latest, |until| until.min(latest)));
            (port, Hold { owner: Some(owner), service, state })
        });
        Self(Arc::new(Shared { held: Mutex::new(held.collect()), changed: watch::Sender::new(()) }))
    }

    /// Takes a port for a tunnel. Whether another program has it is for the caller to find out; if so, it drops
    /// what it got and asks again from the next on.
    pub(super) fn reserve(&self, asker: &Asker, ask: Ask) -> Result<ReservedPort, NoPort> {
        let mut held = lock(&self.0.held);
        let now = Instant::now();
        held.retain(|_, hold| !hold.is_over(now));
        let owner = asker.owner.as_ref();
        let ask = match (ask, &asker.service) {
            (Ask::Any(0), Some(_)) => {
                let same = |hold: &Hold| hold.is_of(owner) && hold.service == asker.service;
                held.iter().find(|(_, hold)| same(hold)).map_or(ask, |(&port, _)| Ask::Wish(port))
            }
            _ => ask,
        };
        let chosen = match ask {
            Ask::Demand(port) | Ask::Wish(port) if asker.may.contains(port) => match held.get(&port) {
                None => Ok(Some(port)),
                Some(own) if own.is_of(owner) => match &own.state {
                    State::KeptUntil(_) => Ok(Some(port)),
                    State::Used(standing) => Err(NoPort::Contested(port, standing.clone())),
                },
                Some(_) if matches!(ask, Ask::Demand(_)) => Err(NoPort::Taken(port)),
                Some(_) => Ok(None),
            },
            Ask::Demand(port) => Err(NoPort::NotAllowed(port)),
            Ask::Wish(_) | Ask::Any(_) | Ask::Other(_) => Ok(None),
        };
        let chosen = chosen.and_then(|chosen| {
            let own_already = chosen.is_some_and(|port| held.get(&port).is_some_and(|hold| hold.is_of(owner)));
            // What is kept counts, too: given to another service, it would swap their users.
            if let Some(Owner { most, .. }) = owner
                && !own_already
                && held.values().filter(|hold| hold.is_of(owner)).count() >= *most
            {
                return Err(NoPort::TooMany(*most));
            }
            let from = if let Ask::Any(from) | Ask::Other(from) = ask { from } else { 0 };
            chosen.or_else(|| asker.may.first_free(from, &held)).ok_or(NoPort::AllTaken)
        });
        let reserved = chosen.map(|port| {
            let standing = Arc::new(Standing::default());
            let (owner, service) = (asker.owner.clone(), asker.service.clone());
            let used = Hold { owner: owner.clone(), service: service.clone(), state: State::Used(standing.clone()) };
            let before = held.insert(port, used).and_then(|before| before.kept_until());
            let after = before.map_or(After::Free, After::KeptUntil);
            ReservedPort { ports: self.clone(), port, standing, owner, service, after }
        });
        drop(held);
        if owner.is_some() {
            self.0.changed.send_replace(());
        }
        reserved
    }

    /// What is to be written down.
    pub(super) fn reservations(&self) -> Vec<Reservation> {
        let now = Instant::now();
        let held = lock(&self.0.held);
        let all = held.iter().filter(|(_, hold)| !hold.is_over(now)).filter_map(|(&port, hold)| {
            let owner = hold.owner.as_ref()?.name.clone();
            Some(Reservation { port, owner, service: hold.service.clone(), until: hold.kept_until() })
        });
        all.collect()
    }

    /// Sees each change of what is to be written down.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }
}

/// A port that is a tunnel's until this is dropped; then it is kept for its owner, if there is one.
#[derive(Debug)]
pub(super) struct ReservedPort {
    ports: Ports,
    port: u16,
    standing: Arc<Standing>,
    owner: Option<Owner>,
    service: Option<Box<str>>,
    after: After,
}

/// What becomes of a port that is given back.
#[derive(Clone, Copy, Debug)]
enum After {
    /// Nothing came of it: it is nobody's, as before.
    Free,
    /// Nothing came of it: it is kept until then, as before.
    KeptUntil(Instant),
    /// It was in use: it is kept from then on.
    Kept,
}

impl ReservedPort {
    pub(super) fn number(&self) -> u16 {
        self.port
    }

    pub(super) fn standing(&self) -> &Arc<Standing> {
        &self.standing
    }

    /// A tunnel stands on it.
    pub(super) fn used(&mut self) {
        self.after = After::Kept;
    }
}

impl Drop for ReservedPort {
    fn drop(&mut self) {
        let owner = self.owner.as_ref().filter(|owner| !owner.cut.is_cancelled());
        let until = match self.after {
            After::Free => None,
            After::KeptUntil(until) => Some(until),
            After::Kept => Some(Instant::now() + KEPT_FOR),
        };
        let mut held = lock(&self.ports.0.held);
        match owner.zip(until) {
            Some((owner, until)) => {
                let (owner, service) = (Some(owner.clone()), self.service.take());
                held.insert(self.port, Hold { owner, service, state: State::KeptUntil(until) });
            }
            None => drop(held.remove(&self.port)),
        }
        drop(held);
        self.standing.gone.cancel();
        self.ports.0.changed.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u16, u16)]) -> PortSet {
        PortSet(ranges.to_vec())
    }

    fn anyone(first: u16, last: u16) -> Asker {
        Asker { owner: None, service: None, may: PortSet::range(first, last) }
    }

    fn identity(name: &str, most: usize) -> Asker {
        let owner = Owner { name: name.parse().unwrap(), most, cut: CancellationToken::new() };
        Asker { owner: Some(owner), service: None, may: PortSet::range(7001, 7100) }
    }

    fn for_service(asker: &Asker, word: &str) -> Asker {
        Asker { service: Some(word.into()), ..asker.clone() }
    }

    fn open(ports: &Ports, asker: &Asker, ask: Ask) -> ReservedPort {
        let mut port = ports.reserve(asker, ask).unwrap();
        port.used();
        port
    }

    #[test]
    fn sets_of_ports_lose_ranges_and_have_halves() {
        let all = PortSet::range(10, 19);
        assert_eq!(all.clone().without(12, 13), set(&[(10, 11), (14, 19)]));
        assert_eq!(all.clone().without(0, 10).without(19, u16::MAX), set(&[(11, 18)]));
        assert_eq!(all.clone().without(20, 30), all);
        assert_eq!(all.clone().without(0, u16::MAX), set(&[]));
        assert_eq!(all.clone().without(12, 13).lower_half(), set(&[(10, 11), (14, 15)]));
        assert_eq!(PortSet::range(0, u16::MAX).lower_half(), set(&[(0, 32767)]));
        assert_eq!(PortSet::range(5, 5).lower_half(), set(&[(5, 5)]));
        assert_eq!(PortSet::range(5, 4).lower_half(), set(&[]));
    }

    #[tokio::test]
    async fn ports_are_given_upwards_and_come_back() {
        let ports = Ports::new([]);
        let asker = anyone(1235, u16::MAX);
        let mut all: Vec<_> = (0..3).map(|_| open(&ports, &asker, Ask::Any(0))).collect();
        assert_eq!(all.iter().map(ReservedPort::number).collect::<Vec<_>>(), [1235, 1236, 1237]);
        drop(all.remove(1));
        assert_eq!(open(&ports, &asker, Ask::Any(0)).number(), 1236, "the hole is filled first");
        assert_eq!(open(&ports, &asker, Ask::Any(1300)).number(), 1300);
        let last = anyone(u16::MAX, u16::MAX);
        let _last = open(&ports, &last, Ask::Any(0));
        assert!(matches!(ports.reserve(&last, Ask::Any(0)), Err(NoPort::AllTaken)));
        assert!(matches!(ports.reserve(&anyone(9, 8), Ask::Any(0)), Err(NoPort::AllTaken)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_is_kept_for_its_identity_and_for_nobody_else() {
        let ports = Ports::new([]);
        let (laptop, desktop) = (identity("laptop", 8), identity("desktop", 8));
        drop(open(&ports, &laptop, Ask::Any(0)));
        assert_eq!(open(&ports, &desktop, Ask::Wish(7001)).number(), 7002);
        assert!(matches!(ports.reserve(&desktop, Ask::Demand(7001)), Err(NoPort::Taken(7001))));
        assert_eq!(open(&ports, &laptop, Ask::Any(0)).number(), 7003, "another service of the same identity");
        assert_eq!(open(&ports, &laptop, Ask::Wish(7001)).number(), 7001);
        tokio::time::advance(KEPT_FOR).await;
        let lowest = open(&ports, &desktop, Ask::Any(0));
        assert_eq!(lowest.number(), 7001);
        assert!(matches!(ports.reserve(&desktop, Ask::Demand(80)), Err(NoPort::NotAllowed(80))));
        assert_eq!(open(&ports, &desktop, Ask::Wish(80)).number(), 7002, "a wish is no reason to refuse");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_gets_the_port_that_it_had_and_never_that_of_another() {
        let ports = Ports::new([]);
        let laptop = identity("laptop", 8);
        let (web, ssh) = (for_service(&laptop, "web"), for_service(&laptop, "ssh"));
        let (first, second) = (open(&ports, &web, Ask::Any(0)), open(&ports, &ssh, Ask::Any(0)));
        assert!(matches!(ports.reserve(&ssh, Ask::Any(0)), Err(NoPort::Contested(7002, _))));
        assert_eq!(open(&ports, &ssh, Ask::Other(0)).number(), 7003);
        drop((first, second));
        let written = ports.reservations();
        let ports = Ports::new(written.into_iter().map(|kept| (kept, laptop.owner.clone().unwrap())));
        assert_eq!(open(&ports, &for_service(&identity("desktop", 8), "ssh"), Ask::Any(0)).number(), 7004);
        assert_eq!(open(&ports, &laptop, Ask::Any(0)).number(), 7005);
        let ssh = open(&ports, &ssh, Ask::Any(0));
        assert_eq!((ssh.number(), open(&ports, &web, Ask::Any(0)).number()), (7002, 7001));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_counts_and_is_nobody_elses() {
        let ports = Ports::new([]);
        let laptop = identity("laptop", 2);
        let (web, ssh) = (for_service(&laptop, "web"), for_service(&laptop, "ssh"));
        drop(open(&ports, &web, Ask::Any(0)));
        let _second = open(&ports, &laptop, Ask::Any(0));
        assert!(matches!(ports.reserve(&ssh, Ask::Any(0)), Err(NoPort::TooMany(2))));
        assert_eq!(open(&ports, &web, Ask::Any(0)).number(), 7001);
        tokio::time::advance(KEPT_FOR).await;
        assert_eq!(open(&ports, &ssh, Ask::Any(0)).number(), 7001);
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_came_to_nothing_is_as_before() {
        let ports = Ports::new([]);
        let laptop = identity("laptop", 8);
        drop(ports.reserve(&laptop, Ask::Any(0)).unwrap());
        assert!(ports.reservations().is_empty());
        drop(open(&ports, &laptop, Ask::Any(0)));
        let kept = ports.reservations();
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(ports.reserve(&laptop, Ask::Wish(7001)).unwrap());
        assert_eq!(ports.reservations(), kept);
    }

    #[tokio::test(start_paused = true)]
    async fn reservations_outlive_a_run() {
        let ports = Ports::new([]);
        let laptop = identity("laptop", 8);
        drop(open(&ports, &laptop, Ask::Demand(7005)));
        let _used = open(&ports, &laptop, Ask::Any(0));
        let written = ports.reservations();
        let ports = Ports::new(written.into_iter().map(|kept| (kept, laptop.owner.clone().unwrap())));
        let desktop = identity("desktop", 8);
        assert_eq!(open(&ports, &desktop, Ask::Any(0)).number(), 7002);
        assert!(matches!(ports.reserve(&desktop, Ask::Demand(7005)), Err(NoPort::Taken(_))));
        assert_eq!(open(&ports, &laptop, Ask::Wish(7001)).number(), 7001);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_for_who_may_not_come_back() {
        let ports = Ports::new([]);
        let laptop = identity("laptop", 8);
        drop(open(&ports, &laptop, Ask::Any(0)));
        let used = open(&ports, &laptop, Ask::Any(0));
        laptop.owner.as_ref().unwrap().cut.cancel();
        drop(used);
        assert!(ports.reservations().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_tunnel_of_the_same_identity_is_asked_whether_it_lives() {
        let ports = Ports::new([]);
        let laptop = identity("laptop", 8);
        let older = open(&ports, &laptop, Ask::Any(0));
        let Err(NoPort::Contested(7001, standing)) = ports.reserve(&laptop, Ask::Wish(7001)) else { panic!() };
        let waits = tokio::spawn(async move { standing.contest(Duration::from_secs(2)).await });
        older.standing().contested().await;
        drop(older);
        waits.await.unwrap();
        assert_eq!(open(&ports, &laptop, Ask::Wish(7001)).number(), 7001);
    }
}
