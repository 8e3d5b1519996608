//! Bytes from socket to socket that never come to us: through a pipe of the kernel, by `splice(2)`.
//!
//! For bulk this costs a fraction of copying; for small messages it is one system call too many. Pipes come from one
//! pool for the whole process and go back as soon as they are empty, so a connection that is not busy holds
//! none. Whenever there is none to be had the caller copies: nothing depends on them.

#[cfg(target_os = "linux")]
pub(crate) use linux::KernelPipe;
#[cfg(not(target_os = "linux"))]
pub(crate) use other::KernelPipe;

/// What splicing is worth its system calls for, in bytes at once; below, copying is as quick.
pub(crate) const BULK: usize = 16 * 1024;

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::sync::{Mutex, MutexGuard, Once, PoisonError};
    use std::time::{Duration, Instant};

    use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
    use rustix::process::{Resource, getrlimit};
    use tokio::io::Interest;
    use tokio::net::TcpStream;

    /// What a pipe takes. 256 KiB: the largest frame of a link.
    const SIZE: usize = 256 * 1024;
    /// A pipe smaller than this is not worth using. The kernel gives pipes of 8 KiB to a user who has many.
    const SMALLEST: usize = 64 * 1024;
    /// Pipes of the process, in use and idle. 256: what the kernel lets a user have at this size
    /// (`fs.pipe-user-pages-soft`). Whoever comes when all are in use copies.
    const MOST: usize = 256;
    /// The part of the process's descriptors that pipes may take: one in eight, two for each.
    const OF_DESCRIPTORS: u64 = 16;
    /// Idle pipes that are kept. 32: more are rarely busy at the same moment.
    const MOST_IDLE: usize = 32;
    /// How long no pipe is used after the kernel refused one.
    const REFUSED_FOR: Duration = Duration::from_secs(1);

    /// A pipe of the kernel that carries bytes from one socket to another. When dropped it goes back to the
    /// pool, or, with bytes in it, is closed.
    #[derive(Debug)]
    pub(crate) struct KernelPipe {
        /// Only taken out by `drop`.
        ends: Option<Ends>,
        held: usize,
    }

    #[derive(Debug)]
    struct Ends {
        read: OwnedFd,
        write: OwnedFd,
    }

    struct Pool {
        idle: Vec<Ends>,
        /// Idle and in use.
        made: usize,
        refused: Option<Instant>,
    }

    static POOL: Mutex<Pool> = Mutex::new(Pool { idle: Vec::new(), made: 0, refused: None });

    fn pool() -> MutexGuard<'static, Pool> {
        // No code panics while it holds the lock.
        POOL.lock().unwrap_or_else(PoisonError::into_inner)
    }

    impl Pool {
        fn get(&mut self) -> Option<Ends> {
            if self.refused.is_some_and(|at| at.elapsed() < REFUSED_FOR) {
                return None;
            }
            if let Some(ends) = self.idle.pop() {
                return Some(ends);
            }
            let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
            let most = usize::try_from(descriptors / OF_DESCRIPTORS).map_or(MOST, |some| some.min(MOST));
            if self.made >= most {
                return None;
            }
            match Ends::new() {
                Ok(ends) => {
                    self.made += 1;
                    Some(ends)
                }
                Err(error) => {
                    self.refused(&error);
                    None
                }
            }
        }

        fn refused(&mut self, error: &io::Error) {
            static SAID: Once = Once::new();
            SAID.call_once(|| tracing::info!("bytes are copied, which takes more CPU: no kernel pipes: {error}"));
            self.refused = Some(Instant::now());
        }
    }

    impl Ends {
        fn new() -> io::Result<Self> {
            let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
            // Refused beyond the user's budget; what counts is the size that it has in the end.
            let _ = fcntl_setpipe_size(&write, SIZE);
            let size = fcntl_getpipe_size(&write)?;
            if size < SMALLEST {
                return Err(io::Error::other(format!("the kernel gives this user only pipes of {size} bytes")));
            }
            Ok(Self { read, write })
        }
    }

    impl KernelPipe {
        /// An empty pipe, if one is to be had.
        pub(crate) fn get() -> Option<Self> {
            pool().get().map(|ends| Self { ends: Some(ends), held: 0 })
        }

        /// Bytes in it.
        pub(crate) fn held(&self) -> usize {
            self.held
        }

        fn ends(&self) -> io::Result<&Ends> {
            self.ends.as_ref().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
        }

        /// Moves at most `most` bytes from the socket into the empty pipe: `Ok(0)` is end-of-file. `WouldBlock` can
        /// also mean a TCP urgent mark, which only a read passes: the socket counts as readable until one has said
        /// otherwise.
        pub(crate) fn fill(&mut self, from: &TcpStream, most: usize) -> io::Result<usize> {
            debug_assert_eq!(self.held, 0, "a full pipe could not be told from an empty socket");
            let ends = self.ends()?;
            let moved = from.try_io(Interest::READABLE, || match move_some(from, &ends.write, most.min(SIZE)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) if is_forbidden(&error) => {
                    pool().refused(&error);
                    Ok(None)
                }
                result => result.map(Some),
            })?;
            self.held = moved.ok_or(io::ErrorKind::WouldBlock)?;
            Ok(self.held)
        }

        /// Moves what it holds to the socket, as far as that takes it; gives how much that was.
        pub(crate) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
            let before = self.held;
            while self.held > 0 {
                let ends = self.ends()?;
                match to.try_io(Interest::WRITABLE, || move_some(&ends.read, to, self.held)) {
                    Ok(moved) => self.held -= moved,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(before - self.held)
        }

        /// Copies out what it holds.
        pub(crate) fn take(&mut self, mut give: impl FnMut(&[u8])) -> io::Result<()> {
            let mut buffer = [0; 16 * 1024];
            while self.held > 0 {
                let read = rustix::io::read(&self.ends()?.read, &mut buffer)?;
                give(&buffer[..read]);
                self.held -= read;
            }
            Ok(())
        }
    }

    impl Drop for KernelPipe {
        fn drop(&mut self) {
            let mut pool = pool();
            let empty = self.ends.take().filter(|_| self.held == 0);
            match empty {
                Some(ends) if pool.idle.len() < MOST_IDLE => pool.idle.push(ends),
                _ => pool.made -= 1,
            }
        }
    }

    /// Whether the system does not let us splice, as some sandboxes do: nothing is wrong with the socket.
    fn is_forbidden(error: &io::Error) -> bool {
        matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EPERM))
    }

    fn move_some(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, most: usize) -> io::Result<usize> {
        loop {
            match splice(&from, None, &to, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
                Err(rustix::io::Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::{is_forbidden, move_some};
        use std::net::{TcpListener, TcpStream};

        #[test]
        fn what_the_system_forbids_is_told_from_what_befalls_a_socket() {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let near = listener.accept().unwrap().0;
            // Neither is a pipe: refused like everything where splicing is not allowed.
            let no_pipe = std::fs::File::options().write(true).open("/dev/null").unwrap();
            assert!(is_forbidden(&move_some(&near, &no_pipe, 1).unwrap_err()));
            socket2::SockRef::from(&far).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            drop(far);
            let (_read, write) = rustix::pipe::pipe().unwrap();
            // Waits for the reset.
            let reset = move_some(&near, &write, 1).unwrap_err();
            assert!(!is_forbidden(&reset), "{reset}");
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use std::io;
    use tokio::net::TcpStream;

    /// Other systems have no `splice(2)`: there is never one.
    #[derive(Debug)]
    pub(crate) enum KernelPipe {}

    impl KernelPipe {
        pub(crate) fn get() -> Option<Self> {
            None
        }

        pub(crate) fn held(&self) -> usize {
            match *self {}
        }

        pub(crate) fn fill(&mut self, _: &TcpStream, _: usize) -> io::Result<usize> {
            match *self {}
        }

        pub(crate) fn drain(&mut self, _: &TcpStream) -> io::Result<usize> {
            match *self {}
        }

        pub(crate) fn take(&mut self, _: impl FnMut(&[u8])) -> io::Result<()> {
            match *self {}
        }
    }
}
