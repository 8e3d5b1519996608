//! Identities and TLS: with an invite only.

use super::Relay;
use super::extensions::is_refused;
use crate::conformance::Verdict;
use crate::conformance::peer::Peer;

pub(super) async fn request_behind_proof(relay: &Relay) -> Verdict {
    let (mut peer, nonce) = asked(relay).await?;
    peer.send(format!("{}\nevent\nnew\n", relay.proof(&peer, &nonce)?)).await?;
    peer.expect("ok\n").await?;
    let port = peer.line().await?;
    port.parse::<u16>().map(drop).map_err(|_| peer.seen(format_args!("{port:?} instead of a port")))
}

pub(super) async fn nonces(relay: &Relay) -> Verdict {
    let ((mut first, nonce), (_second, other)) = (asked(relay).await?, asked(relay).await?);
    if nonce == other {
        return Err("one nonce for two connections".into());
    }
    // Right for the other connection alone.
    first.send(format!("{}\nmultiplex\n", relay.proof(&first, &other)?)).await?;
    is_refused(&mut first, "error denied").await
}

/// A client that has been asked for a proof, and the nonce.
async fn asked(relay: &Relay) -> Verdict<(Peer, String)> {
    let mut peer = relay.dial("the client").await?;
    peer.send(format!("relay/1\nauth {}\n", relay.identity_name()?)).await?;
    peer.line().await?;
    let nonce = peer.line().await?;
    Ok((peer, nonce))
}

pub(super) async fn unknown_name(relay: &Relay) -> Verdict {
    let mut answers = Vec::new();
    let name = relay.identity_name()?;
    for name in [name.to_string(), "nobody-has-this-name".into()] {
        let mut peer = relay.dial("the client").await?;
        peer.send(format!("relay/1\nauth {name}\n")).await?;
        peer.line().await?;
        peer.line().await?;
        peer.send(format!("{}\nmultiplex\n", "A".repeat(43))).await?;
        answers.push(peer.line().await?);
        peer.end().await?;
    }
    if answers[0] == answers[1] && answers[0].starts_with("error denied") {
        return Ok(());
    }
    Err(format!("{:?} for a wrong proof, and {:?} for an unknown name", answers[0], answers[1]).into())
}

pub(super) async fn ids_over_tls(relay: &Relay) -> Verdict {
    let (mut control, port) = relay.event("").await?;
    let mut user = relay.user(port).await?;
    let ticket = control.line().await?;
    let mut thief = Peer::connect("a claim in plain text", relay.at).await?;
    thief.send(format!("event\n{ticket}\n")).await?;
    thief.end().await?;
    let mut claim = relay.claim(&ticket).await?;
    user.send("question").await?;
    claim.expect("question").await?;
    claim.send("answer").await?;
    user.expect("answer").await
}

pub(super) async fn plain_text(relay: &Relay) -> Verdict {
    let mut peer = Peer::connect("a client in plain text", relay.at).await?;
    peer.send("multiplex\n").await?;
    peer.end().await?;
    let mut peer = Peer::connect("a client in plain text", relay.at).await?;
    peer.send("relay/1\nmultiplex\n").await?;
    is_refused(&mut peer, "error tls-required").await
}
