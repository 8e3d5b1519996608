//! Who may use the relay, while it runs.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use relay_proto::auth::{Binding, Nonce, Proof, SessionKey};
use relay_proto::identity::{Name, Verifier};
use tokio_util::sync::CancellationToken;

use super::ports::{Asker, Owner, PortSet};
use super::registry::lock;
use crate::identity::Identity;

/// All identities. Clones are the same ones: what one changes all see.
#[derive(Clone)]
pub struct Identities(Arc<Shared>);

struct Shared {
    accounts: Mutex<HashMap<Name, Arc<Account>>>,
    /// For names that nobody has.
    decoy: Verifier,
}

/// An identity, and what is alive of it.
pub(super) struct Account {
    pub(super) identity: Identity,
    /// It may not use the relay any more: whatever is alive of it ends.
    pub(super) cut: CancellationToken,
    tunnels: AtomicUsize,
    users: AtomicUsize,
}

/// An identity and what is alive of it.
#[derive(Clone, Debug)]
pub struct Status {
    /// The identity.
    pub identity: Identity,
    /// Its tunnels.
    pub tunnels: usize,
    /// Their users.
    pub users: usize,
}

/// Why somebody is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// Nobody has that name, or the proof is not right.
    Unproven,
    Revoked,
    Expired,
}

impl Identities {
    /// Those who are known from the start.
    pub fn new(identities: impl IntoIterator<Item = Identity>) -> Self {
        let all = identities.into_iter().map(|identity| (identity.name.clone(), Account::new(identity)));
        let accounts = Mutex::new(all.collect());
        Self(Arc::new(Shared { accounts, decoy: Verifier::decoy(rand::random()) }))
    }

    /// Adds an identity, or has it take the place of the one of its name, whose links are cut. Gives what the
    /// old one was.
    pub fn put(&self, identity: Identity) -> Option<Status> {
        let old = lock(&self.0.accounts).insert(identity.name.clone(), Account::new(identity))?;
        // Counted first: what is cut goes at once.
        let status = old.status();
        old.cut.cancel();
        Some(status)
    }

    /// Ends an identity: its links are cut, and it cannot come back. `None` if nobody has that name.
    pub fn revoke(&self, name: &Name) -> Option<Status> {
        let identity = lock(&self.0.accounts).get(name)?.identity.clone();
        self.put(Identity { revoked: true, ..identity })
    }

    /// All, by name.
    pub fn list(&self) -> Vec<Status> {
        let mut all: Vec<_> = lock(&self.0.accounts).values().map(|account| account.status()).collect();
        all.sort_by(|left, right| left.identity.name.cmp(&right.identity.name));
        all
    }

    /// Cuts off those whose time is over, and gives their names; each once.
    pub(super) fn expire(&self, now: SystemTime) -> Vec<Name> {
        let accounts = lock(&self.0.accounts);
        let over = accounts.values().filter(|account| account.has_expired(now) && !account.cut.is_cancelled());
        over.map(|account| {
            account.cut.cancel();
            account.identity.name.clone()
        })
        .collect()
    }

    /// The one who made that proof. It takes the same time whoever it is.
    pub(super) fn by_proof(
        &self,
        name: &Name,
        nonce: &Nonce,
        binding: &Binding,
        proof: &Proof,
    ) -> Result<(Arc<Account>, SessionKey), Denied> {
        let account = lock(&self.0.accounts).get(name).cloned();
        let verifier = account.as_ref().and_then(|account| account.identity.verifier.as_ref());
        let key = verifier.unwrap_or(&self.0.decoy).check(name, nonce, binding, proof);
        let (account, key) = account.zip(key).ok_or(Denied::Unproven)?;
        account.admit().map(|account| (account, key))
    }

    /// The one who has the client certificate with that hash.
    pub(super) fn by_certificate(&self, hash: &[u8; 32]) -> Result<Arc<Account>, Denied> {
        let accounts = lock(&self.0.accounts);
        let account = accounts.values().find(|account| account.identity.certificate.as_ref() == Some(hash)).cloned();
        drop(accounts);
        account.ok_or(Denied::Unproven)?.admit()
    }

    /// What ports are kept for somebody as.
    pub(super) fn owner(&self, name: &Name) -> Option<Owner> {
        lock(&self.0.accounts).get(name).map(|account| account.owner())
    }

    /// The ports that anonymous clients may have of `all`: none that an identity may have.
    pub(super) fn ports_for_anonymous(&self, all: &PortSet) -> PortSet {
        let accounts = lock(&self.0.accounts);
        let mut live = accounts.values().filter(|account| !account.cut.is_cancelled()).peekable();
        let mut left = all.clone();
        let mut shared = false;
        for account in live.by_ref() {
            match account.identity.rights.ports {
                Some((first, last)) => left = left.without(first, last),
                None => shared = true,
            }
        }
        if shared {
            for &(first, last) in all.lower_half().ranges() {
                left = left.without(first, last);
            }
        }
        left
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accounts = lock(&self.0.accounts);
        f.debug_set().entries(accounts.keys()).finish()
    }
}

impl Account {
    fn new(identity: Identity) -> Arc<Self> {
        let account =
            Self { identity, cut: CancellationToken::new(), tunnels: AtomicUsize::new(0), users: AtomicUsize::new(0) };
        if account.identity.revoked || account.has_expired(SystemTime::now()) {
            account.cut.cancel();
        }
        Arc::new(account)
    }

    fn has_expired(&self, now: SystemTime) -> bool {
        self.identity.rights.expires.is_some_and(|expires| expires <= now)
    }

    fn admit(self: Arc<Self>) -> Result<Arc<Self>, Denied> {
        if self.identity.revoked {
            Err(Denied::Revoked)
        } else if self.has_expired(SystemTime::now()) {
            Err(Denied::Expired)
        } else if self.cut.is_cancelled() {
            // Replaced a moment ago: this was the old token.
            Err(Denied::Unproven)
        } else {
            Ok(self)
        }
    }

    fn status(&self) -> Status {
        Status {
            identity: self.identity.clone(),
            tunnels: self.tunnels.load(Ordering::Relaxed),
            users: self.users.load(Ordering::Relaxed),
        }
    }

    fn owner(&self) -> Owner {
        let Identity { name, rights, .. } = &self.identity;
        Owner { name: name.clone(), most: rights.max_tunnels, cut: self.cut.clone() }
    }

    /// What it asks for a port as. `shared` are those for identities that have none of their own.
    pub(super) fn asker(&self, service: Option<Box<str>>, shared: PortSet) -> Asker {
        let ports = self.identity.rights.ports;
        let may = ports.map_or(shared, |(first, last)| PortSet::range(first, last));
        Asker { owner: Some(self.owner()), service, may }
    }

    /// Counts a tunnel.
    pub(super) fn tunnel(self: &Arc<Self>) -> Counted {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone(), |account| &account.tunnels)
    }

    /// Counts a user; none beyond the most that it may have.
    pub(super) fn user(self: &Arc<Self>) -> Option<Counted> {
        let most = self.identity.rights.max_users;
        let more = |users: usize| (users < most).then_some(users + 1);
        self.users.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Counted(self.clone(), |account| &account.users))
    }
}

/// Counts one of an account's until it is dropped.
pub(super) struct Counted(Arc<Account>, fn(&Account) -> &AtomicUsize);

impl Drop for Counted {
    fn drop(&mut self) {
        self.1(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use relay_proto::identity::Token;

    use super::*;
    use crate::identity::Rights;

    fn token(byte: u8) -> Token {
        Token::from_random([byte; 32])
    }

    fn identity(name: &str, byte: u8, rights: Rights) -> Identity {
        let verifier = Some(token(byte).verifier());
        Identity { name: name.parse().unwrap(), verifier, certificate: None, rights, revoked: false }
    }

    fn prove(all: &Identities, name: &str, byte: u8) -> Result<Arc<Account>, Denied> {
        let name = name.parse().unwrap();
        let nonce = Nonce::from_random([9; 32]);
        let proof = token(byte).prove(&name, &nonce, &Binding::None);
        all.by_proof(&name, &nonce, &Binding::None, &proof).map(|(account, _)| account)
    }

    fn refused(result: Result<Arc<Account>, Denied>) -> Denied {
        result.err().expect("it is refused")
    }

    #[test]
    fn only_a_right_proof_learns_why_it_is_refused() {
        let past = SystemTime::now() - Duration::from_secs(1);
        let expired = Rights { expires: Some(past), ..Rights::default() };
        let all = Identities::new([identity("laptop", 1, Rights::default()), identity("old", 2, expired)]);
        assert!(prove(&all, "laptop", 1).is_ok());
        assert_eq!(refused(prove(&all, "laptop", 2)), Denied::Unproven);
        assert_eq!(refused(prove(&all, "nobody", 1)), Denied::Unproven);
        assert_eq!(refused(prove(&all, "old", 2)), Denied::Expired);
        assert_eq!(refused(prove(&all, "old", 1)), Denied::Unproven);
        all.revoke(&"laptop".parse().unwrap()).unwrap();
        assert_eq!(refused(prove(&all, "laptop", 1)), Denied::Revoked);
        assert_eq!(refused(prove(&all, "laptop", 2)), Denied::Unproven);
    }

    #[test]
    fn a_replaced_token_is_as_wrong_as_any() {
        let all = Identities::new([identity("laptop", 1, Rights::default())]);
        let before = prove(&all, "laptop", 1).unwrap();
        all.put(identity("laptop", 2, Rights::default()));
        assert!(before.cut.is_cancelled());
        assert_eq!(refused(prove(&all, "laptop", 1)), Denied::Unproven);
        assert!(prove(&all, "laptop", 2).is_ok());
    }

    #[test]
    fn who_expires_is_cut_off_once() {
        let soon = SystemTime::now() + Duration::from_mins(1);
        let rights = Rights { expires: Some(soon), ..Rights::default() };
        let all = Identities::new([identity("laptop", 1, rights)]);
        let account = prove(&all, "laptop", 1).unwrap();
        assert!(all.expire(soon - Duration::from_secs(1)).is_empty() && !account.cut.is_cancelled());
        assert_eq!(all.expire(soon).len(), 1);
        assert!(all.expire(soon).is_empty() && account.cut.is_cancelled());
    }

    #[test]
    fn users_are_counted_and_bounded() {
        let all = Identities::new([identity("laptop", 1, Rights { max_users: 2, ..Rights::default() })]);
        let account = prove(&all, "laptop", 1).unwrap();
        let users: Vec<_> = (0..3).map_while(|_| account.user()).collect();
        let _tunnel = account.tunnel();
        assert_eq!((users.len(), all.list()[0].users, all.list()[0].tunnels), (2, 2, 1));
        drop(users);
        assert_eq!(all.list()[0].users, 0);
    }

    #[test]
    fn anonymous_clients_have_no_port_that_an_identity_may_have() {
        let all = PortSet::range(7001, 7010);
        let own = Rights { ports: Some((7003, 7004)), ..Rights::default() };
        let identities = Identities::new([]);
        assert_eq!(identities.ports_for_anonymous(&all), all);
        identities.put(identity("laptop", 1, own));
        assert_eq!(identities.ports_for_anonymous(&all), all.clone().without(7003, 7004));
        identities.put(identity("desktop", 1, Rights::default()));
        assert_eq!(identities.ports_for_anonymous(&all), PortSet::range(7006, 7010));
        identities.revoke(&"desktop".parse().unwrap());
        identities.revoke(&"laptop".parse().unwrap());
        assert_eq!(identities.ports_for_anonymous(&all), all);
    }
}
