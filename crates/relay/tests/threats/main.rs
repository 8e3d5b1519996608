//! The threat model of SECURITY.md, tried on the program itself: floods and what they cost in memory, too few
//! descriptors, states that cannot be used, and peers that write what is not theirs to write.

#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is a failed test")]
#![cfg(target_os = "linux")]

#[path = "../support/mod.rs"]
mod support;

mod descriptors;
mod document;
mod escapes;
mod floods;
mod loops;
mod refusals;
mod rig;
mod states;
