//! The wire of relay, without sockets, clock or runtime.
//!
//! - [`handshake`]: the lines of text with which a client asks a relay for a tunnel.
//! - [`identity`] and [`auth`]: who a client is, and how it proves that.
//! - [`address`], [`network`] and [`invite`]: where a relay is, where users are, and all that a client needs to
//!   know, in one URL.
//! - [`proxy`]: what goes ahead of a user's first byte about where the user is.
//! - [`yamux`]: the multiplexer that a link speaks after `multiplex`.
//!
//! Both take bytes and the time from the caller and give back what to do: every test can run them in
//! virtual time, split at any byte. Bytes from a peer are never trusted: they cannot panic, and no
//! allocation follows from a length that a peer claims.

pub mod address;
pub mod auth;
pub mod handshake;
pub mod identity;
pub mod invite;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod model;
pub mod network;
pub mod proxy;
pub mod yamux;
