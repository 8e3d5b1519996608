//! Keeps file descriptors back, so that the relay can still be spoken to when users have taken most of them.

#[cfg(unix)]
use std::os::fd::AsRawFd;

use tokio::net::TcpStream;

/// Of a hundred descriptors, those that users may have.
const FOR_USERS: u64 = 90;
/// Of a hundred, those that users and clients may have: the rest is for the state and the control socket.
const FOR_ALL: u64 = 95;

/// How many this process may have.
///
/// The system always gives the lowest number that is free, so a new descriptor's number tells at least how many are
/// open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptors {
    for_users: u64,
    for_all: u64,
}

impl Descriptors {
    /// For users up to a number that the operator has set, else up to their share of what the process may have.
    pub(super) fn new(for_users: Option<usize>) -> Self {
        #[cfg(unix)]
        let most = rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        #[cfg(not(unix))]
        let most = u64::MAX;
        match for_users.and_then(|count| u64::try_from(count).ok()) {
            None => Self { for_users: share(most, FOR_USERS), for_all: share(most, FOR_ALL) },
            Some(count) => Self { for_users: count, for_all: count + most.saturating_sub(count) / 2 },
        }
    }

    /// Whether this connection is one that no user may have.
    pub(super) fn is_reserve(&self, stream: &TcpStream) -> bool {
        number(stream) >= self.for_users
    }

    /// Whether it is one that no client may have either.
    pub(super) fn is_last_reserve(&self, stream: &TcpStream) -> bool {
        number(stream) >= self.for_all
    }
}

fn share(most: u64, percent: u64) -> u64 {
    most / 100 * percent + most % 100 * percent / 100
}

#[cfg(unix)]
fn number(stream: &TcpStream) -> u64 {
    u64::try_from(stream.as_raw_fd()).unwrap_or(0)
}

/// Elsewhere there is no such limit.
#[cfg(not(unix))]
fn number(_: &TcpStream) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_any_limit() {
        assert_eq!((share(64, FOR_USERS), share(64, FOR_ALL)), (57, 60));
        assert_eq!(share(20_000, FOR_USERS), 18_000);
        assert!(share(u64::MAX, FOR_ALL) > 1 << 63);
    }
}
