//! The session core at work, without sockets: what `cargo bench` times and `relay-bench instructions` counts.
//!
//! A relay's and a forwarder's session talk over a wire of memory. Only headers are written to it: the session hands
//! out slices and never looks into payload, so what is measured is the multiplexer and not `memcpy`.

use std::time::Instant;

use relay_proto::yamux::{Config, FRAME_LARGEST, HEADER_LEN, Received, Role, Session, StreamId, Transmit};

/// Something that two sessions do again and again.
#[derive(Debug)]
pub struct Workload {
    /// Its name in reports.
    pub name: &'static str,
    /// What is counted.
    pub unit: &'static str,
    /// Streams that live throughout. Without any, each round opens one and ends it.
    streams: usize,
    /// The length of each frame's payload, in bytes.
    payload: u32,
}

/// All of them.
pub const WORKLOADS: [Workload; 3] = [
    // Four frames are a window: credit is granted with every second one.
    Workload { name: "bulk", unit: "frame", streams: 1, payload: 64 * 1024 },
    Workload { name: "small", unit: "frame", streams: 64, payload: 64 },
    Workload { name: "short", unit: "stream", streams: 0, payload: 1 },
];

impl Workload {
    /// How many units a round has: a frame each way on every stream, or one stream's life.
    pub const fn units(&self) -> u64 {
        if self.streams == 0 { 1 } else { 2 * self.streams as u64 }
    }

    /// Two sessions with their streams open. Each call of what it gives is a round, and tells how many bytes arrived.
    pub fn start(&self) -> impl FnMut() -> usize {
        let payload = self.payload;
        let mut pair = Pair::new();
        let streams: Vec<_> = (0..self.streams).map(|_| pair.open()).collect();
        move || {
            if !streams.is_empty() {
                return pair.exchange(&streams, payload);
            }
            let stream = pair.open();
            let arrived = pair.exchange(&[stream], payload);
            pair.relay.finish(stream);
            arrived + pair.carry(0)
        }
    }
}

struct Pair {
    relay: Session,
    forwarder: Session,
    /// Room for one frame. What stands behind the header is payload, whatever it is.
    wire: Vec<u8>,
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let session = |role| {
            let mut session = Session::new(role, Config::default(), now);
            session.set_round(FRAME_LARGEST);
            session
        };
        let wire = vec![0; HEADER_LEN + FRAME_LARGEST as usize];
        Self { relay: session(Role::Relay), forwarder: session(Role::Forwarder), wire, now }
    }

    fn open(&mut self) -> StreamId {
        let stream = self.relay.open(self.now).expect("few streams live, and all are acknowledged");
        self.carry(0);
        stream
    }

    /// One frame each way on every stream; gives how many bytes arrived.
    fn exchange(&mut self, streams: &[StreamId], payload: u32) -> usize {
        for &stream in streams {
            self.relay.ready(stream);
            self.forwarder.ready(stream);
        }
        self.carry(payload)
    }

    /// Takes what either session has to say to the other; gives how many bytes of payload arrived.
    fn carry(&mut self, payload: u32) -> usize {
        let Self { relay, forwarder, wire, now } = self;
        carry(relay, forwarder, wire, payload, *now) + carry(forwarder, relay, wire, payload, *now)
    }
}

fn carry(from: &mut Session, to: &mut Session, wire: &mut [u8], payload: u32, now: Instant) -> usize {
    let mut arrived = 0;
    while let Some(transmit) = from.poll_transmit(now) {
        let (header, length) = match transmit {
            Transmit::Frame(header) => (header, 0),
            Transmit::Data { stream, max } => {
                let length = payload.min(max);
                (from.sent(stream, length).expect("the stream whose turn it is lives"), length as usize)
            }
        };
        wire[..HEADER_LEN].copy_from_slice(&header.encode());
        let mut input = &wire[..HEADER_LEN + length];
        while let Some(received) = to.receive(&mut input, now).expect("the peer keeps to the protocol") {
            match received {
                Received::Payload(stream, bytes) => {
                    arrived += bytes.len();
                    to.delivered(stream, bytes.len(), now);
                }
                Received::Finished(stream) => to.finish(stream),
                _ => {}
            }
        }
    }
    arrived
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_moves_its_frames_and_runs_out_of_nothing() {
        for workload in &WORKLOADS {
            let frames = 2 * workload.streams.max(1);
            let mut round = workload.start();
            for _ in 0..10_000 / frames {
                assert_eq!(round(), frames * workload.payload as usize, "{}", workload.name);
            }
        }
    }

    #[test]
    fn a_short_stream_leaves_nothing() {
        let mut pair = Pair::new();
        let stream = pair.open();
        assert_eq!(pair.exchange(&[stream], 1), 2);
        pair.relay.finish(stream);
        pair.carry(0);
        assert!(pair.relay.is_empty() && pair.forwarder.is_empty());
    }
}
