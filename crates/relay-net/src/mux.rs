//! The driver of a multiplexed link: our yamux session on a TCP connection.
//!
//! The way of a byte, from the link to a socket: the link's one reader takes what the kernel has, the
//! [`Session`] says which stream it belongs to, and the reader writes it to that stream's socket at once.
//! Only what the socket does not take is queued, in one ring per stream that holds at most the stream's
//! window. Reading the link never waits for anyone.
//!
//! From a socket to the link: a stream whose socket is readable asks for its turn, without a task of its own
//! being run. The link's task takes the streams in turn, reads each one's socket behind the space for a header and
//! gives many frames to the kernel in one write. Nothing is read from a socket before the link and the peer have
//! room for it.
//!
//! Bulk goes past our memory both ways: out, its bytes are in a pipe of the kernel before the header that counts
//! them is written; in, a header is read exactly and what follows it is spliced to the stream's socket.
//!
//! ```text
//!  link.rs     Link: open, accept, end; the tasks that read, keep time and write
//!  input.rs    from the link to the streams' sockets
//!  limit.rs    the tunnel's rate
//!  output.rs   from the streams' sockets to the link
//!  path.rs     how the kernel is to treat the link's bytes
//!  slot.rs     a stream, as the link's task and its owner share it:
//!  inbox.rs      what has arrived for it
//!  outbox.rs     what a program has written
//!  stream.rs   Stream: one user's, and its pipe to a socket
//!  program.rs    the same, read and written by a program
//! ```

mod inbox;
mod input;
mod limit;
mod link;
mod outbox;
mod output;
mod path;
mod program;
mod slot;
mod stream;
#[cfg(test)]
mod tests;

pub(crate) use path::Packets;

pub use link::{Config, Ended, Link, OpenError};
pub use relay_proto::yamux::Role;
#[cfg(doc)]
use relay_proto::yamux::Session;
pub use stream::{Side, Stream};
