//! The lines that open a tunnel.

use super::subject::{Arrival, Client, GREETING, GREETS, Greeting, RECONNECTS, send_sliced};
use super::tunnel::Tunnel;
use crate::conformance::peer::Peer;
use crate::conformance::{Check, Subject, Verdict, check};

pub(super) const CHECKS: &[Check<Client>] = &[
    check!("the exchange", "1. The exchange", "No relay gives a tunnel for other lines.", the_exchange),
    check!("an answer in single bytes", "1. The exchange", "A network may cut it anywhere.", answer_in_bytes),
    check!(
        "an answer with a user right behind it",
        "1. The exchange",
        "Users come at once: what is read beyond a line is theirs.",
        answer_with_user
    ),
    check!(
        "features that it does not know",
        "7. Beyond the original: `relay/1`",
        "The next relay has more of them, and some relay fewer.",
        unknown_features,
        needs GREETS
    ),
    check!(
        "errors that it does not know",
        "7. Beyond the original: `relay/1`",
        "Whoever takes them for final stops at what would pass.",
        unknown_error,
        needs GREETS
    ),
    check!(
        "coming back",
        "5. Ends and failures",
        "A relay that restarts would end the service for good.",
        coming_back,
        needs RECONNECTS
    ),
];

/// Last, for a client remembers an old relay.
pub(super) const OLD_RELAYS: &[Check<Client>] = &[
    check!(
        "an old relay, which keeps silent",
        "7. Beyond the original: `relay/1`",
        "The relays of 2017 do not answer `relay/1`.",
        old_relay_silent,
        needs GREETS
    ),
    check!(
        "an old relay, which closes",
        "7. Beyond the original: `relay/1`",
        "What stands before an old relay may end what it cannot read.",
        old_relay_closes,
        needs GREETS
    ),
];

async fn the_exchange(client: &Client) -> Verdict {
    client.tunnel().await?.user().await?.is_served("hello").await
}

async fn answer_in_bytes(client: &Client) -> Verdict {
    client.begin().await?;
    let (peer, request) = client.asks(&Greeting { sliced: true, ..GREETING }).await?;
    // As long as those of the relay of 2017.
    let id = "9F86D08188";
    send_sliced(&peer, client.lines(&request, id)).await?;
    let mut tunnel = Tunnel::new(client, peer, id.into(), request.asks_for_addresses());
    tunnel.user().await?.is_served("hello").await
}

async fn answer_with_user(client: &Client) -> Verdict {
    client.begin().await?;
    let (peer, request) = client.asks(&GREETING).await?;
    let id = client.id();
    let lines = client.lines(&request, &id);
    let mut tunnel = Tunnel::new(client, peer, id, request.asks_for_addresses());
    let user = tunnel.user_behind(&lines, b"hello").await?;
    user.expect(b"hello").await
}

async fn unknown_features(client: &Client) -> Verdict {
    client.begin().await?;
    let (peer, request) = client.asks(&Greeting { text: "relay/1 colour proxy2 udp\n", sliced: false }).await?;
    if let Some(option) = request.options.first() {
        return Err(peer.seen(format_args!("the option {option:?}, which the relay did not name")));
    }
    client.answer(peer, &request).await?.user().await?.is_served("hello").await
}

async fn unknown_error(client: &Client) -> Verdict {
    if client.offers(RECONNECTS) {
        // It may tell the first failure to whom has started it.
        let mut tunnel = client.tunnel().await?;
        tunnel.user().await?.is_served("hello").await?;
    } else {
        client.begin().await?;
    }
    let (peer, _) = client.asks(&GREETING).await?;
    peer.send("error moonrise come back when the moon is up\n").await?;
    drop(peer);
    match client.asks_or_ends(&GREETING).await? {
        Ok((peer, request)) => client.answer(peer, &request).await?.user().await?.is_served("hello").await,
        Err(how) if client.offers(RECONNECTS) => Err(format!("the client has {how} instead of trying again").into()),
        // It gives up whenever it has no tunnel.
        Err(_) => Ok(()),
    }
}

async fn coming_back(client: &Client) -> Verdict {
    let mut tunnel = client.tunnel().await?;
    tunnel.user().await?.is_served("hello").await?;
    drop(tunnel);
    client.next_tunnel().await?.user().await?.is_served("hello again").await
}

async fn old_relay_silent(client: &Client) -> Verdict {
    client.begin().await?;
    let greeting = greeted(client).await?;
    let served = served_bare(client).await;
    drop(greeting);
    served
}

async fn old_relay_closes(client: &Client) -> Verdict {
    client.begin().await?;
    drop(greeted(client).await?);
    served_bare(client).await
}

/// A connection on which it has greeted, and nothing else.
async fn greeted(client: &Client) -> Verdict<Peer> {
    let arrival = client.arrival(client.connects_within()).await?;
    let Arrival::Peer(mut peer) = arrival else { return Err("the client has ended".into()) };
    match peer.line().await?.trim() {
        "relay/1" => Ok(peer),
        line => Err(peer.seen(format_args!("the line {line:?} instead of \"relay/1\""))),
    }
}

/// It asks once more, without a greeting, and serves a user.
async fn served_bare(client: &Client) -> Verdict {
    let (peer, request) = client.asks(&GREETING).await?;
    if request.greeted {
        return Err("the client greets an old relay once more, rather than go on without".into());
    }
    client.answer(peer, &request).await?.user().await?.is_served("hello").await
}
