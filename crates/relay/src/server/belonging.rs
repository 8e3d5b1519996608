//! Whose a ticket or a pool is, and which connections may use it.
//!
//! The id itself is the proof where nobody else can have heard it: over TLS, and where there is no identity. In plain
//! text a seal of the identity goes with it, and the relay takes none twice.

use std::sync::{Arc, Mutex};

use relay_proto::auth::SessionKey;
use relay_proto::handshake::{Id, Seal};

use super::identities::Account;
use super::registry::lock;

/// How far behind the highest count a seal may come: more dial-backs than a client has on their way.
const WINDOW: u64 = 4096;

/// Who a client is, for as long as its link lives.
#[derive(Clone)]
pub(super) enum Client {
    Anonymous,
    /// An identity over TLS.
    Secure(Arc<Account>),
    /// An identity in plain text.
    Plain(Arc<Account>, Arc<Seals>),
}

impl Client {
    pub(super) fn account(&self) -> Option<&Arc<Account>> {
        match self {
            Self::Anonymous => None,
            Self::Secure(account) | Self::Plain(account, _) => Some(account),
        }
    }

    /// Whether a connection that names `id` of this client may have what it leads to. To be asked once for each.
    pub(super) fn owns(&self, id: &Id, seal: Option<&Seal>, secure: bool) -> bool {
        match self {
            Self::Anonymous => true,
            Self::Secure(account) => secure && !account.cut.is_cancelled(),
            Self::Plain(account, seals) => !account.cut.is_cancelled() && seal.is_some_and(|seal| seals.take(id, seal)),
        }
    }
}

/// The seals of a client in plain text.
pub(super) struct Seals {
    key: SessionKey,
    window: Mutex<Window>,
}

impl Seals {
    pub(super) fn new(key: SessionKey) -> Arc<Self> {
        Arc::new(Self { key, window: Mutex::default() })
    }

    fn take(&self, id: &Id, seal: &Seal) -> bool {
        self.key.is_seal(id, seal.count, &seal.proof) && lock(&self.window).take(seal.count)
    }
}

/// Which counts were used.
#[derive(Default)]
struct Window {
    /// One more than the highest.
    next: u64,
    used: std::collections::BTreeSet<u64>,
}

impl Window {
    /// Whether that count was not used before, as far as can be told: what is too old counts as used.
    fn take(&mut self, count: u64) -> bool {
        let oldest = self.next.saturating_sub(WINDOW);
        if count < oldest || !self.used.insert(count) {
            return false;
        }
        self.next = self.next.max(count.saturating_add(1));
        self.used = self.used.split_off(&self.next.saturating_sub(WINDOW));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_taken_once() {
        let mut window = Window::default();
        assert!(window.take(0) && window.take(5) && window.take(3));
        assert!(!window.take(5) && !window.take(0) && window.take(4));
        assert!(window.take(5 + WINDOW));
        assert!(!window.take(5), "too old");
        assert!(window.take(6) && !window.take(6));
        assert!(window.take(u64::MAX) && !window.take(u64::MAX));
        assert!(u64::try_from(window.used.len()).unwrap() <= WINDOW);
    }
}
