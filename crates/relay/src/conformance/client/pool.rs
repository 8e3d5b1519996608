//! What a client has to do for a pool.

use super::subject::Client;
use crate::conformance::{Check, Seen, Verdict, check};

/// So many users who stay, one after the other.
const USERS: u32 = 20;

pub(super) const CHECKS: &[Check<Client>] = &[
    check!(
        "a member whenever a user comes",
        "3. Pool",
        "A user for whom there is none waits, and is then turned away.",
        stock
    ),
    check!("a member that is closed unused", "3. Pool", "A relay closes what it has no room for.", closed_unused),
];

async fn stock(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    let mut users = Vec::new();
    for number in 1..=USERS {
        let at = |seen: Seen| seen.at(format_args!("for user {number}, while the others stay"));
        let user = tunnel.user().await.map_err(at)?;
        user.is_served("hello").await.map_err(at)?;
        users.push(user);
    }
    Ok(())
}

async fn closed_unused(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    tunnel.user().await?.is_served("one").await?;
    drop(tunnel.member().await?);
    for word in ["two", "three"] {
        let at = |seen: Seen| seen.at("after it");
        tunnel.user().await.map_err(at)?.is_served(word).await.map_err(at)?;
    }
    Ok(())
}
