//! A stream that a program reads and writes by itself.
//!
//! No task and no socket stands between: what arrives stays in the inbox until it is read, which renews the peer's
//! credit, and what is written waits in the outbox for the stream's turn on the link.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use relay_proto::yamux::{Session, StreamId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::poll_proceed;

use super::link::State;
use super::stream::Stream;

/// The peer's end of the stream is end-of-file, behind all its bytes. A reset, by either side or for want of room, and
/// a lost link are [`ConnectionReset`](io::ErrorKind::ConnectionReset), and what had not been read is lost. What is
/// not read holds at most the stream's window, and nobody else up.
impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let coop = ready!(poll_proceed(context));
        let mut inbox = self.slot.inbox();
        let read = ready!(inbox.poll_read(context, buffer))?;
        // The inbox stays locked: the link's reader must not account for what comes next before.
        let sleeper =
            if read > 0 { self.state().and_then(|mut state| state.dequeued(self.slot.id, read)) } else { None };
        drop(inbox);
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
        coop.made_progress();
        Poll::Ready(Ok(()))
    }
}

/// At most 64 KiB wait for the link; they take no memory once it has them. A write takes what there is room for, and a
/// write that was cancelled has taken nothing. [`flush`](tokio::io::AsyncWriteExt::flush) waits until the kernel has
/// all that was written, [`shutdown`](tokio::io::AsyncWriteExt::shutdown) until it has the end of the stream, too.
///
/// A stream that was reset, or whose link is lost, gives [`ConnectionReset`](io::ErrorKind::ConnectionReset); writing
/// after `shutdown` gives [`BrokenPipe`](io::ErrorKind::BrokenPipe).
impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let coop = ready!(poll_proceed(context));
        let mut outbox = self.slot.outbox();
        if outbox.is_finished() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.slot.is_ended() {
            drop(outbox);
            return Poll::Ready(Err(self.slot.lost()));
        }
        let was_empty = outbox.is_empty();
        let written = ready!(outbox.poll_write(context, parts));
        drop(outbox);
        // While something stands there the stream has its turns.
        if was_empty && written > 0 {
            self.tell(Session::ready);
        }
        coop.made_progress();
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_settled(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut outbox = self.slot.outbox();
        if self.slot.has_finished_sending() && outbox.is_settled() {
            return Poll::Ready(Ok(()));
        }
        if self.slot.is_ended() {
            drop(outbox);
            return Poll::Ready(Err(self.slot.lost()));
        }
        outbox.wait(context);
        // Behind bytes, the link meets the end by itself.
        let ends = outbox.finish() && outbox.is_empty();
        drop(outbox);
        if ends {
            self.tell(Session::finish);
        }
        Poll::Pending
    }
}

impl Stream {
    /// Waits until the kernel has all that was written.
    pub(super) fn poll_settled(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        let mut outbox = self.slot.outbox();
        if outbox.is_settled() {
            return Poll::Ready(Ok(()));
        }
        if self.slot.is_ended() {
            drop(outbox);
            return Poll::Ready(Err(self.slot.lost()));
        }
        outbox.wait(context);
        Poll::Pending
    }

    /// Whether the peer has ended the stream and all that it sent has been read: nothing more will come.
    pub fn is_read_to_the_end(&self) -> bool {
        let inbox = self.slot.inbox();
        inbox.cause.is_some() || inbox.finished && !inbox.is_queueing()
    }

    /// Tells the session something about the stream, and wakes the link's task.
    fn tell(&self, say: impl FnOnce(&mut Session, StreamId)) {
        let sleeper = self.state().and_then(|mut state| {
            say(&mut state.session, self.slot.id);
            state.news()
        });
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }
}

impl State {
    /// A program has read so much. Gives the link's task if it has something to do for that: to renew credit, or to end
    /// after its last stream.
    fn dequeued(&mut self, id: StreamId, bytes: usize) -> Option<std::task::Waker> {
        self.session.dequeued(id, bytes, Instant::now());
        if self.session.has_renewals() || self.may_finish() { self.news() } else { None }
    }
}
