//! The multiplexer, by frames made by hand.

use relay_proto::yamux::{Flags, Header, INITIAL_WINDOW, Kind};
use tokio::time::timeout;

use super::Relay;
use super::tunnel::{Pair, Protocol, Service, accept};
use super::users::freed;
use crate::conformance::Verdict;
use crate::conformance::peer::{End, Peer, QUIET};
use crate::conformance::session::{Session, data};

/// Some stream that nobody has opened.
const UNKNOWN: u32 = 77;

/// A link with one user, who has spoken with the service.
struct Linked {
    session: Session,
    stream: u32,
    user: Peer,
    port: u16,
}

impl Linked {
    async fn new(relay: &Relay) -> Verdict<Self> {
        let Pair { user, service, port } = relay.pair(Protocol::Multiplex).await?;
        match service {
            Service::Stream(session, stream) => Ok(Self { session, stream, user, port }),
            Service::Connection(..) => Err("multiplex without a stream".into()),
        }
    }

    async fn chat(&mut self) -> Verdict {
        self.user.send("question").await?;
        self.session.expect(self.stream, "question").await?;
        self.session.data(self.stream, "answer").await?;
        self.user.expect("answer").await
    }

    /// One more user, who is served.
    async fn next_user(&mut self, relay: &Relay) -> Verdict {
        let mut user = relay.user(self.port).await?;
        let stream = accept(&mut self.session).await?;
        self.session.data(stream, "welcome").await?;
        user.expect("welcome").await
    }
}

pub(super) async fn ids(relay: &Relay) -> Verdict {
    let (mut session, port) = relay.multiplex("").await?;
    let mut users = Vec::new();
    let mut before = 0;
    for _ in 0..3 {
        users.push(relay.user(port).await?);
        let stream = accept(&mut session).await?;
        if stream % 2 == 0 || stream <= before {
            return Err(format!("stream {stream} behind stream {before}").into());
        }
        before = stream;
    }
    Ok(())
}

pub(super) async fn window(relay: &Relay) -> Verdict {
    /// More than any relay may send before it is granted more.
    const SENT: usize = 2 * INITIAL_WINDOW as usize;
    const MORE: u32 = 1000;
    let (mut session, port) = relay.multiplex("").await?;
    let user = relay.user(port).await?;
    let stream = accept(&mut session).await?;
    let bytes = vec![b'w'; SENT];
    let mut windows = async || {
        takes(&mut session, stream, INITIAL_WINDOW).await?;
        session.send(Kind::WindowUpdate, Flags::NONE, stream, MORE).await?;
        takes(&mut session, stream, MORE).await
    };
    tokio::select! {
        kept = windows() => kept,
        // The kernel may take all of it.
        Err(seen) = user.send(&bytes) => Err(seen),
    }
}

/// So many bytes come on the stream, and then no more.
async fn takes(session: &mut Session, stream: u32, window: u32) -> Verdict {
    let mut taken = 0;
    while taken < window {
        let frame = session.next().await.map_err(|seen| seen.at(format_args!("{taken} of {window} bytes")))?;
        if frame.header.kind != Kind::Data || frame.header.stream != stream {
            return Err(session.peer.seen(format_args!("{:?} instead of data", frame.header)));
        }
        taken = taken.saturating_add(frame.header.length);
    }
    match timeout(QUIET, session.next()).await {
        Err(_) if taken == window => Ok(()),
        Err(_) => Err(format!("{taken} bytes where {window} were granted").into()),
        Ok(more) => Err(format!("{:?} behind the {window} bytes that were granted", more?.header).into()),
    }
}

pub(super) async fn pings(relay: &Relay) -> Verdict {
    let mut link = Linked::new(relay).await?;
    for value in [1, u32::MAX, 0] {
        ping(&mut link.session, value, HEADER).await?;
    }
    link.chat().await
}

/// Where to cut a frame that is sent whole.
const HEADER: usize = 12;

/// A ping, cut at a byte, is answered next.
async fn ping(session: &mut Session, value: u32, cut: usize) -> Verdict {
    let asked = Header { kind: Kind::Ping, flags: Flags::SYN, stream: 0, length: value };
    session.peer.send_cut(&asked.encode(), cut).await?;
    let pong = session.next().await?.header;
    if pong == (Header { flags: Flags::ACK, ..asked }) {
        return Ok(());
    }
    Err(session.peer.seen(format_args!("{pong:?} instead of the answer to ping {value}")))
}

pub(super) async fn slow_user(relay: &Relay) -> Verdict {
    /// Sooner or later the user's kernel is full, or the relay buffers without an end.
    const AT_MOST: usize = 64 * 1024 * 1024;
    const PIECE: usize = 64 * 1024;
    let mut link = Linked::new(relay).await?;
    let mut other = relay.user(link.port).await?;
    let stream = accept(&mut link.session).await?;
    let mut sent = 0;
    while sent < AT_MOST {
        while link.session.credit(link.stream) < PIECE as u64 {
            let Ok(frame) = timeout(QUIET, link.session.any()).await else { break };
            frame?;
        }
        if link.session.credit(link.stream) < PIECE as u64 {
            break;
        }
        link.session.data_within_window(link.stream, &vec![b's'; PIECE]).await?;
        sent += PIECE;
    }
    if sent >= AT_MOST {
        return Err(format!("credit for {sent} bytes that the user has not taken").into());
    }
    other.send("question").await?;
    link.session.expect(stream, "question").await?;
    link.session.data(stream, "answer").await?;
    other.expect("answer").await.map_err(|seen| seen.at("beside one that does not read"))?;
    link.user.expect(vec![b's'; sent]).await
}

pub(super) async fn unknown_streams(relay: &Relay) -> Verdict {
    let mut link = Linked::new(relay).await?;
    link.session.data(UNKNOWN, "nobody").await?;
    link.session.send(Kind::WindowUpdate, Flags::NONE, UNKNOWN, 1000).await?;
    for flags in [Flags::ACK, Flags::FIN, Flags::RST] {
        link.session.send(Kind::WindowUpdate, flags, UNKNOWN, 0).await?;
    }
    link.chat().await?;
    link.next_user(relay).await
}

pub(super) async fn said_twice(relay: &Relay) -> Verdict {
    let mut link = Linked::new(relay).await?;
    link.session.send(Kind::WindowUpdate, Flags::ACK, link.stream, 0).await?;
    link.chat().await.map_err(|seen| seen.at("after a second ACK"))?;
    for _ in 0..2 {
        link.session.send(Kind::WindowUpdate, Flags::FIN, link.stream, 0).await?;
    }
    link.user.ends(End::Clean).await?;
    link.user.send("more").await?;
    link.session.expect(link.stream, "more").await.map_err(|seen| seen.at("after a second FIN"))?;
    link.next_user(relay).await
}

pub(super) async fn go_away(relay: &Relay) -> Verdict {
    let mut link = Linked::new(relay).await?;
    link.session.send(Kind::GoAway, Flags::NONE, 0, 0).await?;
    // To look whether the port is free is to come as a user.
    link.session.only(link.stream);
    freed(relay, link.port).await?;
    link.chat().await?;
    link.user.finish().await?;
    link.session.flag(link.stream, Flags::FIN).await?;
    link.session.send(Kind::WindowUpdate, Flags::FIN, link.stream, 0).await?;
    link.user.ends(End::Clean).await
}

pub(super) async fn breaches(relay: &Relay) -> Verdict {
    let mut neighbour = Linked::new(relay).await?;
    let header = |kind, flags, stream, length| Header { kind, flags, stream, length }.encode();
    let mut version = header(Kind::Data, Flags::NONE, 1, 0);
    version[0] = 1;
    let mut kind = version;
    kind[..2].copy_from_slice(&[0, 9]);
    let breaches = [
        ("another version", version),
        ("an unknown type", kind),
        ("data for stream 0", header(Kind::Data, Flags::NONE, 0, 0)),
        ("more data than was granted", header(Kind::Data, Flags::NONE, 1, 64 * INITIAL_WINDOW)),
        ("a stream opened twice", header(Kind::WindowUpdate, Flags::SYN, 1, 0)),
        ("GoAway 1", header(Kind::GoAway, Flags::NONE, 0, 1)),
    ];
    for (what, frame) in breaches {
        let ended = async {
            let mut link = Linked::new(relay).await?;
            link.session.peer.send(frame).await?;
            link.user.ends(End::Reset).await?;
            freed(relay, link.port).await?;
            neighbour.chat().await.map_err(|seen| seen.at("another session"))
        };
        ended.await.map_err(|seen| seen.at(what))?;
    }
    Ok(())
}

pub(super) async fn client_opens(relay: &Relay) -> Verdict {
    let mut link = Linked::new(relay).await?;
    link.session.send(Kind::WindowUpdate, Flags::SYN, 2, 0).await?;
    link.session.flag(2, Flags::RST).await?;
    link.chat().await
}

pub(super) async fn cut(relay: &Relay) -> Verdict {
    let mut link = Linked::new(relay).await?;
    for (value, place) in (1..).zip(1..HEADER) {
        ping(&mut link.session, value, place).await.map_err(|seen| seen.at(format_args!("cut at byte {place}")))?;
    }
    let frame = data(Flags::NONE, link.stream, b"answer");
    for place in 1..frame.len() {
        link.session.peer.send_cut(&frame, place).await?;
        link.user.expect("answer").await.map_err(|seen| seen.at(format_args!("data cut at byte {place}")))?;
    }
    // And the opposite: several in one segment.
    let ack = Header { kind: Kind::WindowUpdate, flags: Flags::ACK, stream: link.stream, length: 0 };
    link.session.peer.send([&frame[..], &ack.encode(), &frame].concat()).await?;
    link.user.expect("answeranswer").await.map_err(|seen| seen.at("three frames at once"))
}

pub(super) async fn ping_flood(relay: &Relay) -> Verdict {
    flood(relay, |value| Header { kind: Kind::Ping, flags: Flags::SYN, stream: 0, length: value }).await
}

pub(super) async fn syn_flood(relay: &Relay) -> Verdict {
    flood(relay, |number| Header { kind: Kind::WindowUpdate, flags: Flags::SYN, stream: 2 * number, length: 0 }).await
}

/// A client that sends many frames, and reads nothing meanwhile, harms nobody else, whatever becomes of it.
async fn flood(relay: &Relay, frame: impl Fn(u32) -> Header) -> Verdict {
    /// Far more than what a relay should keep for a client.
    const FRAMES: u32 = 100_000;
    let mut neighbour = Linked::new(relay).await?;
    let mut flooding = Linked::new(relay).await?;
    let frames: Vec<u8> = (1..=FRAMES).flat_map(|number| frame(number).encode()).collect();
    // The relay may end the link, or read no more of it.
    for piece in frames.chunks(64 * 1024) {
        if !matches!(timeout(QUIET, flooding.session.peer.socket().write_all(piece)).await, Ok(Ok(()))) {
            break;
        }
    }
    // What it has to say to that has been said when it is quiet.
    while matches!(timeout(QUIET, flooding.session.any()).await, Ok(Ok(_))) {}
    neighbour.chat().await.map_err(|seen| seen.at("another session"))?;
    drop(flooding);
    Linked::new(relay).await.map(drop).map_err(|seen| seen.at("a new tunnel"))
}
