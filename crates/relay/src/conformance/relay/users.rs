//! What users and services notice, in each of the protocols.

use std::collections::HashMap;
use std::time::Duration;

use relay_proto::yamux::{Flags, Kind};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio::try_join;

use super::Relay;
use super::tunnel::{PROTOCOLS, Protocol, Service, accept, of};
use crate::conformance::peer::{End, Peer, within};
use crate::conformance::{Seen, Verdict};

/// Users at once: fewer than the 128 that may wait for a client, by docs/PROTOCOL.md.
const MANY: usize = 100;

/// What goes each way where all bytes are compared: four times the first window.
const BULK: usize = 1024 * 1024;

pub(super) async fn user_ends_first(relay: &Relay) -> Verdict {
    for protocol in PROTOCOLS {
        let ends = async {
            let mut pair = relay.pair(protocol).await?;
            pair.user.finish().await?;
            pair.service.ends(End::Clean).await?;
            pair.service.send("the reply").await?;
            pair.service.finish().await?;
            pair.user.expect("the reply").await?;
            pair.user.ends(End::Clean).await
        };
        ends.await.map_err(of(protocol))?;
    }
    Ok(())
}

pub(super) async fn service_ends_first(relay: &Relay) -> Verdict {
    for protocol in PROTOCOLS {
        let ends = async {
            let mut pair = relay.pair(protocol).await?;
            pair.service.finish().await?;
            pair.user.ends(End::Clean).await?;
            pair.user.send("more").await?;
            pair.service.expect("more").await?;
            pair.user.finish().await?;
            pair.service.ends(End::Clean).await
        };
        ends.await.map_err(of(protocol))?;
    }
    Ok(())
}

pub(super) async fn user_resets(relay: &Relay) -> Verdict {
    for protocol in PROTOCOLS {
        let mut pair = relay.pair(protocol).await?;
        pair.user.abort();
        pair.service.ends(End::Reset).await.map_err(of(protocol))?;
    }
    Ok(())
}

pub(super) async fn client_resets(relay: &Relay) -> Verdict {
    for protocol in PROTOCOLS {
        let mut pair = relay.pair(protocol).await?;
        let link = pair.service.abort().await?;
        pair.user.ends(End::Reset).await.map_err(of(protocol))?;
        if let Some(mut session) = link {
            let _next = relay.user(pair.port).await?;
            accept(&mut session).await.map_err(|seen| seen.at("a stream after one was reset"))?;
        }
    }
    Ok(())
}

pub(super) async fn intact(relay: &Relay) -> Verdict {
    let (up, down) = (pattern(1), pattern(2));
    for protocol in PROTOCOLS {
        let both = async {
            let mut pair = relay.pair(protocol).await?;
            try_join!(pair.user.send(&up), receive(&mut pair.service, &up))?;
            try_join!(pair.service.send(&down), pair.user.expect(&down))?;
            Ok(())
        };
        both.await.map_err(of(protocol))?;
    }
    Ok(())
}

/// Takes bytes, and gives credit for them as they come.
async fn receive(service: &mut Service, wanted: &[u8]) -> Verdict {
    let (session, stream) = match service {
        Service::Connection(peer, _) => return peer.expect(wanted).await,
        Service::Stream(session, stream) => (session, *stream),
    };
    let mut rest = wanted;
    while !rest.is_empty() {
        let frame = session.next().await?;
        rest = rest
            .strip_prefix(&frame.body[..])
            .filter(|_| frame.header.stream == stream)
            .ok_or_else(|| session.peer.seen(format_args!("another byte within {} of the rest", frame.body.len())))?;
        session.send(Kind::WindowUpdate, Flags::NONE, stream, frame.header.length).await?;
    }
    Ok(())
}

pub(super) async fn service_speaks_first(relay: &Relay) -> Verdict {
    let (mut session, port) = relay.multiplex("").await?;
    let mut user = relay.user(port).await?;
    let stream = accept(&mut session).await?;
    session.data(stream, "welcome").await?;
    user.expect("welcome").await.map_err(of(Protocol::Multiplex))?;

    let (member, port, _) = relay.pool("").await?;
    member.send("welcome").await?;
    relay.user(port).await?.expect("welcome").await.map_err(of(Protocol::Pool))?;

    let (mut control, port) = relay.event("").await?;
    let mut user = relay.user(port).await?;
    let claim = relay.claim(&control.line().await?).await?;
    claim.send("welcome").await?;
    user.expect("welcome").await.map_err(of(Protocol::Event))
}

pub(super) async fn many(relay: &Relay) -> Verdict {
    let (mut session, port) = relay.multiplex("").await?;
    let mut users = crowd(relay, port).await?;
    let mut heard: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut answered = 0;
    while answered < MANY {
        let frame = session.next().await.map_err(of(Protocol::Multiplex))?;
        let stream = frame.header.stream;
        if frame.has(Flags::SYN) {
            session.send(Kind::WindowUpdate, Flags::ACK, stream, 0).await?;
        }
        let words = heard.entry(stream).or_default();
        words.extend_from_slice(&frame.body);
        if words.len() == WORD && !frame.body.is_empty() {
            session.data(stream, &*words).await?;
            answered += 1;
        }
    }
    are_answered(&mut users).await.map_err(of(Protocol::Multiplex))?;

    let (first, port, name) = relay.pool("").await?;
    let mut members = vec![first];
    while members.len() < MANY {
        members.push(relay.join(&name).await?);
    }
    let mut users = crowd(relay, port).await?;
    for member in &mut members {
        answer(member).await.map_err(of(Protocol::Pool))?;
    }
    are_answered(&mut users).await.map_err(of(Protocol::Pool))?;

    let (mut control, port) = relay.event("").await?;
    let mut users = crowd(relay, port).await?;
    let mut claims = Vec::new();
    for _ in 0..MANY {
        let mut claim = relay.claim(&control.line().await?).await?;
        answer(&mut claim).await.map_err(of(Protocol::Event))?;
        claims.push(claim);
    }
    are_answered(&mut users).await.map_err(of(Protocol::Event))
}

/// What each of many users says, in bytes.
const WORD: usize = 8;

/// Many users, each of whom has said its number.
async fn crowd(relay: &Relay, port: u16) -> Verdict<Vec<Peer>> {
    let mut users = Vec::new();
    for number in 0..MANY {
        let user = relay.user(port).await?;
        user.send(format!("{number:0WORD$}")).await?;
        users.push(user);
    }
    Ok(users)
}

/// Sends back what one user says.
async fn answer(service: &mut Peer) -> Verdict {
    let word = service.exactly(WORD).await?;
    service.send(word).await
}

async fn are_answered(users: &mut [Peer]) -> Verdict {
    for (number, user) in users.iter_mut().enumerate() {
        user.expect(format!("{number:0WORD$}")).await?;
    }
    Ok(())
}

pub(super) async fn port_is_freed(relay: &Relay) -> Verdict {
    for protocol in [Protocol::Multiplex, Protocol::Event] {
        let port = match protocol {
            Protocol::Event => relay.event("").await?.1,
            _ => relay.multiplex("").await?.1,
        };
        freed(relay, port).await.map_err(of(protocol))?;
    }
    Ok(())
}

pub(super) async fn lost_link(relay: &Relay) -> Verdict {
    let mut pair = relay.pair(Protocol::Multiplex).await?;
    drop(pair.service);
    pair.user.ends(End::Reset).await
}

/// Waits until nobody listens on the port any more.
pub(super) async fn freed(relay: &Relay, port: u16) -> Verdict {
    /// Between two looks.
    const LOOK_AGAIN: Duration = Duration::from_millis(20);
    let refused = async {
        while TcpStream::connect((relay.at.ip(), port)).await.is_ok() {
            sleep(LOOK_AGAIN).await;
        }
    };
    within("the port", refused).await.map_err(|_| Seen::from(format!("port {port} still takes users")))
}

/// Bytes that do not repeat within what the relay may lose, double or move.
fn pattern(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15); // xorshift
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(BULK / 8).flatten().collect()
}
