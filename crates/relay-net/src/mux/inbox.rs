//! What has arrived for the near end of a stream.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;

use super::slot::{Cause, wait};
use crate::socket::Socket;

/// What has arrived for a pipe's socket, or for a program that reads. Its lock is held while the socket is written
/// to, so that what the reader writes and what was queued before never change places.
#[derive(Default)]
pub(super) struct Inbox {
    /// A pipe's. Without one, a program reads the queue.
    pub(super) socket: Option<Arc<Socket>>,
    /// What was not taken: at most the stream's window.
    queue: VecDeque<u8>,
    /// The peer's end of the stream stands behind the queue.
    pub(super) finished: bool,
    pub(super) failed: Option<io::ErrorKind>,
    pub(super) cause: Option<Cause>,
    /// The task of a program that waits for bytes.
    pub(super) reader: Option<Waker>,
}

impl Inbox {
    /// Whether bytes wait to be taken.
    pub(super) fn is_queueing(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The stream is gone; what is queued will never be delivered.
    pub(super) fn end(&mut self, cause: Cause) {
        self.cause.get_or_insert(cause);
        self.queue = VecDeque::new();
    }

    /// The socket, if bytes may go to it past the queue.
    pub(super) fn spliceable(&self) -> Option<Arc<Socket>> {
        let open = self.cause.is_none() && self.failed.is_none() && self.queue.is_empty();
        self.socket.clone().filter(|socket| open && socket.bare_tcp().is_some())
    }

    /// Whether the socket holds ciphertext that its task has to flush.
    pub(super) fn is_unflushed(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| socket.is_unflushed())
    }

    pub(super) fn fail(&mut self, kind: io::ErrorKind) {
        self.failed = Some(kind);
    }

    /// Writes what the socket takes at once, unless other bytes stand before. Gives how much that was;
    /// `None` when there is nobody left to have them.
    pub(super) fn write_through(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.cause.is_some() || self.failed.is_some() {
            return None;
        }
        let Some(socket) = self.socket.as_ref().filter(|_| self.queue.is_empty()) else { return Some(0) };
        let mut written = 0;
        while written < bytes.len() {
            match socket.try_write(&bytes[written..]) {
                Ok(taken) => written += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = Some(error.kind());
                    return None;
                }
            }
        }
        Some(written)
    }

    pub(super) fn queue(&mut self, bytes: &[u8]) {
        self.queue.extend(bytes);
    }

    /// Writes what the socket takes of the queue; gives how much that was.
    pub(super) fn write_queue(&mut self) -> usize {
        let Some(socket) = &self.socket else { return 0 };
        let mut written = 0;
        while !self.queue.is_empty() {
            match socket.try_write(self.queue.as_slices().0) {
                Ok(taken) => {
                    self.queue.drain(..taken);
                    written += taken;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = Some(error.kind());
                    break;
                }
            }
        }
        self.give_room_back();
        written
    }

    /// Gives a program what is queued, as far as it has room: how much that was, and 0 at the end of the stream.
    /// When nothing is there its task is woken once something is.
    pub(super) fn poll_read(&mut self, context: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        if let Some(cause) = self.cause {
            return Poll::Ready(Err(cause.into()));
        }
        if self.queue.is_empty() && !self.finished {
            wait(&mut self.reader, context);
            return Poll::Pending;
        }
        let most = self.queue.len().min(buffer.remaining());
        let (front, back) = self.queue.as_slices();
        let of_front = most.min(front.len());
        buffer.put_slice(&front[..of_front]);
        buffer.put_slice(&back[..most - of_front]);
        self.queue.drain(..most);
        self.give_room_back();
        Poll::Ready(Ok(most))
    }

    /// What is counted is what waits: the room that it takes must not stay far above.
    fn give_room_back(&mut self) {
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        } else if self.queue.len() <= self.queue.capacity() / 4 {
            self.queue.shrink_to(2 * self.queue.len());
        }
    }
}
