//! Tickets and members: whose each is, and for how long.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Relay;
use super::tunnel::{Protocol, Service};
use super::users::freed;
use crate::conformance::Verdict;
use crate::conformance::peer::{End, QUIET};

/// Well before a ticket ends by itself, which is after 10 s.
const SOON: Duration = Duration::from_secs(5);

/// An id that no relay has given.
const NOBODYS: &str = "0123456789ABCDEF0123456789ABCDEF";

pub(super) async fn ticket_once(relay: &Relay) -> Verdict {
    let (mut control, port) = relay.event("").await?;
    let mut user = relay.user(port).await?;
    let ticket = control.line().await?;
    let mut claim = relay.claim(&ticket).await?;
    user.send("question").await?;
    claim.expect("question").await?;
    relay.claim(&ticket).await?.end().await.map_err(|seen| seen.at("claimed again"))?;
    claim.send("answer").await?;
    user.expect("answer").await
}

pub(super) async fn unknown_ticket(relay: &Relay) -> Verdict {
    relay.claim(NOBODYS).await?.end().await.map(drop)
}

pub(super) async fn unknown_pool(relay: &Relay) -> Verdict {
    relay.join(NOBODYS).await?.end().await.map(drop)
}

pub(super) async fn claimed_live_on(relay: &Relay) -> Verdict {
    let mut pair = relay.pair(Protocol::Event).await?;
    if let Service::Connection(_, control) = &mut pair.service {
        drop(control.take());
    }
    freed(relay, pair.port).await?;
    pair.chat().await
}

pub(super) async fn waiting_end(relay: &Relay) -> Verdict {
    let (mut control, port) = relay.event("").await?;
    let mut user = relay.user(port).await?;
    control.line().await?;
    drop(control);
    match timeout(SOON, user.ends(End::Reset)).await {
        Ok(ended) => ended,
        Err(_) => Err(user.seen("waits on, although its client is gone")),
    }
}

pub(super) async fn member_of_one(relay: &Relay) -> Verdict {
    let (mut first, port, name) = relay.pool("").await?;
    let mut user = relay.user(port).await?;
    user.send("one").await?;
    first.expect("one").await?;
    // There is no member for the next until one joins.
    let mut next = relay.user(port).await?;
    next.send("two").await?;
    first.quiet().await?;
    let mut second = relay.join(&name).await?;
    second.expect("two").await?;
    user.finish().await?;
    first.ends(End::Clean).await?;
    first.finish().await?;
    user.ends(End::Clean).await?;
    second.send("answer").await?;
    next.expect("answer").await
}

pub(super) async fn ended_pool(relay: &Relay) -> Verdict {
    let (mut member, port, name) = relay.pool("").await?;
    let mut user = relay.user(port).await?;
    user.send("question").await?;
    member.expect("question").await?;
    let mut idle = relay.join(&name).await?;
    relay.join(&format!("end {name}")).await?.end().await?;
    freed(relay, port).await?;
    idle.end().await?;
    member.send("answer").await?;
    user.expect("answer").await
}

pub(super) async fn dead_member(relay: &Relay) -> Verdict {
    let (first, port, name) = relay.pool("").await?;
    let mut second = relay.join(&name).await?;
    drop(first);
    relay.join(&name).await?.abort();
    sleep(QUIET).await;
    let mut user = relay.user(port).await?;
    user.send("question").await?;
    second.expect("question").await?;
    second.send("answer").await?;
    user.expect("answer").await
}
