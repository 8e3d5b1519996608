//! One end of a multiplexed link: frames as they are on the wire, without a state machine that would forgive.

use std::collections::{HashMap, VecDeque};

use relay_proto::yamux::{Flags, HEADER_LEN, Header, INITIAL_WINDOW, Kind};

use super::Verdict;
use super::peer::Peer;

/// The longest payload of a frame that is read, in bytes: the largest window that any implementation grants by itself.
const MAX_PAYLOAD: u32 = 16 * 1024 * 1024;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// The payload of a Data frame.
    pub body: Vec<u8>,
}

impl Frame {
    /// Whether it carries that flag.
    pub fn has(&self, flag: Flags) -> bool {
        self.header.flags.has(flag)
    }
}

/// One end of a link.
#[derive(Debug)]
pub struct Session {
    /// The connection beneath.
    pub peer: Peer,
    /// What may still be sent, of each stream that credit came for.
    credit: HashMap<u32, u64>,
    /// Parts of a frame that said several things.
    parts: VecDeque<Frame>,
    /// The stream that all is about, if there is but one.
    only: Option<u32>,
}

impl Session {
    /// A session whose lines have been said.
    pub fn new(peer: Peer) -> Self {
        Self { peer, credit: HashMap::new(), parts: VecDeque::new(), only: None }
    }

    /// From now on [`next`](Self::next) passes over other streams: users come who were not asked for.
    pub fn only(&mut self, stream: u32) {
        self.only = Some(stream);
    }

    /// How many bytes may still be sent on the stream, as far as frames have been read.
    pub fn credit(&self, stream: u32) -> u64 {
        self.credit.get(&stream).copied().unwrap_or(INITIAL_WINDOW.into())
    }

    /// Sends a frame without payload.
    ///
    /// # Errors
    /// As of [`Peer::send`].
    pub async fn send(&self, kind: Kind, flags: Flags, stream: u32, length: u32) -> Verdict {
        self.peer.send(Header { kind, flags, stream, length }.encode()).await
    }

    /// Sends payload in one frame, whatever the window.
    ///
    /// # Errors
    /// As of [`Peer::send`].
    pub async fn data(&self, stream: u32, bytes: impl AsRef<[u8]>) -> Verdict {
        self.peer.send(data(Flags::NONE, stream, bytes.as_ref())).await
    }

    /// Sends payload within the window, as credit comes..
    ///
    /// # Errors
    /// No credit comes, or something else does.
    pub async fn data_within_window(&mut self, stream: u32, bytes: &[u8]) -> Verdict {
        /// Frames are as large as that.
        const PIECE: u64 = 64 * 1024;
        let mut rest = bytes;
        while !rest.is_empty() {
            let credit = self.credit.entry(stream).or_insert(u64::from(INITIAL_WINDOW));
            let length = usize::try_from((*credit).min(PIECE)).unwrap_or_default().min(rest.len());
            *credit -= length as u64;
            if length == 0 {
                let Frame { header, .. } = self.any().await?;
                let is_credit = header.kind == Kind::WindowUpdate && header.flags == Flags::NONE;
                if !is_credit && header.kind != Kind::Ping {
                    return Err(self.peer.seen(format_args!("{header:?} instead of credit")));
                }
                continue;
            }
            let (piece, after) = rest.split_at(length);
            self.data(stream, piece).await?;
            rest = after;
        }
        Ok(())
    }

    /// The next frame, with credit counted and pings answered. One that carries flags and payload is told as several,
    /// in the order of what they mean.
    ///
    /// # Errors
    /// None comes, or none of yamux.
    pub async fn any(&mut self) -> Verdict<Frame> {
        if let Some(part) = self.parts.pop_front() {
            return Ok(part);
        }
        let bytes: [u8; HEADER_LEN] = self.peer.exactly(HEADER_LEN).await?.try_into().unwrap_or_default();
        let header = Header::decode(bytes).map_err(|error| self.peer.seen(format_args!("no frame: {error:?}")))?;
        let mut body = Vec::new();
        match header.kind {
            Kind::Data if header.length > MAX_PAYLOAD => {
                return Err(self.peer.seen(format_args!("a frame of {} bytes", header.length)));
            }
            Kind::Data => body = self.peer.exactly(header.length as usize).await?,
            Kind::WindowUpdate => {
                let credit = self.credit.entry(header.stream).or_insert(u64::from(INITIAL_WINDOW));
                *credit = credit.saturating_add(header.length.into());
            }
            Kind::Ping if header.flags.has(Flags::SYN) => self.send(Kind::Ping, Flags::ACK, 0, header.length).await?,
            Kind::Ping | Kind::GoAway => {}
        }
        if body.is_empty() || header.flags == Flags::NONE {
            return Ok(Frame { header, body });
        }
        let bare = |flags| Frame { header: Header { flags, length: 0, ..header }, body: Vec::new() };
        let before = [Flags::SYN, Flags::ACK].into_iter().filter(|&flag| header.flags.has(flag)).map(bare);
        self.parts.extend(before);
        self.parts.push_back(Frame { header: Header { flags: Flags::NONE, ..header }, body });
        let after = [Flags::FIN, Flags::RST].into_iter().filter(|&flag| header.flags.has(flag)).map(bare);
        self.parts.extend(after);
        Ok(self.parts.pop_front().unwrap_or(Frame { header, body: Vec::new() }))
    }

    /// The next frame that says more than credit or a ping does.
    ///
    /// # Errors
    /// As of [`any`](Self::any).
    pub async fn next(&mut self) -> Verdict<Frame> {
        loop {
            let frame = self.any().await?;
            let Header { kind, flags, stream, .. } = frame.header;
            match kind {
                Kind::Data | Kind::WindowUpdate if flags == Flags::NONE && frame.body.is_empty() => {}
                Kind::Ping if flags.has(Flags::SYN) => {}
                Kind::Data | Kind::WindowUpdate if self.only.is_some_and(|only| only != stream) => {}
                _ => return Ok(frame),
            }
        }
    }

    /// These bytes come next on the stream, in frames of any length.
    ///
    /// # Errors
    /// Something else does.
    pub async fn expect(&mut self, stream: u32, bytes: impl AsRef<[u8]>) -> Verdict {
        let mut rest = bytes.as_ref();
        while !rest.is_empty() {
            let Frame { header, body } = self.next().await?;
            let is_data = header.kind == Kind::Data && header.stream == stream && header.flags == Flags::NONE;
            match rest.strip_prefix(&body[..]).filter(|_| is_data) {
                Some(after) => rest = after,
                None => return Err(self.peer.seen(format_args!("{header:?} instead of {} bytes", rest.len()))),
            }
        }
        Ok(())
    }

    /// A flag comes next on the stream; payload that comes with it is none.
    ///
    /// # Errors
    /// Something else does.
    pub async fn flag(&mut self, stream: u32, flag: Flags) -> Verdict {
        let Frame { header, body } = self.next().await?;
        if header.stream == stream && header.flags.has(flag) && body.is_empty() {
            return Ok(());
        }
        Err(self.peer.seen(format_args!("{header:?} instead of {flag:?} of stream {stream}")))
    }
}

/// A Data frame.
pub fn data(flags: Flags, stream: u32, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut frame = Header { kind: Kind::Data, flags, stream, length }.encode().to_vec();
    frame.extend_from_slice(bytes);
    frame
}
