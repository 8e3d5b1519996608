//! The system calls that no crate wraps. Each is a safe function that cannot fail: where the question
//! cannot be asked, the answer is the one that changes nothing.
#![allow(unsafe_code, reason = "the one module that talks to the kernel by itself")]

#[cfg(target_os = "linux")]
pub(crate) use linux::{read_closed, unsent};

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::{AsRawFd, BorrowedFd};

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

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::{read_closed, unsent};
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
