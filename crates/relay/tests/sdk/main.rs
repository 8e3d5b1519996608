//! Programs that are reached through our server by the client's library, all in one process.

#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is a failed test")]

mod ending;
mod exchanges;
#[path = "../server/secure.rs"]
#[allow(dead_code, reason = "the server's own tests use all of it")]
mod secure;
mod stage;
#[path = "../server/support.rs"]
#[allow(dead_code, reason = "the server's own tests use all of it")]
mod support;
