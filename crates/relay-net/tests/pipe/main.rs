//! The pipe between real sockets on loopback.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod flows;
mod idle;
mod links;
mod model;
mod rate;
mod resets;
mod rig;
mod secure;
#[cfg(unix)]
mod unix;
mod urgent;
