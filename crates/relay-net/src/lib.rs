//! The data path of relay on tokio: what both ends of a tunnel share.

pub mod mux;
pub mod pipe;
pub mod socket;
