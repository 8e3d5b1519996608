//! A long path on one machine: two network namespaces, joined by an emulator of ours.

pub(crate) mod emulator;
pub(crate) mod queue;
mod tun;
