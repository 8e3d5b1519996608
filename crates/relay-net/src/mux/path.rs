//! What the kernel makes of a link's bytes: how many it queues, and how it meets loss.
//!
//! What the kernel holds unsent, nothing can overtake. So it is given little more than the path drains in a moment,
//! and the rest stays where streams take turns.
//!
//! Most systems control congestion by cubic, which takes each lost packet for a queue that overflowed: at 1 % loss
//! over 50 ms it is left with 2 Mbit/s. A link that keeps losing packets although no queue has formed is switched to
//! BBR, where the system has it.

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
/// So many of the samples remembered must have seen loss: what overflows a queue once shows in one or two.
const LOSSY_SAMPLES: u32 = 3;
/// How many samples are remembered.
const REMEMBERED_SAMPLES: u32 = 6;
/// Of a thousand packets, so many lost are worth another algorithm.
const LOSSY_PER_MILLE: u32 = 3;
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
    losses: Losses,
}

/// Which congestion control the socket has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    /// The system's, which may be changed.
    System,
    /// BBR, which has yet to find the path's rate.
    BbrStarting,
    /// One that stays.
    Settled,
}

impl Path {
    /// `may_change` allows another congestion control than the system's.
    pub(super) fn new(wire: &Socket, may_change: bool, now: Instant) -> Self {
        let control = match wire.tcp().and_then(sys::congestion_control) {
            Some(name) if name.starts_with(b"bbr") => Control::BbrStarting,
            Some(_) if may_change => Control::System,
            _ => Control::Settled,
        };
        Self { pace: Pace::new(now), control, unsent: UNLIMITED, next_sample: now, losses: Losses::default() }
    }

    /// The link took `bytes`, and then refused more if it is `full`. Gives how much to put into the next round.
    pub(super) fn wrote(&mut self, wire: &Socket, bytes: usize, full: bool, now: Instant) -> u32 {
        self.pace.wrote(bytes, full, now);
        let Some(wire) = wire.tcp() else { return self.pace.round() };
        if now >= self.next_sample {
            self.next_sample = now + SAMPLE;
            self.sample(wire);
        }
        let round = self.pace.round();
        let unsent = match self.control {
            Control::BbrStarting => UNLIMITED,
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
        match self.control {
            Control::System => {
                let Some(packets) = sys::packets(wire) else { return };
                if self.losses.note(packets) {
                    let changed = sys::set_congestion_control(wire, b"bbr");
                    tracing::debug!(?changed, "this path loses packets: changing to BBR");
                    self.control = if changed.is_ok() { Control::BbrStarting } else { Control::Settled };
                }
            }
            Control::BbrStarting if !sys::bbr_starts(wire) => self.control = Control::Settled,
            Control::BbrStarting | Control::Settled => {}
        }
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

/// The last samples.
#[derive(Debug, Default)]
struct Losses {
    before: Packets,
    /// What was sent, and sent again, in each; the oldest first.
    samples: std::collections::VecDeque<(u32, u32)>,
}

impl Losses {
    /// Notes what has happened since the last sample; gives whether the path is one that loses packets.
    fn note(&mut self, packets: Packets) -> bool {
        let sent = packets.sent.wrapping_sub(self.before.sent);
        let lost = packets.sent_again.wrapping_sub(self.before.sent_again);
        self.before = packets;
        // A queue is growing: whatever got lost may be due to that.
        let queueing = packets.round_trip > packets.shortest_round_trip * 5 / 4;
        self.samples.push_back((sent, if queueing { 0 } else { lost }));
        if self.samples.len() > REMEMBERED_SAMPLES as usize {
            self.samples.pop_front();
        }
        let (sent, lost) = self
            .samples
            .iter()
            .fold((0u64, 0u64), |(sent, lost), sample| (sent + u64::from(sample.0), lost + u64::from(sample.1)));
        let lossy = self.samples.iter().filter(|(_, lost)| *lost > 0).count();
        packets.shortest_round_trip >= SHORTEST_PATH
            && lossy >= LOSSY_SAMPLES as usize
            && lost * 1000 >= sent * u64::from(LOSSY_PER_MILLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples of so many packets lost of a thousand each, on a path of that many milliseconds, empty or not.
    fn notes(lost: &[u32], round_trip: u32, now: u32) -> bool {
        let mut losses = Losses::default();
        let mut packets = Packets {
            shortest_round_trip: Duration::from_millis(round_trip.into()),
            round_trip: Duration::from_millis(now.into()),
            ..Packets::default()
        };
        lost.iter().any(|lost| {
            packets.sent += 1000;
            packets.sent_again += lost;
            losses.note(packets)
        })
    }

    #[test]
    fn lasting_loss_on_a_long_path_is_noticed() {
        assert!(notes(&[10, 10, 10], 50, 55));
        assert!(notes(&[0, 10, 0, 10, 0, 10], 50, 55));
        assert!(notes(&[3; 10], 5, 5));
    }

    #[test]
    fn loss_that_passes_is_left_to_the_system() {
        assert!(!notes(&[500, 100, 0, 0, 0, 0, 0, 0], 50, 55));
        assert!(!notes(&[1; 20], 50, 55), "one of a thousand");
        assert!(!notes(&[10, 0, 0, 0, 0, 10, 0, 0, 0, 0, 10], 50, 55));
    }

    #[test]
    fn loss_behind_a_queue_is_left_to_the_system() {
        assert!(!notes(&[10; 20], 50, 90));
    }

    #[test]
    fn loss_on_a_short_path_is_left_to_the_system() {
        assert!(!notes(&[10; 20], 4, 4));
    }
}
