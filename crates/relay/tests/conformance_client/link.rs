//! The client's end of a multiplexed link.

use std::collections::HashMap;
use std::sync::Arc;

use relay_proto::yamux::{Flags, HEADER_LEN, Header, INITIAL_WINDOW, Kind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::sync::mpsc;

use crate::client::{Client, Tunnel};
use crate::fault::Fault;
use crate::service::{Event, Out};

/// The way to the relay.
#[derive(Clone)]
pub(crate) struct Frames(mpsc::UnboundedSender<Vec<u8>>);

impl Frames {
    pub(crate) fn send(&self, frame: Vec<u8>) {
        let _ = self.0.send(frame);
    }
}

struct Half {
    to: mpsc::UnboundedSender<Event>,
    credit: Arc<Semaphore>,
    finished: bool,
}

/// The link, and what it counts for its faults.
struct Link {
    client: Arc<Client>,
    frames: Frames,
    addressed: bool,
    streams: HashMap<u32, Half>,
    opened: u32,
    last: u32,
    pings: u32,
    empty: u32,
}

impl Client {
    pub(crate) async fn link(self: Arc<Self>, tunnel: Tunnel) {
        let Tunnel { relay, addressed, .. } = tunnel;
        let (mut from, mut to) = relay.socket.into_split();
        let (frames, mut out) = mpsc::unbounded_channel::<Vec<u8>>();
        let frames = Frames(frames);
        let writes = async {
            while let Some(frame) = out.recv().await {
                if to.write_all(&frame).await.is_err() {
                    break;
                }
            }
        };
        let mut link = Link {
            client: self.clone(),
            frames,
            addressed,
            streams: HashMap::new(),
            opened: 0,
            last: 0,
            pings: 0,
            empty: 0,
        };
        let mut unread = relay.ahead;
        let reads = async {
            loop {
                let mut input = &unread[..];
                while let Some((header, body)) = next_frame(&mut input) {
                    link.heard(header, body);
                    if self.has(Fault::TakesAReadForAFrame) {
                        input = &[];
                    }
                }
                if self.has(Fault::DropsHalfAHeader) && input.len() < HEADER_LEN {
                    input = &[];
                }
                unread = input.to_vec();
                unread.reserve(16 * 1024);
                if !matches!(from.read_buf(&mut unread).await, Ok(1..)) {
                    return;
                }
            }
        };
        tokio::select! {
            () = reads => {}
            () = writes => {}
        }
    }
}

fn next_frame<'a>(input: &mut &'a [u8]) -> Option<(Header, &'a [u8])> {
    let (bytes, rest) = input.split_first_chunk::<HEADER_LEN>()?;
    let header = Header::decode(*bytes).ok()?;
    let length = if header.kind == Kind::Data { header.length as usize } else { 0 };
    let (body, rest) = rest.split_at_checked(length)?;
    *input = rest;
    Some((header, body))
}

impl Link {
    fn has(&self, fault: Fault) -> bool {
        self.client.has(fault)
    }

    fn ends_if(&self, fault: Fault, when: bool) {
        if when && self.has(fault) {
            self.client.die();
        }
    }

    fn heard(&mut self, header: Header, body: &[u8]) {
        let Header { kind, flags, length, .. } = header;
        match kind {
            Kind::Ping if flags.has(Flags::SYN) => {
                self.pings += 1;
                self.ends_if(Fault::EndsWithManyPings, self.pings > 1000);
                if !self.has(Fault::AnswersNoPing) {
                    let pong = Header { kind, flags: Flags::ACK, stream: 0, length };
                    self.frames.send(pong.encode().to_vec());
                }
            }
            Kind::Ping => {}
            Kind::GoAway => self.ends_if(Fault::EndsWithGoAway, true),
            Kind::Data | Kind::WindowUpdate => self.heard_of_stream(header, body),
        }
    }

    fn heard_of_stream(&mut self, header: Header, body: &[u8]) {
        let Header { kind, flags, stream, length } = header;
        if flags.has(Flags::SYN) {
            self.open(stream);
        }
        let Some(half) = self.streams.get_mut(&stream) else {
            return self.ends_if(Fault::EndsWithUnknownStreams, true);
        };
        let was_finished = half.finished;
        half.finished |= flags.has(Flags::FIN);
        if kind == Kind::WindowUpdate {
            half.credit.add_permits(length as usize);
        } else if was_finished {
            half.credit.close();
            self.streams.remove(&stream);
            self.frames.send(control(Flags::RST, stream, 0));
            return self.ends_if(Fault::EndsWithDataBehindAFin, true);
        } else if !body.is_empty() {
            let _ = half.to.send(Event::Bytes(body.to_vec()));
        }
        if flags.has(Flags::RST) {
            let _ = half.to.send(Event::Abort);
            half.credit.close();
            self.streams.remove(&stream);
        } else if flags.has(Flags::FIN) && !was_finished {
            let _ = half.to.send(Event::End);
        }
        self.ends_if(Fault::EndsWithASecondFin, was_finished && flags.has(Flags::FIN));
        self.empty += u32::from(kind == Kind::Data && body.is_empty());
        self.ends_if(Fault::EndsWithEmptyFrames, self.empty > 1000);
    }

    fn open(&mut self, stream: u32) {
        self.opened += 1;
        let too_many = self.has(Fault::KeepsWhatHasLeft) && self.opened > 300;
        let too_low = self.has(Fault::WantsGrowingIds) && stream < self.last;
        self.last = stream;
        if too_many || too_low {
            return self.frames.send(control(Flags::RST, stream, 0));
        }
        let (to, came) = mpsc::unbounded_channel();
        let credit = Arc::new(Semaphore::new(INITIAL_WINDOW as usize));
        self.streams.insert(stream, Half { to, credit: credit.clone(), finished: false });
        for _ in 0..if self.has(Fault::AcknowledgesTwice) { 2 } else { 1 } {
            self.frames.send(control(Flags::ACK, stream, 0));
        }
        let out = Out::Stream { id: stream, credit, frames: self.frames.clone() };
        self.client.spawn(self.client.clone().serve(came, out, self.addressed));
    }
}

/// A frame without payload.
pub(crate) fn control(flags: Flags, stream: u32, granted: usize) -> Vec<u8> {
    let length = u32::try_from(granted).unwrap();
    Header { kind: Kind::WindowUpdate, flags, stream, length }.encode().to_vec()
}

/// A frame with payload.
pub(crate) fn data(stream: u32, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap();
    let header = Header { kind: Kind::Data, flags: Flags::NONE, stream, length };
    [&header.encode(), bytes].concat()
}
