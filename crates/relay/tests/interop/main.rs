//! Against programs that others wrote: peers of the wire, and services and users of the kinds that people
//! put a relay between.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod go;
mod rust_yamux;
mod services;
mod silence;
