//! The client against relays that speak TLS and `relay/1`, played line by line.

#![allow(clippy::unwrap_used, reason = "in a test a failed unwrap is a failed test")]

mod certificates;
mod exchange;
mod origin;
mod stage;
mod tunnels;
