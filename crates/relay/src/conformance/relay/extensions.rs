//! Beyond the original: the greeting, options and errors.

use super::tunnel::{Protocol, accept, of};
use super::users::freed;
use super::{INVITED, Relay};
use crate::conformance::peer::Peer;
use crate::conformance::session::Session;
use crate::conformance::{Seen, Subject, Verdict};

pub(super) async fn greeting(relay: &Relay) -> Verdict {
    let mut peer = relay.dial("the client").await?;
    peer.send(" relay/1\t\r\n").await?;
    let line = peer.line().await?;
    let is_word = |word: &str| word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    let mut words = line.split(' ');
    if words.next() != Some("relay/1") || !words.all(is_word) {
        return Err(peer.seen(format_args!("{line:?} instead of relay/1 and features")));
    }
    // The original's request may follow.
    let mut peer = relay.greeted("the client").await?;
    peer.send("event\nnew\n").await?;
    let port = peer.line().await?;
    port.parse::<u16>().map(drop).map_err(|_| peer.seen(format_args!("{port:?} instead of a port")))
}

pub(super) async fn errors(relay: &Relay) -> Verdict {
    for (lines, error) in [
        ("bogus\n", "error unsupported bogus"),
        ("multiplex udp=yes\n", "error unsupported udp"),
        ("multiplex port=0\n", "error bad-request"),
        ("pool wish=1 wish=1\n", "error bad-request"),
        ("event\n0123456789ABCDEF0123456789ABCDEF\n", "error gone"),
    ] {
        let mut peer = relay.greeted("the client").await?;
        peer.send(lines).await?;
        is_refused(&mut peer, error).await.map_err(|seen| seen.at(format_args!("after {lines:?}")))?;
    }
    Ok(())
}

/// An error comes, and then the close.
pub(super) async fn is_refused(peer: &mut Peer, error: &str) -> Verdict {
    let line = peer.line().await?;
    if line.strip_prefix(error).is_none_or(|words| !(words.is_empty() || words.starts_with(' '))) {
        return Err(peer.seen(format_args!("{line:?} instead of {error:?}")));
    }
    peer.end().await.map(drop)
}

pub(super) async fn port(relay: &Relay) -> Verdict {
    let port = free_port(relay).await?;
    let (mut link, got) = relay.multiplex(&format!(" port={port}")).await?;
    if got != port {
        return Err(format!("port {got} instead of port {port} that was demanded").into());
    }
    let mut second = relay.greeted("the client").await?;
    second.send(format!("event port={port}\nnew\n")).await?;
    beside(&mut link, is_refused(&mut second, "error port-taken")).await?;
    let mut third = relay.greeted("the client").await?;
    third.send(format!("multiplex port={}\n", relay.at.port())).await?;
    is_refused(&mut third, "error port-not-allowed").await.map_err(|seen| seen.at("the control port demanded"))
}

pub(super) async fn wish(relay: &Relay) -> Verdict {
    // Not the first one that is free, which whoever wishes for nothing gets.
    let (first, first_port) = relay.event("").await?;
    let (mut link, port) = relay.multiplex("").await?;
    let (second, other) = beside(&mut link, relay.event(&format!(" wish={port}"))).await?;
    if other == port {
        return Err(format!("port {port} for two tunnels").into());
    }
    drop((first, link, second));
    for port in [first_port, port, other] {
        freed(relay, port).await?;
    }
    let (_control, got) = relay.event(&format!(" wish={port}")).await?;
    if got == port { Ok(()) } else { Err(format!("port {got} instead of port {port}, which is free").into()) }
}

pub(super) async fn service(relay: &Relay) -> Verdict {
    let (first, first_port) = relay.event(" service=kit-1").await?;
    let (second, port) = relay.event(" service=kit-2").await?;
    drop((first, second));
    freed(relay, first_port).await?;
    freed(relay, port).await?;
    let (_control, got) = relay.event(" service=kit-2").await?;
    // Whoever has no identity is not known again.
    if relay.offers(INVITED) && got != port {
        return Err(format!("port {got} instead of port {port}, which the service had").into());
    }
    let mut peer = relay.greeted("the client").await?;
    peer.send("multiplex service=a:1\n").await?;
    is_refused(&mut peer, "error bad-request").await
}

pub(super) async fn allow(relay: &Relay) -> Verdict {
    // A network that nobody has (RFC 5737).
    let (mut session, port) = relay.multiplex(" allow=192.0.2.0/24").await?;
    // He may be reset before he knows that he was connected.
    if let Ok(mut user) = relay.user(port).await {
        user.end().await.map_err(|seen| seen.at("from a network that is not allowed"))?;
    }
    session.peer.quiet().await?;
    let (mut session, port) = relay.multiplex(" allow=192.0.2.0/24 allow=0.0.0.0/0 allow=::/0").await?;
    let _user = relay.user(port).await?;
    accept(&mut session).await.map(drop).map_err(of(Protocol::Multiplex))
}

/// A port that a tunnel had and this client may have again, and not the one that is given next.
pub(super) async fn free_port(relay: &Relay) -> Verdict<u16> {
    let ((first, before), (second, port)) = (relay.event("").await?, relay.event("").await?);
    drop((first, second));
    freed(relay, before).await?;
    freed(relay, port).await?;
    Ok(port)
}

/// Does something while a link shows that it lives.
async fn beside<T>(link: &mut Session, doing: impl Future<Output = Verdict<T>>) -> Verdict<T> {
    tokio::select! {
        done = doing => done,
        came = link.next() => Err(match came {
            Ok(frame) => Seen::from(format!("{:?} on an idle link", frame.header)),
            Err(seen) => seen,
        }),
    }
}
