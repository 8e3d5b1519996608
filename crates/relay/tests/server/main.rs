//! The server over real sockets, met by peers that speak raw bytes.

#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is a failed test")]

mod bad_links;
mod ending;
mod event;
mod handshake;
mod identities;
#[cfg(target_os = "linux")]
mod limits;
mod multiplex;
mod pool;
mod proxy;
mod secure;
mod support;
mod threads;
mod threats;
mod traffic;
