//! Multiplex tunnels, met by a forwarder that writes its frames by hand.

use relay::Limits;

use crate::support::{PATIENCE, Peer, Relay, SHORT, freed, user, within};

pub(crate) const DATA: u8 = 0;
pub(crate) const WINDOW: u8 = 1;
pub(crate) const PING: u8 = 2;
pub(crate) const GO_AWAY: u8 = 3;

pub(crate) const SYN: u16 = 1;
pub(crate) const ACK: u16 = 2;
pub(crate) const FIN: u16 = 4;
pub(crate) const RST: u16 = 8;

/// A forwarder's end of a link.
pub(crate) struct Forwarder {
    pub(crate) link: Peer,
    pub(crate) port: u16,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u16,
    pub(crate) stream: u32,
    pub(crate) length: u32,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn frame(kind: u8, flags: u16, stream: u32, length: u32) -> Vec<u8> {
    let mut bytes = vec![0, kind];
    bytes.extend(flags.to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

impl Forwarder {
    pub(crate) async fn start(relay: &Relay) -> Self {
        Self::saying(relay, b"").await
    }

    /// With bytes in the segment of the request.
    async fn saying(relay: &Relay, early: &[u8]) -> Self {
        let mut link = relay.say([b"multiplex\n", early].concat()).await;
        let port = link.line().await.parse().unwrap();
        Self { link, port }
    }

    pub(crate) async fn send(&mut self, kind: u8, flags: u16, stream: u32, length: u32) {
        self.link.send(frame(kind, flags, stream, length)).await;
    }

    /// The next frame that is not a window update without a flag; pings are answered.
    pub(crate) async fn next(&mut self) -> Frame {
        loop {
            let header = self.link.exactly(12).await;
            let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
            assert_eq!(header[0], 0, "the version");
            let mut frame = Frame {
                kind: header[1],
                flags: u16::from_be_bytes([header[2], header[3]]),
                stream: word(4),
                length: word(8),
                body: Vec::new(),
            };
            if frame.kind == DATA {
                frame.body = self.link.exactly(frame.length as usize).await;
            }
            match (frame.kind, frame.flags) {
                (WINDOW, 0) => {}
                (PING, SYN) => self.send(PING, ACK, 0, frame.length).await,
                _ => return frame,
            }
        }
    }

    /// The stream of the next user, acknowledged.
    pub(crate) async fn accept(&mut self) -> Stream {
        let id = self.opened().await;
        self.send(WINDOW, ACK, id, 0).await;
        Stream { id }
    }

    /// The stream of the next user.
    async fn opened(&mut self) -> u32 {
        let frame = self.next().await;
        assert!(frame.flags & SYN != 0 && frame.kind == WINDOW, "{frame:?}");
        frame.stream
    }

    /// As many users as there may be without an ACK, and their streams.
    async fn fill(&mut self) -> (Vec<Peer>, Vec<u32>) {
        let (mut users, mut ids) = (Vec::new(), Vec::new());
        for _ in 0..256 {
            users.push(user(self.port).await);
            ids.push(self.opened().await);
        }
        (users, ids)
    }

    /// The relay ends the link, with or without a word before.
    pub(crate) async fn ended(&mut self) {
        use tokio::io::AsyncReadExt;
        let mut rest = Vec::new();
        let _ = within("the link ends", self.link.0.read_to_end(&mut rest)).await;
    }
}

/// A user's stream at the forwarder.
pub(crate) struct Stream {
    pub(crate) id: u32,
}

impl Stream {
    pub(crate) async fn expect(&mut self, link: &mut Forwarder, bytes: &str) {
        let mut got = Vec::new();
        while got.len() < bytes.len() {
            let frame = link.next().await;
            assert_eq!((frame.kind, frame.flags, frame.stream), (DATA, 0, self.id), "{frame:?}");
            got.extend(frame.body);
        }
        assert_eq!(got, bytes.as_bytes());
    }

    async fn send(&mut self, link: &mut Forwarder, bytes: &str) {
        let mut data = frame(DATA, 0, self.id, u32::try_from(bytes.len()).unwrap());
        data.extend_from_slice(bytes.as_bytes());
        link.link.send(data).await;
    }

    pub(crate) async fn chat(&mut self, link: &mut Forwarder, user: &mut Peer) {
        user.send("question").await;
        self.expect(link, "question").await;
        self.send(link, "answer").await;
        user.expect("answer").await;
    }

    /// The next frame of the stream that carries a flag.
    async fn flags(&mut self, link: &mut Forwarder) -> u16 {
        let frame = link.next().await;
        assert_eq!(frame.stream, self.id);
        frame.flags
    }
}

#[tokio::test]
async fn each_user_is_a_stream() {
    let relay = Relay::start(Limits::default()).await;
    let mut link = Forwarder::start(&relay).await;
    for expected in [1, 3, 5] {
        let mut user = user(link.port).await;
        // SYN comes before the user has said anything.
        let mut stream = link.accept().await;
        assert_eq!(stream.id, expected);
        stream.chat(&mut link, &mut user).await;
        user.finish().await;
        assert_eq!(stream.flags(&mut link).await, FIN);
        stream.send(&mut link, "the rest").await;
        link.send(WINDOW, FIN, stream.id, 0).await;
        user.expect("the rest").await;
        user.eof().await;
    }
}

#[tokio::test]
async fn frames_may_follow_the_request_in_its_segment() {
    let relay = Relay::start(Limits::default()).await;
    let mut link = Forwarder::saying(&relay, &frame(PING, SYN, 0, 42)).await;
    assert_eq!(link.next().await, Frame { kind: PING, flags: ACK, stream: 0, length: 42, body: Vec::new() });
    let mut user = user(link.port).await;
    link.accept().await.chat(&mut link, &mut user).await;
}

#[tokio::test]
async fn resets_go_both_ways() {
    let relay = Relay::start(Limits::default()).await;
    let mut link = Forwarder::start(&relay).await;
    let mut first = user(link.port).await;
    let stream = link.accept().await;
    link.send(WINDOW, RST, stream.id, 0).await;
    first.was_reset().await;
    let mut second = user(link.port).await;
    let mut stream = link.accept().await;
    stream.chat(&mut link, &mut second).await;
    second.abort();
    assert_eq!(stream.flags(&mut link).await, RST);
}

#[tokio::test]
async fn a_user_waits_for_a_stream_only_so_long() {
    let relay = Relay::start(Limits { stream_wait: SHORT, ..Limits::default() }).await;
    let mut link = Forwarder::start(&relay).await;
    let (_users, ids) = link.fill().await;
    user(link.port).await.was_reset().await;
    // One ACK makes room for one more.
    let mut next = user(link.port).await;
    link.send(WINDOW, ACK, ids[0], 0).await;
    let mut stream = link.accept().await;
    stream.chat(&mut link, &mut next).await;
}

#[tokio::test]
async fn users_beyond_the_bound_crowd_out_the_oldest() {
    let relay = Relay::start(Limits { waiting_users: 1, waiting_grace: SHORT, ..Limits::default() }).await;
    let mut link = Forwarder::start(&relay).await;
    let (_users, ids) = link.fill().await;
    let mut oldest = user(link.port).await;
    let mut newest = user(link.port).await;
    oldest.was_reset().await;
    link.send(WINDOW, ACK, ids[7], 0).await;
    link.accept().await.chat(&mut link, &mut newest).await;
}

#[tokio::test]
async fn a_burst_of_users_is_served_whatever_the_bound() {
    const USERS: usize = 50;
    let relay = Relay::start(Limits { waiting_users: 2, waiting_grace: PATIENCE, ..Limits::default() }).await;
    let mut link = Forwarder::start(&relay).await;
    let (_users, ids) = link.fill().await;
    let mut burst = Vec::new();
    for _ in 0..USERS {
        burst.push(user(link.port).await);
    }
    for (id, user) in ids.into_iter().zip(&mut burst) {
        link.send(WINDOW, ACK, id, 0).await;
        // Without its ACK, so that there is room for only one at a time.
        let mut stream = Stream { id: link.opened().await };
        stream.chat(&mut link, user).await;
    }
}

#[tokio::test]
async fn after_go_away_live_users_finish_and_the_port_is_free() {
    let relay = Relay::start(Limits::default()).await;
    let mut link = Forwarder::start(&relay).await;
    let mut user = user(link.port).await;
    let mut stream = link.accept().await;
    link.send(GO_AWAY, 0, 0, 0).await;
    freed(link.port).await;
    stream.chat(&mut link, &mut user).await;
    user.finish().await;
    assert_eq!(stream.flags(&mut link).await, FIN);
    link.send(WINDOW, FIN, stream.id, 0).await;
    user.eof().await;
    link.ended().await;
}

#[tokio::test]
async fn a_lost_link_resets_its_users_and_frees_its_port() {
    let relay = Relay::start(Limits::default()).await;
    for abort in [false, true] {
        let mut link = Forwarder::start(&relay).await;
        let mut user = user(link.port).await;
        link.accept().await.chat(&mut link, &mut user).await;
        let port = link.port;
        if abort {
            link.link.abort();
        } else {
            drop(link);
        }
        user.was_reset().await;
        freed(port).await;
    }
    relay.serves().await;
}

#[tokio::test]
async fn a_broken_link_ends_only_itself() {
    let relay = Relay::start(Limits::default()).await;
    let mut good = Forwarder::start(&relay).await;
    let mut served = user(good.port).await;
    let mut stream = good.accept().await;
    let version = [&[1][..], &frame(DATA, 0, 1, 0)[1..]].concat();
    let bad = [
        version,
        frame(9, 0, 1, 0),
        frame(GO_AWAY, 0, 0, 1),
        frame(GO_AWAY, 0, 0, 2),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ];
    for bytes in bad {
        let mut link = Forwarder::start(&relay).await;
        let mut user = user(link.port).await;
        link.accept().await.chat(&mut link, &mut user).await;
        link.link.send(bytes).await;
        user.was_reset().await;
        link.ended().await;
        freed(link.port).await;
        stream.chat(&mut good, &mut served).await;
    }
}

#[tokio::test]
async fn a_stream_toward_the_relay_is_refused() {
    let relay = Relay::start(Limits::default()).await;
    let mut link = Forwarder::start(&relay).await;
    let mut user = user(link.port).await;
    let mut stream = link.accept().await;
    link.send(WINDOW, SYN, 2, 0).await;
    let refused = link.next().await;
    assert_eq!((refused.flags, refused.stream), (RST, 2));
    stream.chat(&mut link, &mut user).await;
}
