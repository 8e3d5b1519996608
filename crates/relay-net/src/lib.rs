//! The data path of relay on tokio: sockets as relay needs them, the pipe between two of them, and the
//! driver of a multiplexed link.
//!
//! Bytes move without a buffer of their own while nobody waits: what is read is written at once, and only
//! what the other side does not take is kept. Bulk is spliced, where the system can. All `unsafe` code of the project is in `sys.rs`.

pub mod mux;
pub mod pipe;
pub mod rate;
pub mod socket;
mod splice;
mod sys;
pub mod tls;
