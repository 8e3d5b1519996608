//! How long no byte has moved.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// Runs from the first [`note`](Self::note) on; until then it is only a duration, as most pipes need no more.
#[derive(Debug)]
pub(super) struct Silence {
    limit: Duration,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    since: Instant,
    /// Set again when it fires, not with each byte.
    timer: Pin<Box<Sleep>>,
}

impl Silence {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, running: None }
    }

    /// Notes whether bytes have moved just now.
    pub(super) fn note(&mut self, moved: bool) {
        match &mut self.running {
            Some(running) if moved => running.since = Instant::now(),
            Some(_) => {}
            None => self.running = Some(Running { since: Instant::now(), timer: Box::pin(sleep(self.limit)) }),
        }
    }

    /// Ready once nothing has moved for the limit, and whenever it is asked again until something has.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(Running { since, timer }) = &mut self.running else { return Poll::Pending };
        loop {
            ready!(timer.as_mut().poll(context));
            let left = self.limit.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Poll::Ready(());
            }
            timer.set(sleep(left));
        }
    }
}
