//! The lines at the start of every connection.

use relay_proto::yamux::{Flags, Header, Kind};
use tokio::time::timeout;

use super::Relay;
use super::tunnel::{Protocol, accept, of};
use crate::conformance::peer::PATIENCE;
use crate::conformance::session::Session;
use crate::conformance::{Seen, Verdict};

pub(super) async fn blanks(relay: &Relay) -> Verdict {
    for request in [" multiplex\r\n", "\tmultiplex \t\n", "pool\r\nnew\r\n", " event \n\t new \r\n"] {
        relay.ask("the client", request).await.map_err(|seen| seen.at(format_args!("{request:?}")))?;
    }
    Ok(())
}

pub(super) async fn cut(relay: &Relay) -> Verdict {
    let at = |what: &'static str, place| move |seen: Seen| seen.at(format_args!("{what}, cut at byte {place}"));
    for request in ["multiplex\n", "pool\nnew\n", "event\nnew\n"] {
        for place in 1..request.len() {
            relay.ask_cut("the client", request, place).await.map_err(at(request.trim_end(), place))?;
        }
    }
    let (mut first, port, pool) = relay.pool("").await?;
    // The first member is its user's, so that each that joins is the only one.
    let first_user = relay.user(port).await?;
    first_user.send("first").await?;
    first.expect("first").await?;
    let join = format!("pool\n{pool}\n");
    for place in 1..join.len() {
        let mut member = relay.dial("the member").await?;
        member.send_cut(join.as_bytes(), place).await?;
        let user = relay.user(port).await?;
        user.send("question").await?;
        member.expect("question").await.map_err(at("a join", place))?;
    }
    let (mut control, port) = relay.event("").await?;
    let mut place = 1;
    loop {
        let user = relay.user(port).await?;
        let claim = format!("event\n{}\n", control.line().await?);
        let mut service = relay.dial("the claim").await?;
        service.send_cut(claim.as_bytes(), place).await?;
        user.send("question").await?;
        service.expect("question").await.map_err(at("a claim", place))?;
        place += 1;
        if place == claim.len() {
            return Ok(());
        }
    }
}

pub(super) async fn bytes_behind(relay: &Relay) -> Verdict {
    let asked = Header { kind: Kind::Ping, flags: Flags::SYN, stream: 0, length: 42 }.encode();
    let (link, _) = relay.ask("the link", [b"multiplex\n", &asked[..]].concat()).await?;
    let pong = Session::new(link).next().await.map_err(|seen| seen.at("a ping behind the request"))?;
    if pong.header.kind != Kind::Ping || pong.header.length != 42 {
        return Err(format!("{:?} instead of the answer to a ping behind the request", pong.header).into());
    }

    let (mut first, port, pool) = relay.pool("").await?;
    let first_user = relay.user(port).await?;
    first_user.send("first").await?;
    first.expect("first").await?;
    let member = relay.dial("the member").await?;
    member.send(format!("pool\n{pool}\nwelcome")).await?;
    relay.user(port).await?.expect("welcome").await.map_err(|seen| seen.at("bytes behind a join"))?;

    let (mut control, port) = relay.event("").await?;
    let mut user = relay.user(port).await?;
    let claim = relay.dial("the claim").await?;
    claim.send(format!("event\n{}\nwelcome", control.line().await?)).await?;
    user.expect("welcome").await.map_err(|seen| seen.at("bytes behind a claim"))
}

pub(super) async fn wrong_lines(relay: &Relay) -> Verdict {
    let wrong =
        ["bogus\n", "MULTIPLEX\n", "\n", "pool\n\n", "event\nno such id\n", "multiplex extra\n", "\u{1}\u{2}\n"];
    for line in wrong {
        let mut peer = relay.dial("the client").await?;
        peer.send(line).await?;
        peer.end().await.map_err(|seen| seen.at(format_args!("after {line:?}")))?;
    }
    lives(relay).await
}

pub(super) async fn endless_line(relay: &Relay) -> Verdict {
    let mut peer = relay.dial("the client").await?;
    // It may be closed before all has left.
    let _ = timeout(PATIENCE, peer.socket().write_all(&vec![b'a'; 64 * 1024])).await;
    peer.end().await?;
    lives(relay).await
}

pub(super) async fn silence(relay: &Relay) -> Verdict {
    let mut silent = relay.dial("a silent client").await?;
    let mut slow = relay.dial("a client in the middle of a line").await?;
    slow.send("multi").await?;
    silent.end().await?;
    slow.end().await?;
    Ok(())
}

pub(super) async fn connect_and_close(relay: &Relay) -> Verdict {
    let mut pair = relay.pair(Protocol::Event).await?;
    drop(relay.dial("a port scan").await?);
    relay.dial("a port scan").await?.abort();
    let half = relay.dial("a client that gives up").await?;
    half.send("pool\nne").await?;
    drop(half);
    pair.chat().await.map_err(|seen| seen.at("a tunnel of before"))?;
    lives(relay).await
}

/// The relay still does its work.
async fn lives(relay: &Relay) -> Verdict {
    let (mut session, port) = relay.multiplex("").await.map_err(|seen| seen.at("afterwards"))?;
    let _user = relay.user(port).await?;
    accept(&mut session).await.map(drop).map_err(of(Protocol::Multiplex))
}
