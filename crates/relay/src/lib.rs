//! The relay: a server that opens public ports for services that nobody can reach, and the forwarder
//! that runs beside such a service.
//!
//! The program `relay` is a thin shell around this library, so that tests run it in their own process.

pub mod cli;
pub mod config;
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

pub use server::{Config, Limits, PortRange, Server};
