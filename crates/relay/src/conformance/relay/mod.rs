//! The checks of a relay.
//!
//! ```text
//!  mod.rs           Relay: the subject
//!  tunnel.rs        tunnels of it, and users in them
//!  transcripts.rs   what docs/PROTOCOL.md shows is what happens
//!  exchange.rs      the lines at the start
//!  users.rs         what users notice, in each protocol
//!  dial_back.rs     tickets and members
//!  yamux.rs         the multiplexer
//!  extensions.rs    greeting, options, errors
//!  identity.rs      identities and TLS
//!  proxy.rs         the user's address
//! ```

mod dial_back;
mod exchange;
mod extensions;
mod identity;
mod proxy;
mod transcripts;
mod tunnel;
mod users;
mod yamux;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use relay_client::{Invite, Relay as Target, RelayAddr, Tls, Trust, dial};
use relay_net::tls::TlsStream;
use relay_proto::auth::{Binding, Nonce};
use relay_proto::handshake::Id;
use relay_proto::identity::{Name, Token};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::peer::{Peer, within};
use super::transcript::is_nonce;
use super::{Check, Report, Row, Seen, Subject, Verdict, check};

/// How long a relay may take to answer `relay/1`, as docs/PROTOCOL.md has it.
const GREETING_WAIT: Duration = Duration::from_secs(2);

/// The feature words are a relay's own, and `relay/1` is that it greets; these are the kit's, for what else a check may
/// need.
const GREETS: &str = "relay/1";
/// The kit has an invite.
const INVITED: &str = "an invite";
/// It has one, and the relay serves nobody else.
const CLOSED: &str = "nobody without an invite";
/// It has one, and may use it in plain text.
const PLAIN: &str = "invites in plain text";
/// It has one, and may not.
const TLS_ONLY: &str = "invites over TLS only";

const EXCHANGE: &str = "1. The exchange";
const MULTIPLEX: &str = "2. Multiplex";
const POOL: &str = "3. Pool";
const EVENT: &str = "4. Event";
const ENDS: &str = "5. Ends and failures";
const YAMUX: &str = "6. Yamux";
const BEYOND: &str = "7. Beyond the original: `relay/1`";
const IDENTITIES: &str = "8. Identities";
const TLS: &str = "9. TLS";
const ADDRESSES: &str = "10. The user's address";

/// All checks of a relay.
pub const CHECKS: &[Check<Relay>] = &[
    check!(
        "multiplex, as written",
        MULTIPLEX,
        "The original's clients say and expect just this.",
        transcripts::multiplex
    ),
    check!("pool, as written", POOL, "The original's clients say and expect just this.", transcripts::pool),
    check!("event, as written", EVENT, "The original's clients say and expect just this.", transcripts::event),
    check!("lines: blanks and \\r\\n", EXCHANGE, "Lines are typed by hand, and on Windows.", exchange::blanks),
    check!("lines: cut at each byte", EXCHANGE, "TCP delivers a line in pieces when it likes.", exchange::cut),
    check!(
        "lines: bytes behind them",
        EXCHANGE,
        "A client need not wait; what is lost is a user's.",
        exchange::bytes_behind
    ),
    check!(
        "lines: wrong ones are closed",
        EXCHANGE,
        "The first scan of the port must not end a relay.",
        exchange::wrong_lines
    ),
    check!(
        "lines: one without end is closed",
        EXCHANGE,
        "Else anybody can fill the relay's memory.",
        exchange::endless_line
    ),
    check!("silence is closed", EXCHANGE, "Else anybody can hold all that a relay has.", exchange::silence),
    check!(
        "connect and close",
        EXCHANGE,
        "It ended the original; health checks do it all day.",
        exchange::connect_and_close
    ),
    check!("the user ends first", ENDS, "Who sends a request and its end wants the reply.", users::user_ends_first),
    check!("the service ends first", ENDS, "What the user still sends is not to be lost.", users::service_ends_first),
    check!("the user resets", ENDS, "A download cut short must not look complete.", users::user_resets),
    check!("the client resets", ENDS, "An answer cut short must not look complete.", users::client_resets),
    check!("a lost link resets its users", ENDS, "Users must not take half an answer for a whole.", users::lost_link),
    check!("a MiB each way, intact", ENDS, "What a relay is for.", users::intact),
    check!("the service speaks first", MULTIPLEX, "SSH, SMTP and MySQL do.", users::service_speaks_first),
    check!("many users at once", MULTIPLEX, "A browser alone opens six connections.", users::many),
    check!("a port is freed with its client", ENDS, "Else the relay runs out of ports.", users::port_is_freed),
    check!("event: a ticket is good once", EVENT, "Else two claims share one user.", dial_back::ticket_once),
    check!(
        "event: unknown tickets are closed",
        EVENT,
        "A claim that waits for nobody holds a connection.",
        dial_back::unknown_ticket
    ),
    check!(
        "event: claimed users live on",
        EVENT,
        "A client may restart its control connection.",
        dial_back::claimed_live_on
    ),
    check!("event: waiting users end", EVENT, "Nobody will claim them any more.", dial_back::waiting_end),
    check!(
        "pool: unknown pools are closed",
        POOL,
        "Clients learn by it that their pool is gone.",
        dial_back::unknown_pool
    ),
    check!("pool: a member is one user's", POOL, "Else users read each other's bytes.", dial_back::member_of_one),
    check!("pool: a dead member gets nobody", POOL, "A user given to it is lost.", dial_back::dead_member),
    check!("pool: ends when told", POOL, "Else users wait for a client that is gone.", dial_back::ended_pool, needs "end"),
    check!("yamux: ids are odd and grow", YAMUX, "libp2p ends a session at a wrong one.", yamux::ids),
    check!("yamux: the window is kept", YAMUX, "Every peer ends a session at a byte too many.", yamux::window),
    check!("yamux: pings are answered", YAMUX, "hashicorp's ends a session after 10 s without.", yamux::pings),
    check!("yamux: a user who does not read", YAMUX, "One of them must not hold up the others.", yamux::slow_user),
    check!("yamux: unknown streams", YAMUX, "Frames cross on the way with a stream's end.", yamux::unknown_streams),
    check!("yamux: a second ACK or FIN", YAMUX, "Some send it, and it is harmless.", yamux::said_twice),
    check!("yamux: GoAway 0", YAMUX, "A client that stops lets its users finish.", yamux::go_away),
    check!("yamux: a breach ends one session", YAMUX, "A broken client must harm only itself.", yamux::breaches),
    check!("yamux: a stream from the client", YAMUX, "It is refused, not left waiting.", yamux::client_opens),
    check!("yamux: frames cut at each byte", YAMUX, "TCP delivers a frame in pieces when it likes.", yamux::cut),
    check!("flood of pings", YAMUX, "Others' users must not notice.", yamux::ping_flood),
    check!("flood of streams", YAMUX, "Others' users must not notice.", yamux::syn_flood),
    check!("relay/1: the greeting", BEYOND, "Clients learn by it what they may ask for.", extensions::greeting, needs GREETS),
    check!("relay/1: unsupported, as written", BEYOND, "A newer client learns what to leave out.", transcripts::unsupported, needs GREETS),
    check!("relay/1: errors have codes", BEYOND, "A client must know whether to try again.", extensions::errors, needs GREETS),
    check!("port: pool, as written", BEYOND, "An owner may need one certain port.", transcripts::pool_port, needs "port"),
    check!("port: taken, and not allowed", BEYOND, "Another port than the demanded one is none.", extensions::port, needs "port"),
    check!("port: forbidden, as written", BEYOND, "It is final: the client stops and says so.", transcripts::forbidden_port, needs INVITED),
    check!("wish", BEYOND, "Users know the port from before.", extensions::wish, needs "wish"),
    check!("service", BEYOND, "Users know the port from before.", extensions::service, needs "service"),
    check!("allow", BEYOND, "Who is not let in must not reach the service.", extensions::allow, needs "allow"),
    check!("proxy: multiplex", ADDRESSES, "The service learns who its user is.", proxy::multiplex, needs "proxy"),
    check!("proxy: pool", ADDRESSES, "It tells a member that it has a user.", proxy::pool, needs "proxy"),
    check!("proxy: event", ADDRESSES, "The service learns who its user is.", proxy::event, needs "proxy"),
    check!("identity: multiplex, as written", IDENTITIES, "Clients prove themselves just so.", transcripts::identity, needs INVITED),
    check!("identity: event, as written", IDENTITIES, "Clients prove themselves just so.", transcripts::event_identity, needs INVITED),
    check!("identity: sealed, as written", IDENTITIES, "In plain text a ticket can be overheard.", transcripts::event_sealed, needs PLAIN),
    check!("identity: strangers, as written", IDENTITIES, "Ports are for those who were invited.", transcripts::stranger, needs CLOSED),
    check!("identity: wrong proof, as written", IDENTITIES, "A proof that proves nothing must not do.", transcripts::wrong_proof, needs INVITED),
    check!("identity: unknown names", IDENTITIES, "Else names can be found by trying.", identity::unknown_name, needs INVITED),
    check!("identity: a nonce is used once", IDENTITIES, "Else a proof can be used again.", identity::nonces, needs INVITED),
    check!("identity: request behind the proof", IDENTITIES, "It saves a round trip.", identity::request_behind_proof, needs INVITED),
    check!("tls: its ids in plain text", TLS, "Whoever hears one could take a user with it.", identity::ids_over_tls, needs INVITED),
    check!("tls: plain text is refused", TLS, "A client must learn that it needs TLS.", identity::plain_text, needs TLS_ONLY),
];

/// A relay under trial.
#[derive(Debug)]
pub struct Relay {
    name: RelayAddr,
    /// Which of the name's addresses answered: users go there, too.
    at: SocketAddr,
    tls: Option<Tls>,
    identity: Option<(Name, Token)>,
    /// What it offers, the kit's own words among it; nothing if it does not greet.
    features: Vec<String>,
}

impl Relay {
    /// Meets a relay, and asks it what it can do.
    ///
    /// # Errors
    /// It cannot be reached, or not in that manner: a sentence.
    pub async fn meet(target: &Target) -> Result<Self, String> {
        let name = target.address().clone();
        let (trust, identity) = match target {
            Target::Invite(Invite { name, token, pin, .. }) => {
                (Some(pin.map_or(Trust::System, Trust::Pin)), Some((name.clone(), token.clone())))
            }
            Target::Tls(_) => (Some(Trust::System), None),
            _ => (None, None),
        };
        let tls = trust.map(|trust| Tls::new(trust, None)).transpose().map_err(|error| error.to_string())?;
        let first = dial(name.host(), name.port()).await.map_err(|error| error.to_string())?;
        let at = first.peer_addr().map_err(|error| error.to_string())?;
        drop(first);
        let mut relay = Self { name, at, tls, identity, features: Vec::new() };
        relay.features = relay.probe().await.map_err(|seen| seen.to_string())?;
        Ok(relay)
    }

    /// What it names in its greeting, and what the kit finds out beside it.
    async fn probe(&self) -> Verdict<Vec<String>> {
        let mut peer = self.dial("the kit").await?;
        peer.send(
            "relay/1
",
        )
        .await?;
        // An old relay says nothing, or closes.
        let Ok(Ok(line)) = timeout(GREETING_WAIT, peer.line()).await else { return Ok(Vec::new()) };
        let mut features: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if let Some((name, _)) = &self.identity {
            features.push(INVITED.into());
            peer.send("multiplex\n").await?;
            if peer.line().await.is_ok_and(|line| line.starts_with("error ")) {
                features.push(CLOSED.into());
            }
            let mut plain = Peer::connect("the kit", self.at).await?;
            plain.send(format!("relay/1\nauth {name}\n")).await?;
            // The greeting may be refused already.
            let nonce =
                async { Ok::<_, Seen>(plain.line().await?.starts_with(GREETS) && is_nonce(&plain.line().await?)) };
            features.push(if nonce.await == Ok(true) { PLAIN } else { TLS_ONLY }.into());
        }
        Ok(features)
    }

    /// The same relay, met without TLS.
    fn in_plain_text(&self) -> Self {
        Self { name: self.name.clone(), tls: None, identity: self.identity.clone(), features: Vec::new(), ..*self }
    }

    fn identity_name(&self) -> Verdict<&Name> {
        self.identity.as_ref().map(|(name, _)| name).ok_or_else(|| "the kit has no invite".into())
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
        let certificates = peer.socket().tls().map(TlsStream::peer_certificates).unwrap_or_default();
        let binding = certificates.first().map_or(Binding::None, |leaf| Binding::to_certificate(leaf));
        Ok(token.prove(name, &nonce, &binding).to_string())
    }

    /// What goes with an id that was given in plain text, on a link with that nonce.
    fn seal(&self, nonce: &str, id: &str, count: u64) -> Verdict<String> {
        let (name, token) = self.identity.as_ref().ok_or("the kit has no invite")?;
        let nonce: Nonce = nonce.parse().map_err(|_| format!("{nonce:?} instead of a nonce"))?;
        let id = Id::parse(id).map_err(|_| format!("{id:?} instead of an id"))?;
        Ok(token.session_key(name, &nonce, &Binding::None).seal(&id, count).to_string())
    }
}

impl Subject for Relay {
    fn offers(&self, word: &str) -> bool {
        self.features.iter().any(|feature| feature == word)
    }

    async fn is_alive(&self) -> bool {
        within("a connection", TcpStream::connect(self.at)).await.is_ok_and(|connected| connected.is_ok())
    }
}

/// Tries a relay, and tells what came of each check at once.
///
/// # Errors
/// The relay cannot be reached, or nobody reads what `tell` tells: a sentence.
pub async fn run(target: &Target, tell: impl FnMut(&Row) -> io::Result<()>) -> Result<Report, String> {
    let relay = Relay::meet(target).await?;
    super::run(&relay, CHECKS, tell).await.map_err(|error| format!("the table cannot be printed: {error}"))
}
