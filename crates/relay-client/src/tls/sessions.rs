//! Sessions that can be resumed: as many as the connections of a busy pool or event tunnel begin at once.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Sessions kept, some 1 KiB each; each is good for one connection, which brings two. 128: as many users as a relay
/// lets wait for one tunnel. rustls' own store keeps 8, so that most connections of a burst shake hands in full.
const MOST_SESSIONS: usize = 128;

/// Of one server, the one asked for last: a client has one relay.
#[derive(Default)]
pub(super) struct Sessions(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    server: Option<ServerName<'static>>,
    group: Option<NamedGroup>,
    /// Oldest first.
    sessions: VecDeque<Tls13ClientSessionValue>,
}

impl Sessions {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // No code panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, server: ServerName<'static>) -> MutexGuard<'_, Kept> {
        let mut kept = self.kept();
        if kept.server.as_ref() != Some(&server) {
            *kept = Kept { server: Some(server), ..Kept::default() };
        }
        kept
    }
}

/// They hold secrets.
impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server: ServerName<'static>, group: NamedGroup) {
        self.of(server).group = Some(group);
    }

    fn kx_hint(&self, server: &ServerName<'_>) -> Option<NamedGroup> {
        let kept = self.kept();
        kept.group.filter(|_| kept.server.as_ref() == Some(server))
    }

    // TLS 1.2 is not spoken.
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, server: ServerName<'static>, session: Tls13ClientSessionValue) {
        let mut kept = self.of(server);
        if kept.sessions.len() == MOST_SESSIONS {
            kept.sessions.pop_front();
        }
        kept.sessions.push_back(session);
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.of(server.clone()).sessions.pop_back()
    }
}
