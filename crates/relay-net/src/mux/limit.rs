//! The rate of a tunnel, as its link keeps to it.
//!
//! Out, sources are read while the bucket is not in debt. In, reading never pauses: credit is renewed while the bucket
//! is not in debt, piece by piece, and charged then. What a new stream may send before that is charged as it arrives, and
//! the debt lasts as long as it takes. Lest all who send wait for that, they have half of the rate meanwhile.

use std::sync::Arc;
use std::time::Instant;

use relay_proto::yamux::{Header, Kind, Session, Transmit};

use super::link::State;
use crate::rate::{Bucket, Level};

pub(super) struct Limit {
    bucket: Arc<Bucket>,
    /// What is sent while the bucket is in debt.
    in_debt: Level,
    /// Bytes of credit that were charged and have not arrived. What streams leave behind that end pays for others.
    prepaid: u64,
}

impl Limit {
    pub(super) fn new(bucket: Arc<Bucket>, now: Instant) -> Self {
        let in_debt = Level::new(bucket.rate() / 2, now);
        Self { bucket, in_debt, prepaid: 0 }
    }

    /// How much a stream may send in its turn, or when it may.
    fn may_send(&self, now: Instant) -> Result<u32, Instant> {
        self.bucket.share(now).or_else(|paid| match self.in_debt.check(now) {
            Ok(()) => Ok(self.bucket.largest_share()),
            Err(sooner) => Err(paid.min(sooner)),
        })
    }

    /// How much credit a stream may have renewed, or when it may.
    fn may_renew(&self, now: Instant) -> Result<u32, Instant> {
        self.bucket.share(now)
    }

    fn sent(&mut self, bytes: usize, now: Instant) {
        if self.bucket.share(now).is_err() {
            self.in_debt.charge(bytes, now);
        }
        self.bucket.charge(bytes, now);
    }

    fn renewed(&mut self, bytes: u32, now: Instant) {
        self.prepaid = self.prepaid.saturating_add(bytes.into());
        self.bucket.charge(bytes as usize, now);
    }

    fn received(&mut self, bytes: usize, now: Instant) {
        let paid = self.prepaid.min(bytes as u64);
        self.prepaid -= paid;
        self.bucket.charge(bytes.saturating_sub(usize::try_from(paid).unwrap_or(bytes)), now);
    }

    /// When what waits in the session for the rate may go on.
    fn resumes(&self, session: &Session, now: Instant) -> Option<Instant> {
        let renewal = session.has_renewals().then(|| self.may_renew(now).err()).flatten();
        let turn = session.has_turns().then(|| self.may_send(now).err()).flatten();
        renewal.into_iter().chain(turn).min()
    }
}

impl State {
    /// The session's next frame that goes ahead of data.
    pub(super) fn poll_control(&mut self, now: Instant) -> Option<Header> {
        let Some(limit) = &mut self.limit else { return self.session.poll_control(now) };
        if self.session.has_renewals() {
            self.session.set_renewal_most(limit.may_renew(now).unwrap_or(0));
        }
        let header = self.session.poll_control(now)?;
        if header.kind == Kind::WindowUpdate {
            limit.renewed(header.length, now);
        }
        Some(header)
    }

    /// What comes next in the session, when nothing goes ahead of data.
    pub(super) fn poll_turn(&mut self, now: Instant) -> Option<Transmit> {
        let most = match &self.limit {
            Some(limit) if self.session.has_turns() => limit.may_send(now).ok()?,
            _ => u32::MAX,
        };
        Some(match self.session.poll_transmit(now)? {
            Transmit::Data { stream, max } => Transmit::Data { stream, max: max.min(most) },
            frame @ Transmit::Frame(_) => frame,
        })
    }

    pub(super) fn count_sent(&mut self, bytes: usize, now: Instant) {
        if let Some(limit) = &mut self.limit {
            limit.sent(bytes, now);
        }
    }

    pub(super) fn count_received(&mut self, bytes: usize, now: Instant) {
        if let Some(limit) = &mut self.limit {
            limit.received(bytes, now);
        }
    }

    /// Whether nobody may send now.
    pub(super) fn is_limited(&self) -> bool {
        self.limit.as_ref().is_some_and(|limit| limit.may_send(Instant::now()).is_err())
    }

    /// When what waits for the rate may go on.
    pub(super) fn resumes(&self) -> Option<Instant> {
        self.limit.as_ref().and_then(|limit| limit.resumes(&self.session, Instant::now()))
    }
}
