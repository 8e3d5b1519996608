//! A pipe's turns among all that share a rate.

use crate::rate::{Bucket, now};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// What a pipe may read, and its place in line for more.
pub(super) struct Turns {
    bucket: Arc<Bucket>,
    turn: Turn,
}

enum Turn {
    /// None is asked for. A pipe that nobody wants to be read has no place in line.
    None,
    /// In line: only from here on, and only the first in line, is there a timer.
    Waits(Pin<Box<dyn Future<Output = u32> + Send>>),
    Has(u32),
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turns").field("bucket", &self.bucket).field("waits", &self.waits()).finish_non_exhaustive()
    }
}

impl Turns {
    pub(super) fn new(bucket: Arc<Bucket>) -> Self {
        Self { bucket, turn: Turn::None }
    }

    /// Bytes that each flow may read now. If that is 0 and one of them `reads`, the pipe is in line from now on.
    pub(super) fn allowance(&mut self, reads: bool) -> usize {
        let share = match self.turn {
            Turn::Waits(_) => return 0,
            Turn::Has(share) => Some(share),
            Turn::None => self.bucket.share_at_once(),
        };
        self.turn = match share {
            None if reads => Turn::Waits(Box::pin(self.bucket.clone().turn())),
            _ => Turn::None,
        };
        share.unwrap_or(0) as usize
    }

    /// In line.
    pub(super) fn waits(&self) -> bool {
        matches!(self.turn, Turn::Waits(_))
    }

    /// Ready when the pipe's turn has come.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Turn::Waits(turn) = &mut self.turn else { return Poll::Pending };
        self.turn = Turn::Has(ready!(turn.as_mut().poll(context)));
        Poll::Ready(())
    }

    /// So many bytes were moved.
    pub(super) fn moved(&self, bytes: usize) {
        if bytes > 0 {
            self.bucket.charge(bytes, now());
        }
    }
}
