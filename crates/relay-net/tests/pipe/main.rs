//! The pipe between real sockets on loopback.

mod flows;
mod idle;
mod model;
mod resets;
mod rig;
