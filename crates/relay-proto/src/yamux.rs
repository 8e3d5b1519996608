//! Our own yamux: many streams over one connection, as a state machine without I/O or clock.
//!
//! The protocol is that of hashicorp/yamux's `spec.md`; where peers differ from it, `docs/PROTOCOL.md`
//! says what they do. The driver of a connection
//!
//! - gives what it read to [`Session::receive`] and acts on what comes back: payload is handed over as
//!   slices of the driver's own buffer and never copied here;
//! - says what became of payload ([`Session::delivered`], [`Session::queued`], [`Session::dequeued`]),
//!   so that credit is renewed as users take bytes;
//! - writes what [`Session::poll_transmit`] gives, in that order; for [`Transmit::Data`] it moves bytes
//!   from their source behind the header that [`Session::sent`] makes;
//! - calls [`Session::handle_timeout`] when [`Session::poll_timeout`] is due.

mod frame;
mod memory;
mod pace;
mod session;
mod stream;
#[cfg(test)]
mod tests;

pub use frame::{Flags, FrameError, HEADER_LEN, Header, Kind, StreamId};
pub use memory::Budget;
pub use pace::{FRAME_LARGEST, FRAME_SMALLEST, Pace};
pub use session::{
    Config, MAX_PENDING_PONGS, MAX_REFUSED_SYNS, OpenError, Received, Role, Session, SessionError, StreamEnd, Transmit,
};
pub use stream::INITIAL_WINDOW;
