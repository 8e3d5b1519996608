//! The multiplexer.
