//! What the kernel makes of a link's bytes: how many it queues, and how it meets loss.
//!
//! What the kernel holds unsent, nothing can overtake. So it is given little more than the path drains in a moment,
//! and the rest stays where streams take turns.
//!
//! Most systems control congestion by cubic, which takes each lost packet for a queue that overflowed: at 1 % loss
//! over 50 ms it is left with 2 Mbit/s. And it fills the path's queue, so that all who share the link with bulk, or the
//! path, wait behind that. A link that keeps losing packets although no queue has formed, or keeps a queue while it sends
//! all it can, is switched to BBR, where the system has it. If the queue stays even so, it is made by others, to whom BBR
//! would lose: then the link goes back to what it had.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use relay_proto::yamux::Pace;
use tokio::net::TcpStream;

use crate::socket::Socket;
use crate::sys;

/// How much may be unsent at least, in bytes: what the kernel needs to go on between two wake-ups of ours.
const UNSENT_LEAST: u32 = 32 * 1024;
/// How much may be unsent at most.
const UNSENT_MOST: u32 = 4 * 1024 * 1024;
/// BBR finds its rate by queueing more and more, and would for ever if it got no more: until it has, this is no limit.
const UNLIMITED: u32 = u32::MAX;

/// How often the kernel is asked about the path, while bytes are written.
const SAMPLE: Duration = Duration::from_millis(500);
/// How many samples are remembered.
const REMEMBERED_SAMPLES: usize = 6;
/// So many of them must have seen loss: what overflows a queue once shows in one or two.
const LOSSY_SAMPLES: usize = 3;
/// Of a thousand packets, so many lost are worth another algorithm.
const LOSSY_PER_MILLE: u64 = 3;
/// Or so many must have seen a queue: most of 3 s, in which one that passes has gone.
const QUEUEING_SAMPLES: usize = 5;
/// On a shorter path cubic recovers quickly, and BBR would only pace what needs no pacing.
const SHORTEST_PATH: Duration = Duration::from_millis(5);

/// A link's path and how its socket is set up for it.
#[derive(Debug)]
pub(super) struct Path {
    pace: Pace,
    control: Control,
    /// The limit on unsent bytes that the socket has.
    unsent: u32,
    next_sample: Instant,
    history: History,
    /// The link has refused bytes since the last sample.
    full: bool,
}

/// Which congestion control the socket has.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Control {
    /// The system's, of that name, which may be changed.
    System(Vec<u8>),
    /// BBR, which has yet to find the path's rate.
    BbrStarting(Trial),
    /// BBR, which has yet to show that it keeps the queue short.
    BbrOnTrial(Vec<u8>),
    /// One that stays.
    Settled,
}

/// What BBR was chosen against a queue instead of, if it was.
type Trial = Option<Vec<u8>>;

impl Path {
    /// `may_change` allows another congestion control than the system's.
    pub(super) fn new(wire: &Socket, may_change: bool, now: Instant) -> Self {
        let control = match wire.tcp().and_then(sys::congestion_control) {
            Some(name) if name.starts_with(b"bbr") => Control::BbrStarting(None),
            Some(name) if may_change => Control::System(name),
            _ => Control::Settled,
        };
        Self {
            pace: Pace::new(now),
            control,
            unsent: UNLIMITED,
            next_sample: now,
            history: History::default(),
            full: false,
        }
    }

    /// The link took `bytes`, and then refused more if it is `full`. Gives how much to put into the next round.
    pub(super) fn wrote(&mut self, wire: &Socket, bytes: usize, full: bool, now: Instant) -> u32 {
        self.pace.wrote(bytes, full, now);
        self.full |= full;
        let Some(wire) = wire.tcp() else { return self.pace.round() };
        if now >= self.next_sample {
            self.next_sample = now + SAMPLE;
            self.sample(wire);
        }
        let round = self.pace.round();
        let unsent = match self.control {
            Control::BbrStarting(_) => UNLIMITED,
            _ => round.saturating_mul(2).next_power_of_two().clamp(UNSENT_LEAST, UNSENT_MOST),
        };
        if unsent != self.unsent {
            self.unsent = unsent;
            // Without it links work too; others only wait longer.
            let _ = sys::limit_unsent(wire, unsent);
        }
        round
    }

    fn sample(&mut self, wire: &TcpStream) {
        let full = std::mem::take(&mut self.full);
        if self.control == Control::Settled {
            return;
        }
        if let Control::BbrStarting(trial) = &mut self.control {
            if !sys::bbr_starts(wire) {
                self.control = trial.take().map_or(Control::Settled, Control::BbrOnTrial);
                self.history.samples.clear();
            }
            return;
        }
        let Some(packets) = sys::packets(wire) else { return };
        self.history.note(packets, full);
        self.control = match (std::mem::replace(&mut self.control, Control::Settled), self.history.verdict()) {
            (Control::System(name), Some(verdict)) => {
                let changed = sys::set_congestion_control(wire, b"bbr");
                tracing::debug!(?verdict, ?changed, "changing this link to BBR");
                let trial = Some(name).filter(|_| verdict == Verdict::Queueing);
                changed.map_or(Control::Settled, |()| Control::BbrStarting(trial))
            }
            (Control::BbrOnTrial(name), verdict) if self.history.is_full() => {
                if verdict == Some(Verdict::Queueing) {
                    let changed = sys::set_congestion_control(wire, &name);
                    tracing::debug!(?changed, "the queue is made by others: changing this link back");
                }
                Control::Settled
            }
            (control, _) => control,
        };
    }
}

/// What the kernel counted of a connection's packets, and how long they take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Packets {
    /// With payload, those sent again included.
    pub(crate) sent: u32,
    pub(crate) sent_again: u32,
    /// The present round trip, smoothed.
    pub(crate) round_trip: Duration,
    pub(crate) shortest_round_trip: Duration,
}

/// What happened between two looks.
#[derive(Debug)]
struct Sample {
    sent: u64,
    lost: u64,
    /// A queue stands on the path: whatever got lost may be due to that.
    queue: bool,
    /// The link sent all that it could, too.
    fills: bool,
}

/// Why another algorithm would serve a path better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It keeps losing packets although there is no queue.
    Lossy,
    /// There is a queue, and the link fills it.
    Queueing,
}

/// The last samples.
#[derive(Debug, Default)]
struct History {
    before: Packets,
    /// The oldest first.
    samples: VecDeque<Sample>,
}

impl History {
    /// Notes what has happened since the last sample, in which the link may have been `full`.
    fn note(&mut self, packets: Packets, full: bool) {
        let queue = packets.round_trip > packets.shortest_round_trip * 5 / 4;
        self.samples.push_back(Sample {
            sent: packets.sent.wrapping_sub(self.before.sent).into(),
            lost: packets.sent_again.wrapping_sub(self.before.sent_again).into(),
            queue,
            fills: queue && full,
        });
        self.before = packets;
        if self.samples.len() > REMEMBERED_SAMPLES {
            self.samples.pop_front();
        }
    }

    fn is_full(&self) -> bool {
        self.samples.len() == REMEMBERED_SAMPLES
    }

    fn verdict(&self) -> Option<Verdict> {
        if self.before.shortest_round_trip < SHORTEST_PATH {
            return None;
        }
        let sent: u64 = self.samples.iter().map(|sample| sample.sent).sum();
        let lossy = || self.samples.iter().filter(|sample| !sample.queue && sample.lost > 0);
        let lost: u64 = lossy().map(|sample| sample.lost).sum();
        if lossy().count() >= LOSSY_SAMPLES && lost * 1000 >= sent * LOSSY_PER_MILLE {
            return Some(Verdict::Lossy);
        }
        let queueing = self.samples.iter().filter(|sample| sample.fills).count();
        (queueing >= QUEUEING_SAMPLES).then_some(Verdict::Queueing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples of so many packets lost of a thousand each, on a path of that many milliseconds, empty or not, for a link
    /// that sends all it can or not: the first verdict.
    fn notes(lost: &[u32], round_trip: u32, now: u32, full: bool) -> Option<Verdict> {
        let mut history = History::default();
        let mut packets = Packets {
            shortest_round_trip: Duration::from_millis(round_trip.into()),
            round_trip: Duration::from_millis(now.into()),
            ..Packets::default()
        };
        lost.iter().find_map(|lost| {
            packets.sent += 1000;
            packets.sent_again += lost;
            history.note(packets, full);
            history.verdict()
        })
    }

    #[test]
    fn lasting_loss_on_a_long_path_is_noticed() {
        assert_eq!(notes(&[10, 10, 10], 50, 55, false), Some(Verdict::Lossy));
        assert_eq!(notes(&[0, 10, 0, 10, 0, 10], 50, 55, true), Some(Verdict::Lossy));
        assert_eq!(notes(&[3; 10], 5, 5, true), Some(Verdict::Lossy));
    }

    #[test]
    fn loss_that_passes_is_left_to_the_system() {
        assert_eq!(notes(&[500, 100, 0, 0, 0, 0, 0, 0], 50, 55, true), None);
        assert_eq!(notes(&[1; 20], 50, 55, true), None, "one of a thousand");
        assert_eq!(notes(&[10, 0, 0, 0, 0, 10, 0, 0, 0, 0, 10], 50, 55, true), None);
    }

    #[test]
    fn a_queue_that_stays_is_noticed_by_whoever_fills_it() {
        assert_eq!(notes(&[0; 5], 50, 65, true), Some(Verdict::Queueing));
        assert_eq!(notes(&[500, 0, 0, 0, 0], 50, 90, true), Some(Verdict::Queueing));
        assert_eq!(notes(&[0; 4], 50, 65, true), None, "it may be about to go");
        assert_eq!(notes(&[0; 20], 50, 60, true), None, "it is short");
        assert_eq!(notes(&[10; 20], 50, 90, false), None, "it is made by others");
    }

    #[test]
    fn a_short_path_is_left_to_the_system() {
        assert_eq!(notes(&[10; 20], 4, 4, true), None);
        assert_eq!(notes(&[10; 20], 4, 8, true), None);
    }
}
