//! What a client has to do with tickets.

use std::collections::HashSet;

use tokio::time::sleep;

use super::subject::{Client, send_sliced};
use super::user::User;
use crate::conformance::peer::{End, QUIET};
use crate::conformance::{Check, Seen, Verdict, check};

/// How many users come in the same moment.
const BURST: usize = 50;

pub(super) const CHECKS: &[Check<Client>] = &[
    check!("50 tickets in one segment", "4. Event", "Users who come together are announced together.", together),
    check!("a ticket in single bytes", "4. Event", "A network may cut it anywhere.", in_bytes),
    check!("a ticket that has expired", "4. Event", "Users leave before they are claimed: any does.", expired),
    check!(
        "users who outlive the control connection",
        "4. Event",
        "They have connections of their own, and may finish.",
        outlive
    ),
];

async fn together(client: &Client) -> Verdict {
    let tunnel = client.tunnel().await?;
    let mut waiting: HashSet<String> = (0..BURST).map(|_| client.id()).collect();
    let lines: Vec<u8> = waiting.iter().flat_map(|ticket| [ticket.as_bytes(), b"\n"].concat()).collect();
    tunnel.control()?.send(lines).await?;
    let mut users = Vec::new();
    while !waiting.is_empty() {
        let unclaimed = waiting.len();
        let (peer, ticket) =
            client.dials_back().await.map_err(|seen| seen.at(format_args!("{unclaimed} tickets are not claimed")))?;
        if !waiting.remove(&ticket) {
            return Err(peer.seen("a ticket that is claimed twice, or was never sent"));
        }
        peer.send(tunnel.address()).await?;
        let (socket, ahead) = peer.into_parts();
        users.push(User::on(socket, ahead));
    }
    for user in users {
        user.is_served("hello").await?;
    }
    Ok(())
}

async fn in_bytes(client: &Client) -> Verdict {
    let tunnel = client.tunnel().await?;
    let ticket = client.id();
    send_sliced(tunnel.control()?, format!("{ticket}\n")).await?;
    let (peer, claimed) = client.dials_back().await?;
    if claimed != ticket {
        return Err(peer.seen(format_args!("the claim of {claimed:?} instead of {ticket:?}")));
    }
    peer.send(tunnel.address()).await?;
    let (socket, ahead) = peer.into_parts();
    User::on(socket, ahead).is_served("hello").await
}

async fn expired(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    for _ in 0..3 {
        let ticket = client.id();
        tunnel.control()?.send(format!("{ticket}\n")).await?;
        drop(tunnel.claim(&ticket).await?);
        let at = |seen: Seen| seen.at("after it");
        tunnel.user().await.map_err(at)?.is_served("hello").await.map_err(at)?;
    }
    Ok(())
}

async fn outlive(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    let user = tunnel.user().await?;
    user.is_served("one").await?;
    drop(tunnel);
    // Until the client has noticed.
    sleep(QUIET).await;
    user.is_served("two").await?;
    user.finish();
    user.ends(End::Clean).await
}
