//! What waits for users, against the bounds of one session and of all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::session::{Config, StreamEnd};

/// Bytes that may wait for the users of several sessions together.
#[derive(Debug)]
pub struct Budget {
    most: usize,
    held: AtomicUsize,
}

impl Budget {
    /// One of `most` bytes, of which nothing is used.
    pub fn new(most: usize) -> Self {
        Self { most, held: AtomicUsize::new(0) }
    }

    /// Bytes that wait now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// What waits in one session. Goes back to the budget of all when dropped.
#[derive(Debug)]
pub(super) struct Held {
    bytes: usize,
    most: usize,
    budget: Option<Arc<Budget>>,
}

impl Held {
    pub(super) fn new(config: &Config) -> Self {
        Self { bytes: 0, most: config.max_queued, budget: config.budget.clone() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        if let Some(budget) = &self.budget {
            budget.held.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    pub(super) fn remove(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if let Some(budget) = &self.budget {
            budget.held.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// What becomes of a stream that has to go because a bound is exceeded.
    pub(super) fn excess(&self) -> Option<StreamEnd> {
        if self.bytes > self.most {
            return Some(StreamEnd::Stalled);
        }
        self.budget.as_ref().filter(|budget| budget.held() > budget.most).map(|_| StreamEnd::CrowdedOut)
    }

    /// Whether more than half of a bound is used: nothing may be done that leads to more.
    pub(super) fn is_pressed(&self) -> bool {
        self.bytes > self.most / 2 || self.budget.as_ref().is_some_and(|budget| budget.held() > budget.most / 2)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.remove(self.bytes);
    }
}
