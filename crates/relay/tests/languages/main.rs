//! The examples in other languages, as a reader would start them, and the pages that quote them.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod c;
mod cut;
mod go;
mod node;
mod old_relay;
mod python;
mod quotes;
mod rig;
mod shell;
