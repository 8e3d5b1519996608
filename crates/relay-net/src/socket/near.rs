//! Connections within one machine, or between two side by side.
//!
//! There the kernel's queues wait for no path, only for a program's turn, and yet they grow to tens of megabytes. What
//! stands behind so many bytes has left the processor's caches when its turn comes, and costs whoever reads it more. So
//! on a path this short what waits for us is bounded. What it gains, and which other bounds were tried: "What was tried"
//! in docs/BENCHMARKS.md.

use std::time::Duration;

use socket2::SockRef;

use super::Socket;
use crate::sys;

/// The longest round trip of such a path: over it the smaller bound still lets some 20 Gbit/s through.
const NEAR: Duration = Duration::from_micros(50);
/// What may wait on a link, and of a user of one, in bytes. The kernel doubles it, for its own overhead, as far as
/// `net.core.rmem_max` lets it.
const UNREAD_OF_LINK: usize = 256 * 1024;
/// What may wait on a connection of pool or event, likewise.
const UNREAD_OF_MEMBER: usize = 128 * 1024;

impl Socket {
    /// Bounds what may wait for us to read it, if the peer is near: for a link, or for a user of one who sends bulk.
    pub(crate) fn bound_unread_of_link(&self) {
        self.bound_unread(UNREAD_OF_LINK);
    }

    /// The same for a connection between relay and client that carries one user's bytes. Only Linux can tell that a peer
    /// is near.
    pub fn bound_unread_of_member(&self) {
        self.bound_unread(UNREAD_OF_MEMBER);
    }

    fn bound_unread(&self, most: usize) {
        let near =
            self.tcp().filter(|stream| sys::packets(stream).is_some_and(|packets| packets.shortest_round_trip <= NEAR));
        let Some(socket) = near.map(SockRef::from) else { return };
        // Where there is room for more already, more may have come, and the kernel would drop what is beyond.
        if socket.recv_buffer_size().is_ok_and(|room| room <= 2 * most) {
            // Without it bytes come all the same.
            let _ = socket.set_recv_buffer_size(most);
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn what_waits_is_bounded_on_a_short_path() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        // A machine that is very busy may make even this path long for a moment.
        for _ in 0..100 {
            let near = Socket::from(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
            near.bound_unread_of_member();
            if SockRef::from(near.tcp().unwrap()).recv_buffer_size().unwrap() == 2 * UNREAD_OF_MEMBER {
                return;
            }
        }
        panic!("it was never bounded");
    }

    #[tokio::test]
    async fn room_that_a_connection_has_already_is_not_taken_from_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = Socket::from(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let socket = SockRef::from(near.tcp().unwrap());
        socket.set_recv_buffer_size(UNREAD_OF_MEMBER + 4096).unwrap();
        let room = socket.recv_buffer_size().unwrap();
        assert!(room > 2 * UNREAD_OF_MEMBER);
        near.bound_unread_of_member();
        assert_eq!(socket.recv_buffer_size().unwrap(), room);
    }

    #[tokio::test]
    async fn what_is_no_tcp_is_left_alone() {
        let (near, _far) = tokio::net::UnixStream::pair().unwrap();
        let before = SockRef::from(&near).recv_buffer_size().unwrap();
        let near = Socket::from(near);
        near.bound_unread_of_link();
        let Socket::Unix(near) = near else { unreachable!() };
        assert_eq!(SockRef::from(&near).recv_buffer_size().unwrap(), before);
    }
}
