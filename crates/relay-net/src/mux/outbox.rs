//! What a program has written to a stream.

use std::collections::VecDeque;
use std::io::{IoSlice, Read as _};
use std::task::{Context, Poll, Waker};

use super::slot::{Read, wait};

/// What a program may have written that the link has not taken, in bytes. 64 KiB: what one write to the link collects
/// of small frames. Bulk needs no more to keep the link busy, and of a program whose peer does not read no more waits.
const OUTBOX_MOST: usize = 64 * 1024;

/// What a program has written. Its lock is taken last: no other while it is held.
#[derive(Default)]
pub(super) struct Outbox {
    /// What the link has not taken.
    queue: VecDeque<u8>,
    /// The program writes no more: the end of the stream stands behind the queue.
    finished: bool,
    /// The link has taken something, the end perhaps, of which the kernel may not have all.
    unsettled: bool,
    /// The task of a program that waits for room, or until all has left.
    writer: Option<Waker>,
}

impl Outbox {
    /// With bytes that were written already, fewer than there is room for.
    pub(super) fn holding(written: Vec<u8>) -> Self {
        Self { queue: written.into(), ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether the kernel has all that was written.
    pub(super) fn is_settled(&self) -> bool {
        self.queue.is_empty() && !self.unsettled
    }

    /// Takes as much as there is room for. When there is none the program's task is woken once there is.
    pub(super) fn poll_write(&mut self, context: &Context<'_>, parts: &[IoSlice<'_>]) -> Poll<usize> {
        let room = OUTBOX_MOST - self.queue.len();
        if room == 0 {
            self.wait(context);
            return Poll::Pending;
        }
        let mut left = room;
        for part in parts {
            let fits = &part[..part.len().min(left)];
            self.queue.extend(fits);
            left -= fits.len();
        }
        Poll::Ready(room - left)
    }

    /// Nothing more is written. Gives whether the program says so for the first time.
    pub(super) fn finish(&mut self) -> bool {
        !std::mem::replace(&mut self.finished, true)
    }

    /// Has the program's task woken when something has left.
    pub(super) fn wait(&mut self, context: &Context<'_>) {
        wait(&mut self.writer, context);
    }

    /// Moves what was written to the link's buffer. Gives the task to wake, too.
    pub(super) fn take(&mut self, buffer: &mut [u8]) -> (Read, Option<Waker>) {
        let most = self.queue.len().min(buffer.len());
        if most == 0 {
            return (if self.finished { Read::End } else { Read::Nothing }, None);
        }
        let writer = if self.queue.len() == OUTBOX_MOST { self.writer.take() } else { None };
        // There are as many.
        let _ = self.queue.read_exact(&mut buffer[..most]);
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        self.unsettled = true;
        (Read::Bytes(most), writer)
    }

    /// The link has taken the end of the stream.
    pub(super) fn end_taken(&mut self) {
        self.unsettled = true;
    }

    /// The kernel has all that the link has taken. Gives the task to wake.
    pub(super) fn settle(&mut self) -> Option<Waker> {
        self.unsettled = false;
        self.writer.take()
    }

    /// The stream is gone: what the kernel does not have it never will. Gives the task to wake.
    pub(super) fn end(&mut self) -> Option<Waker> {
        self.unsettled |= !self.queue.is_empty();
        self.queue = VecDeque::new();
        self.writer.take()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_is_written_is_bounded_and_holds_no_memory_once_it_is_taken() {
        let mut outbox = Outbox::default();
        let woken = Arc::new(Woken::default());
        let waker = woken.clone().into();
        let context = Context::from_waker(&waker);
        let bytes: Vec<u8> = (0..=250).cycle().take(OUTBOX_MOST + 100).collect();
        let (first, second) = bytes.split_at(1000);
        let parts = [IoSlice::new(first), IoSlice::new(&[]), IoSlice::new(second)];
        assert_eq!(outbox.poll_write(&context, &parts), Poll::Ready(OUTBOX_MOST));
        assert_eq!(outbox.poll_write(&context, &[IoSlice::new(b"more")]), Poll::Pending);
        let mut buffer = vec![0; OUTBOX_MOST];
        let (Read::Bytes(10), Some(writer)) = outbox.take(&mut buffer[..10]) else { panic!("nobody is woken") };
        writer.wake();
        assert_eq!(outbox.poll_write(&context, &[IoSlice::new(b"and eleven!")]), Poll::Ready(10));
        assert!(matches!(outbox.take(&mut buffer[10..]), (Read::Bytes(_), None)));
        assert!(buffer == bytes[..OUTBOX_MOST]);
        assert!(matches!(outbox.take(&mut buffer), (Read::Bytes(10), None)));
        assert_eq!(&buffer[..10], b"and eleven");
        assert_eq!((outbox.queue.capacity(), outbox.is_settled()), (0, false));
        assert!(matches!(outbox.take(&mut buffer), (Read::Nothing, None)));
        assert!(outbox.settle().is_none() && outbox.is_settled());
        assert!(outbox.finish() && !outbox.finish());
        assert!(matches!(outbox.take(&mut buffer), (Read::End, None)));
    }
}
