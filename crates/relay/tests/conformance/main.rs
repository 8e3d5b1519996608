//! The kit of conformance: our own relay passes, and for each check there is a broken one that it finds.

#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is a failed test")]

mod faults;
mod middle;
mod own_relay;
mod program;
mod rig;
#[path = "../support/mod.rs"]
mod support;
mod transcripts;
