//! The client under trial, and the relay that the kit plays for it.

use std::io;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use relay_client::Protocol;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::service::{Manner, Service};
use super::start::{Place, Running, Start};
use super::tunnel::Tunnel;
use super::user::SLICE_PAUSE;
use crate::conformance::peer::{PATIENCE, Peer};
use crate::conformance::{Subject, Verdict};

/// How long a client may take to connect, or to connect again: more than the longest pause of ours, 15 s.
const CONNECTS_WITHIN: Duration = Duration::from_secs(20);

/// How long a person may take to start it again: half of what one check may take.
const STARTED_WITHIN: Duration = Duration::from_mins(1);

/// When a person is reminded that the client has not come.
const REMIND_AFTER: Duration = Duration::from_secs(5);

/// What the relay that the kit plays can do.
pub(super) const GREETING: Greeting = Greeting { text: "relay/1 auth port wish service allow proxy\n", sliced: false };

/// The public port that it claims to have opened.
pub(super) const PUBLIC_PORT: u16 = 1235;

/// A challenge: any 32 bytes do, as every proof is taken.
const NONCE: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8\n";

/// A client that begins with `relay/1`.
pub(super) const GREETS: &str = "relay/1";
/// A client that asks for its users' addresses.
pub(super) const PROXY: &str = "proxy";
/// A client with the kit's own service behind it, as only a forwarder has.
pub(super) const SERVICE: &str = "the kit's service";
/// The same, whose users may keep silent until the service has spoken.
pub(super) const SPEAKS_FIRST: &str = "a service that speaks first";
/// A client that connects again by itself.
pub(super) const RECONNECTS: &str = "reconnecting";
/// The same, which is told why it fails.
pub(super) const RETRIES: &str = "reconnecting with relay/1";

/// A client under trial.
pub struct Client {
    pub(super) protocol: Protocol,
    pub(super) service: Service,
    listener: TcpListener,
    place: Place,
    start: Start,
    running: Mutex<Running>,
    /// A connection that came before it was asked for.
    early: Mutex<Option<Peer>>,
    offers: OnceLock<Vec<&'static str>>,
    ids: AtomicU64,
}

/// What a client asked for.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) greeted: bool,
    pub(super) options: Vec<String>,
    /// It has sent a proof, which it waits to hear is good.
    proves: bool,
    /// Of a pool or a ticket; none for a new tunnel.
    id: Option<String>,
}

impl Request {
    pub(super) fn asks_for_addresses(&self) -> bool {
        self.options.iter().any(|option| option == "proxy=v1")
    }
}

/// The answer to `relay/1`.
pub(super) struct Greeting {
    /// The line.
    pub(super) text: &'static str,
    /// Whether it comes byte by byte.
    pub(super) sliced: bool,
}

/// What a client does next.
pub(super) enum Arrival {
    Peer(Peer),
    Ended(String),
}

impl Subject for Client {
    fn offers(&self, word: &str) -> bool {
        self.offers.get().is_some_and(|offers| offers.contains(&word))
    }

    /// One that the kit starts can be started again.
    async fn is_alive(&self) -> bool {
        if !matches!(self.start, Start::ByHand) {
            return true;
        }
        let arrival = self.arrival(self.connects_within()).await;
        let Ok(Arrival::Peer(peer)) = arrival else { return false };
        self.early.lock().await.replace(peer);
        true
    }
}

impl Client {
    /// Plays a relay at that address, for a client that comes in that manner.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn new(protocol: Protocol, listen: SocketAddr, start: Start) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let service = Service::start().await?;
        Ok(Self {
            protocol,
            place: Place { relay: listener.local_addr()?, echo: service.address },
            service,
            listener,
            start,
            running: Mutex::new(Running::Elsewhere),
            early: Mutex::default(),
            offers: OnceLock::new(),
            ids: AtomicU64::new(1),
        })
    }

    /// Where it is to connect, and what may be behind it.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Finds out what it offers, by serving one of its users and then closing the tunnel. A client with which that
    /// cannot be done offers nothing; the first check says what is wrong.
    pub async fn meet(&self) {
        let mut offers = Vec::new();
        let met = async {
            self.begin().await?;
            let (peer, request) = self.asks(&GREETING).await?;
            offers.extend(request.greeted.then_some(GREETS));
            let tells = request.asks_for_addresses();
            offers.extend(tells.then_some(PROXY));
            let mut tunnel = self.answer(peer, &request).await?;
            tunnel.user().await?.is_served("hello").await?;
            if self.service.is_used() {
                offers.push(SERVICE);
                // A member of a pool learns of a silent user by that line alone.
                offers.extend((tells || self.protocol != Protocol::Pool).then_some(SPEAKS_FIRST));
            }
            drop(tunnel);
            // One that does neither this nor end is to be told so, by a check.
            let ends = matches!(self.asks_or_ends(&GREETING).await, Ok(Err(_)));
            if !ends {
                offers.push(RECONNECTS);
                offers.extend(request.greeted.then_some(RETRIES));
            }
            Verdict::Ok(())
        };
        let _ = met.await;
        let _ = self.offers.set(offers);
    }

    /// Starts it anew, where that is in the kit's hands.
    pub(super) async fn begin(&self) -> Verdict {
        self.service.behave(Manner::Echoes);
        if matches!(self.start, Start::ByHand) {
            return Ok(());
        }
        let mut running = self.running.lock().await;
        running.end().await;
        self.early.lock().await.take();
        // What it had begun before it ended.
        while timeout(Duration::ZERO, self.listener.accept()).await.is_ok() {}
        *running = self.start.start(self.place).map_err(|error| format!("the client cannot be started: {error}"))?;
        Ok(())
    }

    /// A tunnel of a client that has just begun.
    pub(super) async fn tunnel(&self) -> Verdict<Tunnel<'_>> {
        self.begin().await?;
        self.next_tunnel().await
    }

    /// The next tunnel that it asks for.
    pub(super) async fn next_tunnel(&self) -> Verdict<Tunnel<'_>> {
        let (peer, request) = self.asks(&GREETING).await?;
        self.answer(peer, &request).await
    }

    /// Gives it what it asked for.
    pub(super) async fn answer(&self, peer: Peer, request: &Request) -> Verdict<Tunnel<'_>> {
        let id = self.id();
        peer.send(self.lines(request, &id)).await?;
        Ok(Tunnel::new(self, peer, id, request.asks_for_addresses()))
    }

    /// The lines that give it what it asked for; the id is a pool's.
    pub(super) fn lines(&self, request: &Request, id: &str) -> String {
        let ok = if request.proves { "ok\n" } else { "" };
        match self.protocol {
            Protocol::Pool => format!("{ok}{PUBLIC_PORT}\n{id}\n"),
            _ => format!("{ok}{PUBLIC_PORT}\n"),
        }
    }

    /// The next request for a new tunnel; what begins with `relay/1` is greeted so. What still comes for an earlier
    /// tunnel is closed, as a relay would.
    pub(super) async fn asks(&self, greeting: &Greeting) -> Verdict<(Peer, Request)> {
        self.asks_or_ends(greeting).await?.map_err(|how| format!("the client has {how} instead of connecting").into())
    }

    /// The same; or else the client ends, and how.
    pub(super) async fn asks_or_ends(&self, greeting: &Greeting) -> Verdict<Result<(Peer, Request), String>> {
        loop {
            let mut peer = match self.arrival(self.connects_within()).await? {
                Arrival::Peer(peer) => peer,
                Arrival::Ended(how) => return Ok(Err(how)),
            };
            let request = self.hear(&mut peer, greeting).await?;
            if request.id.is_none() {
                return Ok(Ok((peer, request)));
            }
        }
    }

    /// The next connection that belongs to a tunnel, and the id that it names.
    pub(super) async fn dials_back(&self) -> Verdict<(Peer, String)> {
        let mut peer = match self.arrival(PATIENCE).await? {
            Arrival::Peer(peer) => peer,
            Arrival::Ended(how) => return Err(format!("the client has {how} instead of connecting").into()),
        };
        let request = self.hear(&mut peer, &GREETING).await?;
        match request.id {
            Some(_) if request.greeted => Err("a connection for one user begins with relay/1".into()),
            Some(id) => Ok((peer, id)),
            None => Err("the client asks for a new tunnel, although it has one".into()),
        }
    }

    /// Reads what the protocol says that it may say.
    async fn hear(&self, peer: &mut Peer, greeting: &Greeting) -> Verdict<Request> {
        let mut request = Request::default();
        let mut line = peer.line().await?;
        if words(&line) == ["relay/1"] {
            request.greeted = true;
            if greeting.sliced {
                send_sliced(peer, greeting.text).await?;
            } else {
                peer.send(greeting.text).await?;
            }
            line = peer.line().await?;
            if let ["auth", _name] = words(&line)[..] {
                peer.send(NONCE).await?;
                peer.line().await?;
                request.proves = true;
                line = peer.line().await?;
            }
        }
        let protocol = self.protocol.to_string();
        match words(&line).split_first() {
            Some((word, options)) if *word == protocol && (request.greeted || options.is_empty()) => {
                request.options = options.iter().map(ToString::to_string).collect();
            }
            _ => return Err(peer.seen(format_args!("the line {line:?} instead of {protocol:?}"))),
        }
        if self.protocol != Protocol::Multiplex {
            let line = peer.line().await?;
            match words(&line)[..] {
                ["new"] => {}
                // With an identity in plain text it is sealed, by two words more.
                [id] | [id, _, _] => request.id = Some(id.to_owned()),
                _ => return Err(peer.seen(format_args!("the line {line:?} instead of \"new\" or an id"))),
            }
        }
        Ok(request)
    }

    /// How long a new connection may take.
    pub(super) fn connects_within(&self) -> Duration {
        if matches!(self.start, Start::ByHand) { STARTED_WITHIN } else { CONNECTS_WITHIN }
    }

    /// What it does next, within that time.
    pub(super) async fn arrival(&self, most: Duration) -> Verdict<Arrival> {
        if let Some(peer) = self.early.lock().await.take() {
            return Ok(Arrival::Peer(peer));
        }
        let mut running = self.running.lock().await;
        let arrives = async {
            tokio::select! {
                biased;
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => Ok(Arrival::Peer(Peer::new("the client", stream))),
                    Err(error) => Err(format!("the kit cannot take a connection: {error}").into()),
                },
                how = running.ended() => Ok(Arrival::Ended(how)),
            }
        };
        let mut arrives = std::pin::pin!(arrives);
        if matches!(self.start, Start::ByHand) {
            if let Ok(arrival) = timeout(REMIND_AFTER, &mut arrives).await {
                return arrival;
            }
            warn!("no connection from the client yet: start it if it has ended");
        }
        let late = |_| Err(format!("no connection within {} s", most.as_secs()).into());
        timeout(most, arrives).await.unwrap_or_else(late)
    }

    /// A pool's name or a ticket, in the form of this project's relay.
    pub(super) fn id(&self) -> String {
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        format!("{:032X}", u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))
    }
}

/// Sends each byte on its own. A client gives the answer to its greeting 2 seconds: however slow this machine is, half of
/// that is for the pauses.
pub(super) async fn send_sliced(peer: &Peer, bytes: impl AsRef<[u8]>) -> Verdict {
    let began = Instant::now();
    for byte in bytes.as_ref() {
        peer.send([*byte]).await?;
        if began.elapsed() < Duration::from_secs(1) {
            sleep(SLICE_PAUSE).await;
        }
    }
    Ok(())
}

/// The words of a line; there may be blanks and a `\r` around them.
fn words(line: &str) -> Vec<&str> {
    line.split([' ', '\t', '\r']).filter(|word| !word.is_empty()).collect()
}
