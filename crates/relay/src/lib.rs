//! The relay: a server that opens public ports for services that nobody can reach, and the forwarder
//! that runs beside such a service.
//!
//! The program `relay` is a thin shell around this library. Other programs can use two parts of it: [`Server`] is a
//! relay of their own, and [`testing`] one for their tests. The other modules are the program's, and change with it.

pub mod cli;
pub mod config;
pub mod conformance;
pub mod demo;
pub mod forward;
pub mod identity;
pub mod logs;
pub mod plan;
pub mod repeats;
pub mod serve;
pub mod server;
pub mod service;
pub mod state;
pub mod testing;

pub use server::{Config, Limits, PortRange, Server};
