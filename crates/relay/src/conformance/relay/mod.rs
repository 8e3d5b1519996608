//! The checks of a relay.
//!
//! ```text
//!  mod.rs           Relay: the subject
//!  tunnel.rs        tunnels of it, and users in them
//!  transcripts.rs   what docs/PROTOCOL.md shows is what happens
//! ```

mod transcripts;
mod tunnel;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use relay_client::{RelayAddr, Tls, Trust, dial};
use relay_proto::auth::{Binding, Nonce};
use relay_proto::identity::{Name, Token};
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::tunnel::Protocol;
use super::peer::{Peer, within};
use super::{Check, Report, Row, Subject, Verdict, check};
use crate::target;

/// How long a relay may take to answer `relay/1`, as docs/PROTOCOL.md has it.
const GREETING_WAIT: Duration = Duration::from_secs(2);

/// The feature words are a relay's own; these three are the kit's for what else a check may need.
const GREETS: &str = "relay/1";
const INVITED: &str = "an invite";
const OPEN: &str = "no invite";

/// All checks of a relay.
pub const CHECKS: &[Check<Relay>] = &[
    check!(
        "transcript: multiplex",
        "2. Multiplex",
        "The original's clients say and expect this.",
        transcripts::multiplex
    ),
    check!("transcript: pool", "3. Pool", "The original's clients say and expect this.", transcripts::pool),
    check!("transcript: event", "4. Event", "The original's clients say and expect this.", transcripts::event),
];

/// A relay under trial.
#[derive(Debug)]
pub struct Relay {
    name: RelayAddr,
    /// Which of the name's addresses answered: users go there, too.
    at: SocketAddr,
    tls: Option<Tls>,
    identity: Option<(Name, Token)>,
    /// What it named in its greeting, `relay/1` first; nothing if it does not greet.
    features: Vec<String>,
}

impl Relay {
    /// Meets a relay, and asks it what it can do.
    ///
    /// # Errors
    /// It cannot be reached, or not in that manner: a sentence.
    pub async fn meet(target: &target::Relay) -> Result<Self, String> {
        let name = target.address().clone();
        let tls = match target {
            target::Relay::Invite(invite) => Some(Tls::invited(invite)),
            target::Relay::Tls(_) => Some(Tls::new(Trust::System, None)),
            target::Relay::Plain(_) => None,
        };
        let tls = tls.transpose().map_err(|error| error.to_string())?;
        let identity = match target {
            target::Relay::Invite(invite) => Some((invite.name.clone(), invite.token.clone())),
            target::Relay::Tls(_) | target::Relay::Plain(_) => None,
        };
        let first = dial(name.host(), name.port()).await.map_err(|error| error.to_string())?;
        let at = first.peer_addr().map_err(|error| error.to_string())?;
        drop(first);
        let mut relay = Self { name, at, tls, identity, features: Vec::new() };
        let mut peer = relay.dial("the kit").await.map_err(|seen| seen.to_string())?;
        peer.send("relay/1\n").await.map_err(|seen| seen.to_string())?;
        // An old relay says nothing, or closes.
        if let Ok(Ok(line)) = timeout(GREETING_WAIT, peer.line()).await {
            relay.features = line.split_whitespace().map(str::to_owned).collect();
        }
        Ok(relay)
    }

    /// A connection to the control port, under TLS if there is an invite.
    async fn dial(&self, who: &'static str) -> Verdict<Peer> {
        match &self.tls {
            None => Peer::connect(who, self.at).await,
            Some(tls) => match within(who, tls.dial(&self.name)).await? {
                Ok(socket) => Ok(Peer::new(who, socket)),
                Err(error) => Err(error.to_string().into()),
            },
        }
    }

    /// A connection that may ask for a tunnel: one that has proved the invite's identity, if there is an invite.
    async fn entered(&self, who: &'static str) -> Verdict<Peer> {
        let mut peer = self.dial(who).await?;
        if let Some((name, _)) = &self.identity {
            peer.send(format!("relay/1\nauth {name}\n")).await?;
            peer.line().await?;
            let nonce = peer.line().await?;
            peer.send(self.proof(&peer, &nonce)? + "\n").await?;
            peer.expect("ok\n").await?;
        }
        Ok(peer)
    }

    /// The same for a request with options, before which the relay has to be greeted in any case.
    async fn greeted(&self, who: &'static str) -> Verdict<Peer> {
        let mut peer = self.entered(who).await?;
        if self.identity.is_none() {
            peer.send("relay/1\n").await?;
            peer.line().await?;
        }
        Ok(peer)
    }

    /// What proves the invite's identity on that connection.
    fn proof(&self, peer: &Peer, nonce: &str) -> Verdict<String> {
        let (name, token) = self.identity.as_ref().ok_or("the kit has no invite")?;
        let nonce: Nonce = nonce.parse().map_err(|_| peer.seen(format_args!("{nonce:?} instead of a nonce")))?;
        let certificates = peer.socket().tls().map(relay_net::tls::TlsStream::peer_certificates).unwrap_or_default();
        let binding = certificates.first().map_or(Binding::None, |leaf| Binding::to_certificate(leaf));
        Ok(token.prove(name, &nonce, &binding).to_string())
    }
}

impl Subject for Relay {
    fn offers(&self, word: &str) -> bool {
        match word {
            INVITED => self.identity.is_some(),
            OPEN => self.identity.is_none(),
            word => self.features.iter().any(|feature| feature == word),
        }
    }

    async fn is_alive(&self) -> bool {
        within("a connection", TcpStream::connect(self.at)).await.is_ok_and(|connected| connected.is_ok())
    }
}

/// Tries a relay, and tells what came of each check at once.
///
/// # Errors
/// The relay cannot be reached, or nobody reads what `tell` tells: a sentence.
pub async fn run(target: &target::Relay, tell: impl FnMut(&Row) -> io::Result<()>) -> Result<Report, String> {
    let relay = Relay::meet(target).await?;
    super::run(&relay, CHECKS, tell).await.map_err(|error| format!("the table cannot be printed: {error}"))
}
