//! The state of one stream.
//!
//! ```text
//!                    our SYN / the peer's SYN
//!                              │
//!                         ┌────▼────┐
//!        our FIN written  │  open   │  the peer's FIN
//!          ┌──────────────┤         ├─────────────┐
//!          ▼              └────┬────┘             ▼
//!   we only receive            │RST         we only send
//!          │                   │ either           │
//!          │ the peer's FIN    ▼ way              │ our FIN written
//!          └──────────────►  gone  ◄──────────────┘
//! ```
//!
//! After both FINs a stream is gone once its queue has been taken.

use std::time::{Duration, Instant};

/// The credit that both sides of every new stream have, in bytes (`spec.md`, "Flow Control").
pub const INITIAL_WINDOW: u32 = 256 * 1024;

/// What we still have to say on a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    Open,
    /// No more data will come; the FIN is not yet written.
    Finishing,
    /// The FIN is written.
    Finished,
}

/// What the next control frame of a stream has to carry before any data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    Syn,
    Ack,
    Done,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each says one thing, and any of them may go together")]
pub(super) struct Stream {
    pub(super) opening: Opening,
    /// We opened it and the peer has not yet said that it accepts.
    pub(super) unacknowledged: bool,

    pub(super) sending: Sending,
    /// Bytes that the peer still takes.
    pub(super) send_credit: u32,
    /// The source has bytes, as far as the driver said.
    pub(super) ready: bool,
    pub(super) in_turn: bool,

    /// The peer's FIN has arrived.
    pub(super) peer_finished: bool,
    pub(super) receive: ReceiveWindow,
    pub(super) in_control: bool,
    pub(super) in_renewals: bool,

    /// Bytes that arrived and wait for the user, and since when the user took none.
    pub(super) queued: u32,
    pub(super) waiting_since: Instant,
}

impl Stream {
    pub(super) fn new(opening: Opening, send_credit: u32, now: Instant) -> Self {
        Self {
            opening,
            unacknowledged: opening == Opening::Syn,
            sending: Sending::Open,
            send_credit,
            ready: false,
            in_turn: false,
            peer_finished: false,
            receive: ReceiveWindow::new(now),
            in_control: false,
            in_renewals: false,
            queued: 0,
            waiting_since: now,
        }
    }

    /// Whether its turn would put a frame on the link.
    pub(super) fn wants_turn(&self) -> bool {
        match self.sending {
            Sending::Open => self.ready && self.send_credit > 0,
            Sending::Finishing => true,
            Sending::Finished => false,
        }
    }

    /// Whether more credit serves anybody, and does not only make a queue longer while memory is `pressed`.
    pub(super) fn may_renew(&self, pressed: bool) -> bool {
        !(self.peer_finished || pressed && self.queued > 0)
    }

    pub(super) fn is_gone(&self) -> bool {
        self.sending == Sending::Finished && self.peer_finished && self.queued == 0
    }
}

/// What we let the peer send, and how much of it the user has taken.
#[derive(Debug)]
pub(super) struct ReceiveWindow {
    /// Bytes that the peer may still send.
    pub(super) credit: u32,
    /// Bytes in flight or queued that we allow in all; grows with the path.
    pub(super) size: u32,
    /// Bytes taken by the user and not yet granted again.
    pub(super) taken: u32,
    /// A window update should be written.
    pub(super) due: bool,
    renewed: Instant,
}

impl ReceiveWindow {
    fn new(now: Instant) -> Self {
        Self { credit: INITIAL_WINDOW, size: INITIAL_WINDOW, taken: 0, due: false, renewed: now }
    }

    /// The user has taken `bytes`. Gives whether a window update has become due: when half of the window
    /// was taken, as all known peers do. Never more than was received counts, so that no late word of the
    /// driver about an earlier stream of this number becomes credit.
    pub(super) fn take(&mut self, bytes: u32, may_renew: bool) -> bool {
        self.taken += bytes.min(self.size - self.credit - self.taken);
        let was_due = self.due;
        self.due |= may_renew && self.taken >= self.size / 2;
        self.due && !was_due
    }

    /// Called when a renewal has become due. Half a window taken within two round trips means that the
    /// window, not the path or the user, may be what limits the peer: it doubles, up to `largest`.
    pub(super) fn grow(&mut self, round_trip: Option<Duration>, largest: u32, now: Instant) {
        let quick = round_trip.is_some_and(|rtt| now.saturating_duration_since(self.renewed) < 2 * rtt);
        if quick {
            let growth = self.size.min(largest.saturating_sub(self.size));
            self.size += growth;
            self.taken += growth;
        }
        self.renewed = now;
    }

    /// The bytes to grant now, at most `most`: none if no renewal is due. It stays due while half of the window
    /// is yet to be granted.
    pub(super) fn grant(&mut self, most: u32) -> u32 {
        let delta = if self.due { self.taken.min(most) } else { 0 };
        self.taken -= delta;
        self.credit += delta;
        self.due &= self.taken >= self.size / 2;
        delta
    }
}
