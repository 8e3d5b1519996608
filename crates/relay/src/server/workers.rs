//! The threads that tunnels are spread over.
//!
//! A tunnel lives in one thread: its port, its link, its members and its users. So nothing that happens between
//! them wakes another processor or waits for a lock, and what one thread cannot do for many tunnels, others do.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use relay_net::socket::Socket;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// The threads. When they are dropped, what still lives in them is dropped, too.
pub(super) struct Workers {
    others: Vec<Handle>,
    /// Counts the tunnels.
    next: AtomicUsize,
    _stop: DropGuard,
}

impl Workers {
    /// So many threads, of which the caller's is the first.
    pub(super) fn start(threads: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let others = (1..threads).map(|number| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (handle, stopped) = (runtime.handle().clone(), stop.clone());
            let thread = thread::Builder::new().name(format!("relay-{number}"));
            thread.spawn(move || runtime.block_on(stopped.cancelled()))?;
            Ok(handle)
        });
        Ok(Self { others: others.collect::<io::Result<_>>()?, next: AtomicUsize::new(0), _stop: stop.drop_guard() })
    }

    /// A home for one more tunnel: each thread in turn, the caller's first.
    pub(super) fn home(&self) -> Home {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % (self.others.len() + 1);
        Home(turn.checked_sub(1).map(|other| self.others[other].clone()))
    }
}

/// Where a tunnel lives.
pub(super) struct Home(
    /// None is the thread that takes new connections.
    Option<Handle>,
);

impl Home {
    /// Runs a task there.
    pub(super) fn spawn(&self, tasks: &TaskTracker, task: impl Future<Output = ()> + Send + 'static) {
        match &self.0 {
            None => drop(tasks.spawn(task)),
            Some(home) => drop(tasks.spawn_on(task, home)),
        }
    }

    /// Has a socket that comes from the thread of new connections wait for its events there; to be called there.
    pub(super) fn bring<S: Sock>(&self, socket: S) -> io::Result<S> {
        if self.0.is_some() { socket.again() } else { Ok(socket) }
    }
}

/// A socket that can be registered with the current thread's runtime.
pub(super) trait Sock: Sized {
    /// The same socket, registered with the current runtime alone.
    fn again(self) -> io::Result<Self>;
}

impl Sock for Socket {
    fn again(self) -> io::Result<Self> {
        Self::again(self)
    }
}

impl Sock for TcpListener {
    fn again(self) -> io::Result<Self> {
        Self::from_std(self.into_std()?)
    }
}
