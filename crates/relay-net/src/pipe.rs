//! Provisional: signatures for the others; the real file follows.
#![allow(missing_docs, reason = "provisional")]
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::socket::Socket;

#[derive(Debug, Default)]
pub struct Moved {
    pub up: AtomicU64,
    pub down: AtomicU64,
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Done,
    UserAborted(std::io::ErrorKind),
    ServiceAborted(std::io::ErrorKind),
    Idle,
    /// A link's memory was full and this user had gone longest without reading.
    Stalled,
}
pub const HALF_CLOSED_IDLE: Duration = Duration::from_secs(300);
#[derive(Debug)]
pub struct Party {
    pub socket: Socket,
    pub early: Vec<u8>,
}
pub async fn pipe(_user: Party, _service: Party, _moved: &Moved, _idle: Duration) -> End {
    unimplemented!()
}
