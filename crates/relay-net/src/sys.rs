//! The system calls that no crate wraps. Each is a safe function that cannot fail: where the question
//! cannot be asked, the answer is the one that changes nothing.
#![allow(unsafe_code, reason = "the one module that talks to the kernel by itself")]

#[cfg(target_os = "linux")]
pub(crate) use linux::{
    bbr_starts, congestion_control, limit_unsent, packets, read_closed, set_congestion_control, unsent,
};
#[cfg(not(target_os = "linux"))]
pub(crate) use other::{bbr_starts, congestion_control, limit_unsent, packets, set_congestion_control};

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::{AsRawFd, BorrowedFd};
    use std::time::Duration;

    use socket2::SockRef;
    use tokio::net::TcpStream;

    use crate::mux::Packets;

    /// The name of the connection's congestion control.
    pub(crate) fn congestion_control(socket: &TcpStream) -> Option<Vec<u8>> {
        SockRef::from(socket).tcp_congestion().ok()
    }

    pub(crate) fn set_congestion_control(socket: &TcpStream, name: &[u8]) -> io::Result<()> {
        SockRef::from(socket).set_tcp_congestion(name)
    }

    /// Has the kernel take no more once so many bytes are unsent (`TCP_NOTSENT_LOWAT`).
    pub(crate) fn limit_unsent(socket: &TcpStream, bytes: u32) -> io::Result<()> {
        SockRef::from(socket).set_tcp_notsent_lowat(bytes)
    }

    /// A whole number of `u32` of a socket option of TCP, if the kernel has as many.
    fn tcp_words<const N: usize>(socket: &TcpStream, option: libc::c_int) -> Option<[u32; N]> {
        let mut words = MaybeUninit::<[u32; N]>::zeroed();
        let size = size_of::<[u32; N]>();
        let mut length = libc::socklen_t::try_from(size).ok()?;
        // SAFETY: the descriptor is open while `socket` is borrowed. The kernel writes at most `length` bytes to
        // `words`, which is as long and live, and the length it wrote to `length`.
        let result = unsafe {
            libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, words.as_mut_ptr().cast(), &raw mut length)
        };
        if result != 0 || (length as usize) < size {
            return None;
        }
        // SAFETY: it was zeroed, and every value is a valid u32.
        Some(unsafe { words.assume_init() })
    }

    /// What became of the packets sent (`TCP_INFO`; Linux 4.6 and newer).
    pub(crate) fn packets(socket: &TcpStream) -> Option<Packets> {
        // Where they stand in `struct tcp_info` of linux/tcp.h, in words.
        const ROUND_TRIP: usize = 68 / 4;
        const SENT_AGAIN: usize = 100 / 4;
        const SHORTEST_ROUND_TRIP: usize = 148 / 4;
        const SENT: usize = 156 / 4;
        let words: [u32; SENT + 1] = tcp_words(socket, libc::TCP_INFO)?;
        Some(Packets {
            sent: words[SENT],
            sent_again: words[SENT_AGAIN],
            round_trip: Duration::from_micros(words[ROUND_TRIP].into()),
            shortest_round_trip: Duration::from_micros(words[SHORTEST_ROUND_TRIP].into()),
        })
    }

    /// Whether BBR is still looking for the path's rate: no, if it is not known.
    pub(crate) fn bbr_starts(socket: &TcpStream) -> bool {
        // `bbr_pacing_gain` of `struct tcp_bbr_info` in linux/inet_diag.h: 0 before the first acknowledgement, 739/256
        // while BBR starts, at most 320/256 later.
        const PACING_GAIN: usize = 3;
        const STARTS_ABOVE: u32 = 512;
        let words: Option<[u32; PACING_GAIN + 1]> = tcp_words(socket, libc::TCP_CC_INFO);
        words.is_some_and(|words| words[PACING_GAIN] == 0 || words[PACING_GAIN] > STARTS_ABOVE)
    }

    /// Bytes in the kernel's send queue that the peer has not acknowledged (`SIOCOUTQ`); 0 on failure.
    pub(crate) fn unsent(socket: BorrowedFd<'_>) -> usize {
        let mut queued: libc::c_int = 0;
        // SAFETY: the descriptor is open for as long as it is borrowed. TIOCOUTQ, which is SIOCOUTQ's name in
        // libc, writes one int to its argument, which points to a live one.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut queued) };
        if result == 0 { usize::try_from(queued).unwrap_or(0) } else { 0 }
    }

    /// Whether the peer's FIN or an error has arrived (`POLLRDHUP`), also behind unread bytes.
    pub(crate) fn read_closed(socket: BorrowedFd<'_>) -> bool {
        let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: `poll` is one live pollfd, as the count says, and its descriptor is open while borrowed.
        // A timeout of 0 returns at once.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        ready == 1 && poll.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
    }
}

/// Other systems keep what they have.
#[cfg(not(target_os = "linux"))]
mod other {
    use std::io;

    use tokio::net::TcpStream;

    use crate::mux::Packets;

    pub(crate) fn congestion_control(_: &TcpStream) -> Option<Vec<u8>> {
        None
    }

    pub(crate) fn set_congestion_control(_: &TcpStream, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn limit_unsent(_: &TcpStream, _: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn packets(_: &TcpStream) -> Option<Packets> {
        None
    }

    pub(crate) fn bbr_starts(_: &TcpStream) -> bool {
        false
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::{bbr_starts, congestion_control, limit_unsent, packets, read_closed, set_congestion_control, unsent};
    use std::io::{ErrorKind, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::time::Duration;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// Waits for what the kernel does a moment later.
    fn soon(what: impl Fn() -> bool) -> bool {
        (0..500).any(|_| {
            what() || {
                std::thread::sleep(Duration::from_millis(10));
                false
            }
        })
    }

    fn in_tokio(test: impl FnOnce(&tokio::net::TcpStream, TcpStream)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let (near, far) = pair();
        near.set_nonblocking(true).unwrap();
        test(&tokio::net::TcpStream::from_std(near).unwrap(), far);
    }

    #[test]
    fn packets_are_counted() {
        in_tokio(|near, mut far| {
            let before = packets(near).unwrap();
            assert_eq!((before.sent, before.sent_again), (0, 0));
            assert_eq!(socket2::SockRef::from(near).send(b"x").unwrap(), 1);
            std::io::Read::read_exact(&mut far, &mut [0]).unwrap();
            let after = packets(near).unwrap();
            assert_eq!((after.sent, after.sent_again), (1, 0));
            assert!(after.shortest_round_trip > Duration::ZERO && after.shortest_round_trip < Duration::from_secs(1));
            assert!(after.round_trip >= after.shortest_round_trip);
        });
    }

    #[test]
    fn a_connection_starts_with_bbr_only_where_it_has_it() {
        in_tokio(|near, _far| {
            set_congestion_control(near, b"reno").unwrap();
            assert!(congestion_control(near).unwrap().starts_with(b"reno"));
            assert!(!bbr_starts(near));
            assert!(set_congestion_control(near, b"no such").is_err());
            // Not every system has it.
            if set_congestion_control(near, b"bbr").is_ok() {
                assert!(congestion_control(near).unwrap().starts_with(b"bbr"));
                assert!(bbr_starts(near));
            }
        });
    }

    #[test]
    fn unsent_bytes_are_limited() {
        in_tokio(|near, _far| {
            limit_unsent(near, 32 * 1024).unwrap();
            let socket = socket2::SockRef::from(near);
            let mut taken = 0;
            while let Ok(some) = socket.send(&[0; 4096]) {
                taken += some;
            }
            let limited = taken;
            limit_unsent(near, u32::MAX).unwrap();
            while let Ok(some) = socket.send(&[0; 4096]) {
                taken += some;
            }
            assert!(taken > limited, "{taken} and {limited}");
        });
    }

    #[test]
    fn unsent_counts_what_the_peer_does_not_take() {
        let (mut near, far) = pair();
        assert_eq!(unsent(near.as_fd()), 0);
        near.set_nonblocking(true).unwrap();
        loop {
            match near.write(&[0; 4096]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert!(unsent(near.as_fd()) > 0);
        far.set_nonblocking(true).unwrap();
        assert!(soon(|| {
            let mut buffer = [0; 4096];
            while std::io::Read::read(&mut &far, &mut buffer).is_ok() {}
            unsent(near.as_fd()) == 0
        }));
    }

    #[test]
    fn unsent_of_what_is_no_socket_is_nothing() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(unsent(file.as_fd()), 0);
    }

    #[test]
    fn read_closed_sees_a_fin_behind_unread_bytes() {
        let (near, mut far) = pair();
        far.write_all(b"unread").unwrap();
        assert!(!read_closed(near.as_fd()));
        far.shutdown(Shutdown::Write).unwrap();
        assert!(soon(|| read_closed(near.as_fd())));
    }

    #[test]
    fn read_closed_sees_a_reset() {
        let (near, far) = pair();
        socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
        drop(far);
        assert!(soon(|| read_closed(near.as_fd())));
    }
}
