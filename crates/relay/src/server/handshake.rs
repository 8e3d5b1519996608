//! What a client wants and who it is, learnt in bounded time, room and number.
//!
//! A client that began with `relay/1` is told why it is refused; for all others failure is a close.

use std::fmt;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use relay_net::socket::Socket;
use relay_net::tls::{self, TlsError};
use relay_proto::auth::{Binding, Nonce, Proof};
use relay_proto::handshake::{
    Answer, ClientReader, Code, Established, Features, HandshakeError, Id, MAX_LINE, Options, Refusal, Request, Said,
    Seal,
};
use relay_proto::identity::Name;
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::belonging::{Client, Seals};
use super::identities::Denied;
use super::origin::{self, NoHeader};
use super::pending::Place;
use super::pool::{Pool, PoolFull};
use super::registry;
use super::tunnel::{NoTunnel, PublicPort, Tunnel};
use super::{Claim, Relay, event, multiplex, pool, reset};

/// The first byte of every TLS connection: the type of a record with a handshake (RFC 8446, section 5.1). No line of
/// text begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// How long a client that was refused may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);

/// What of its words is read then, so that the answer is not lost to them, in bytes.
const FAREWELL_BYTES: usize = 64 * 1024;

/// All that clients may ask for.
const FEATURES: [&str; 7] = [
    Features::AUTH,
    Features::PORT,
    Features::WISH,
    Features::SERVICE,
    Features::ALLOW,
    Features::PROXY,
    Features::END,
];

/// Why a connection to the control port came to nothing.
#[derive(Debug)]
enum Refused {
    /// It closed without a byte: a port scan, a health check.
    Silent,
    Closed,
    Lost(io::Error),
    Late,
    Crowded,
    Tls(TlsError),
    NoTls,
    Bad(HandshakeError),
    /// It came without TLS and without an identity that may do so.
    PlainText,
    NoIdentity,
    Denied(Denied, Option<Name>),
    /// Its address has failed too often.
    Penalised(Duration),
    NoTicket,
    NoPool,
    PoolFull,
    NoTunnel(NoTunnel),
    /// The server is ending.
    Stopping,
}

impl Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("closed without a word"),
            Self::Closed => f.write_str("closed before its request was complete"),
            Self::Lost(error) => write!(f, "was lost: {error}"),
            Self::Late => f.write_str("did not complete its request in time"),
            Self::Crowded => f.write_str("made way for others: too many handshakes are pending"),
            Self::Tls(error) => write!(f, "failed to speak TLS: {error}"),
            Self::NoTls => f.write_str("speaks TLS, for which this relay has no state"),
            Self::Bad(error) => error.fmt(f),
            Self::PlainText => f.write_str("came in plain text"),
            Self::NoIdentity => f.write_str("came without an identity"),
            Self::Denied(Denied::Unproven, Some(name)) => write!(f, "did not prove to be {name}"),
            Self::Denied(Denied::Unproven, None) => f.write_str("has a certificate that nobody here has"),
            Self::Denied(Denied::Revoked, _) => f.write_str("is revoked"),
            Self::Denied(Denied::Expired, _) => f.write_str("has expired"),
            Self::Penalised(left) => write!(f, "failed too often; its address is heard in {} s", left.as_secs() + 1),
            Self::NoTicket => f.write_str("claimed a user who does not wait (any more)"),
            Self::NoPool => f.write_str("named a pool that does not exist (any more)"),
            Self::PoolFull => f.write_str("joined a pool that has too many idle members"),
            Self::NoTunnel(error) => error.fmt(f),
            Self::Stopping => f.write_str("came while the relay stops"),
        }
    }
}

impl Refused {
    /// The kind, by which repetitions are counted.
    fn kind(&self) -> &'static str {
        match self {
            Self::Silent | Self::Closed | Self::Lost(_) | Self::Stopping => "client left",
            Self::Late => "client late",
            Self::Crowded => "client crowded out",
            Self::Tls(_) | Self::NoTls | Self::Bad(_) | Self::PlainText | Self::NoIdentity => "client refused",
            Self::Denied(..) => "client denied",
            Self::Penalised(_) => "client not heard",
            Self::NoTicket => "claim refused",
            Self::NoPool | Self::PoolFull => "member refused",
            Self::NoTunnel(_) => "tunnel refused",
        }
    }

    /// The limit that it met, by its name in the configuration.
    fn limit(&self) -> Option<&'static str> {
        match self {
            Self::Crowded => Some("handshakes"),
            Self::Penalised(_) => Some("failures_per_source"),
            Self::NoTunnel(NoTunnel::TooMany(_)) => Some("max_tunnels"),
            _ => None,
        }
    }

    /// What the client is told, if it understands that.
    fn refusal(&self) -> Option<Refusal> {
        let say = |code, words: &str| Some(Refusal::new(code, words));
        match self {
            Self::Silent | Self::Closed | Self::Lost(_) | Self::Tls(_) | Self::NoTls => None,
            Self::Late => say(Code::Late, "the request was not complete in time"),
            Self::Crowded => say(Code::Busy, "too many connections at once"),
            Self::Bad(error) => Some(error.refusal()),
            Self::PlainText => say(Code::TlsRequired, "this relay serves you over TLS only"),
            Self::NoIdentity => say(Code::IdentityRequired, "this relay serves invited clients only"),
            Self::Denied(Denied::Unproven, _) => say(Code::Denied, "unknown name or wrong token"),
            Self::Denied(Denied::Revoked, _) => say(Code::Revoked, "the operator has revoked this identity"),
            Self::Denied(Denied::Expired, _) => say(Code::Expired, "this identity has expired"),
            Self::Penalised(_) => say(Code::Busy, "too many failed tries from your address"),
            Self::NoTicket => say(Code::Gone, "that user does not wait any more"),
            Self::NoPool => say(Code::Gone, "that pool does not exist any more"),
            Self::PoolFull => say(Code::Busy, "that pool has too many idle members"),
            // What the state's files are called is nobody's business.
            Self::NoTunnel(NoTunnel::NotWritten(_)) => say(Code::NoPort, "the relay cannot write its state"),
            Self::NoTunnel(error) => Some(Refusal::new(error.code(), error)),
            Self::Stopping => say(Code::Stopping, "the relay is stopping"),
        }
    }
}

/// Takes one connection to the control port through its handshake and hands it on.
pub(super) async fn greet(relay: Arc<Relay>, stream: TcpStream, mut peer: SocketAddr, mut place: Place) {
    let deadline = Instant::now() + relay.limits().handshake;
    if relay.balancers.contains(peer.ip()) {
        match introduced(&relay, &stream, peer, &mut place, deadline).await {
            Some(address) => peer = address,
            None => return reset(stream),
        }
        if relay.is_full_of(peer.ip()) {
            return relay.refuse_handshake(stream, peer);
        }
        place = relay.pending.enter(peer.ip());
    }
    let mut newcomer = None;
    let exchange = async {
        let newcomer = newcomer.insert(Newcomer::arrive(&relay, stream, peer).await?);
        let (request, options) = newcomer.listen(&relay).await?;
        newcomer.serve(&relay, request, &options).await
    };
    let served = tokio::select! {
        biased;
        served = timeout_at(deadline, exchange) => served.unwrap_or(Err(Refused::Late)),
        () = place.pushed_out() => Err(Refused::Crowded),
        () = relay.draining.cancelled() => Err(Refused::Stopping),
    };
    match (served, newcomer) {
        (Ok(next), Some(newcomer)) => newcomer.go_on(next),
        (Ok(_), None) => {}
        (Err(refused), newcomer) => {
            if let Some(limit) = refused.limit() {
                relay.bite(limit);
            }
            match refused {
                Refused::Silent | Refused::Stopping => debug!(%peer, "client {refused}"),
                _ => relay.say(refused.kind(), 0, peer, &refused),
            }
            // Who was crowded out is told, and not waited for: its place is another's already.
            let patience = if matches!(refused, Refused::Crowded) { Duration::ZERO } else { FAREWELL };
            if let Some(newcomer) = newcomer {
                let _ = timeout(patience, newcomer.dismiss(&refused)).await;
            }
        }
    }
}

/// Whom a balancer brings, by its address; `None`, and a line in the log, if it does not say.
async fn introduced(
    relay: &Relay,
    stream: &TcpStream,
    balancer: SocketAddr,
    place: &mut Place,
    deadline: Instant,
) -> Option<SocketAddr> {
    let origin = tokio::select! {
        biased;
        origin = timeout_at(deadline, origin::read(stream, balancer)) => origin.unwrap_or(Err(NoHeader::Late)),
        () = place.pushed_out() => {
            relay.bite("handshakes");
            relay.say(Refused::Crowded.kind(), 0, balancer, &Refused::Crowded);
            return None;
        }
        () = relay.draining.cancelled() => return None,
    };
    origin.map(|origin| origin.address).map_err(|why| relay.no_header(0, balancer, &why)).ok()
}

/// A client that has not shown yet what it wants.
struct Newcomer {
    socket: Socket,
    peer: SocketAddr,
    reader: ClientReader,
    /// Read and not yet understood.
    early: Vec<u8>,
    /// The relay's certificate, if the connection is under TLS.
    binding: Binding,
    /// SHA-256 of the client's.
    certificate: Option<[u8; 32]>,
    client: Option<Client>,
    /// What it was asked to prove.
    question: Option<(Name, Nonce)>,
}

/// What is to become of a connection when all is said.
enum Next {
    Multiplex(Arc<Tunnel>, PublicPort),
    Event(Arc<Tunnel>, PublicPort),
    Claim(oneshot::Sender<Claim>),
    Pool(Arc<Pool>, PublicPort, registry::Name<Arc<Pool>>),
    Join(Arc<Pool>),
    End(Arc<Pool>),
}

/// The pool of that name, if it is the client's.
fn pool_of(relay: &Relay, id: &Id, seal: Option<&Seal>, secure: bool) -> Result<Arc<Pool>, Refused> {
    relay.pools.get(id).filter(|pool| pool.client().owns(id, seal, secure)).ok_or(Refused::NoPool)
}

impl Newcomer {
    /// Finds out whether it speaks TLS, and goes through that handshake.
    async fn arrive(relay: &Relay, stream: TcpStream, peer: SocketAddr) -> Result<Self, Refused> {
        let socket = Socket::from(stream);
        let mut piece = [0; MAX_LINE];
        let read = socket.read(&mut piece).await.map_err(Refused::Lost)?;
        let mut early = piece[..read].to_vec();
        let (socket, binding, certificate) = match (early.first(), &relay.config.tls, socket) {
            (None, _, _) => return Err(Refused::Silent),
            (Some(&TLS_HANDSHAKE), None, _) => return Err(Refused::NoTls),
            (Some(&TLS_HANDSHAKE), Some(tls), Socket::Tcp(stream)) => {
                let generation = tls.current();
                let early = std::mem::take(&mut early);
                let stream = tls::accept(stream, early, generation.config.clone()).await.map_err(Refused::Tls)?;
                let binding = generation.binding(stream.server_name().as_deref());
                let certificate = stream.peer_certificates().first().map(|der| Sha256::digest(der).into());
                (Socket::from(stream), binding, certificate)
            }
            (Some(_), _, socket) => (socket, Binding::None, None),
        };
        let reader = ClientReader::default();
        Ok(Self { socket, peer, reader, early, binding, certificate, client: None, question: None })
    }

    fn is_secure(&self) -> bool {
        self.binding != Binding::None
    }

    /// Answers all that comes before the request, and gives that.
    async fn listen(&mut self, relay: &Relay) -> Result<(Request, Options), Refused> {
        let mut spoke = !self.early.is_empty();
        loop {
            let mut input = &self.early[..];
            let said = self.reader.read(&mut input).map_err(Refused::Bad)?;
            let understood = self.early.len() - input.len();
            self.early.drain(..understood);
            match said {
                Some(Said::Hello) => self.hello(relay).await?,
                Some(Said::Auth(name)) => self.ask(relay, name).await?,
                Some(Said::Proof(proof)) => self.prove(relay, &proof).await?,
                Some(Said::Request(request, options)) => return Ok((request, options)),
                None => {
                    let mut piece = [0; MAX_LINE];
                    let read = self.socket.read(&mut piece).await.map_err(Refused::Lost)?;
                    if read == 0 {
                        return Err(if spoke { Refused::Closed } else { Refused::Silent });
                    }
                    spoke = true;
                    self.early.extend_from_slice(&piece[..read]);
                }
            }
        }
    }

    async fn answer(&self, answer: &Answer) -> Result<(), Refused> {
        self.socket.write_all(answer.to_string().as_bytes()).await.map_err(Refused::Lost)
    }

    async fn hello(&self, relay: &Relay) -> Result<(), Refused> {
        if !(self.is_secure() || relay.config.plain_text || relay.serves_anonymous(self.peer.ip())) {
            return Err(Refused::PlainText);
        }
        self.answer(&Answer::Features(Features::new(&FEATURES))).await
    }

    async fn ask(&mut self, relay: &Relay, name: Name) -> Result<(), Refused> {
        if !(self.is_secure() || relay.config.plain_text) {
            return Err(Refused::PlainText);
        }
        if let Some(left) = relay.sources.penalty(self.peer.ip()) {
            return Err(Refused::Penalised(left));
        }
        let nonce = Nonce::from_random(rand::random());
        self.answer(&Answer::Nonce(nonce.clone())).await?;
        self.question = Some((name, nonce));
        Ok(())
    }

    async fn prove(&mut self, relay: &Relay, proof: &Proof) -> Result<(), Refused> {
        // The reader lets a proof come only behind a name.
        let Some((name, nonce)) = self.question.take() else { return Err(Refused::Denied(Denied::Unproven, None)) };
        let (account, key) = match relay.config.identities.by_proof(&name, &nonce, &self.binding, proof) {
            Ok(proven) => proven,
            Err(denied) => {
                if denied == Denied::Unproven {
                    relay.sources.failed(self.peer.ip());
                }
                return Err(Refused::Denied(denied, Some(name)));
            }
        };
        self.client =
            Some(if self.is_secure() { Client::Secure(account) } else { Client::Plain(account, Seals::new(key)) });
        self.answer(&Answer::Ok).await
    }

    /// Who wants a new tunnel.
    fn client(&self, relay: &Relay) -> Result<Client, Refused> {
        if let Some(client) = &self.client {
            // It may have been revoked since it proved itself.
            let cut = client.account().filter(|account| account.cut.is_cancelled());
            let gone = cut.map(|account| Refused::Denied(Denied::Revoked, Some(account.identity.name.clone())));
            return gone.map_or_else(|| Ok(client.clone()), Err);
        }
        let by_certificate = self.certificate.map(|hash| relay.config.identities.by_certificate(&hash));
        match by_certificate {
            Some(Ok(account)) => Ok(Client::Secure(account)),
            Some(Err(denied @ (Denied::Revoked | Denied::Expired))) => Err(Refused::Denied(denied, None)),
            _ if relay.serves_anonymous(self.peer.ip()) => Ok(Client::Anonymous),
            Some(Err(Denied::Unproven)) => Err(Refused::Denied(Denied::Unproven, None)),
            None if self.is_secure() || relay.config.plain_text => Err(Refused::NoIdentity),
            None => Err(Refused::PlainText),
        }
    }

    /// Finds or makes what the request asks for, and tells the client.
    async fn serve(&self, relay: &Arc<Relay>, request: Request, options: &Options) -> Result<Next, Refused> {
        let protocol = request.protocol();
        let secure = self.is_secure();
        match request {
            Request::EventClaim(id, seal) => {
                let ticket = relay.tickets.take_if(&id, |ticket| ticket.client.owns(&id, seal.as_ref(), secure));
                return Ok(Next::Claim(ticket.ok_or(Refused::NoTicket)?.claimer));
            }
            Request::PoolJoin(id, seal) => return Ok(Next::Join(pool_of(relay, &id, seal.as_ref(), secure)?)),
            Request::PoolEnd(id, seal) => return Ok(Next::End(pool_of(relay, &id, seal.as_ref(), secure)?)),
            Request::Multiplex | Request::EventNew | Request::PoolNew => {}
        }
        let client = self.client(relay)?;
        let opened = Tunnel::open(relay, self.peer, protocol, client, options).await;
        let (tunnel, public) = opened.map_err(Refused::NoTunnel)?;
        let (next, pool) = match request {
            Request::PoolNew => {
                let pool = Pool::new(tunnel.clone());
                let name = relay.pools.give(pool.clone());
                let id = name.id().clone();
                (Next::Pool(pool, public, name), Some(id))
            }
            Request::EventNew => (Next::Event(tunnel.clone(), public), None),
            _ => (Next::Multiplex(tunnel.clone(), public), None),
        };
        // In full before a link starts: its frames follow on the same connection.
        self.answer(&Answer::Established(Established { port: tunnel.port, pool })).await?;
        Ok(next)
    }

    /// Hands the connection on; all that lasts goes on in tasks of its own.
    fn go_on(self, next: Next) {
        let Self { socket, peer, early, .. } = self;
        match next {
            Next::Multiplex(tunnel, public) => tunnel.clone().spawn(multiplex::serve(tunnel, public, socket, early)),
            // The client has nothing more to say: what came early is discarded like what comes later.
            Next::Event(tunnel, public) => tunnel.clone().spawn(event::serve(tunnel, public, socket)),
            // A user who left meanwhile takes its claim's connection with it.
            Next::Claim(user) => drop(user.send((socket, early))),
            Next::Pool(pool, public, name) => {
                // A new pool has room.
                let _ = pool.join(socket, peer, early);
                pool.tunnel().clone().spawn(pool::serve(pool, public, name));
            }
            Next::Join(pool) => {
                if let Err(PoolFull) = pool.join(socket, peer, early) {
                    pool.tunnel().relay.say("member refused", 0, peer, &Refused::PoolFull);
                }
            }
            Next::End(pool) => pool.end(),
        }
    }

    /// Says why, if that is understood, and closes so that it can be read.
    async fn dismiss(self, refused: &Refused) -> io::Result<()> {
        if let Some(refusal) = refused.refusal().filter(|_| self.reader.spoke_relay1()) {
            self.socket.write_all(Answer::Refused(refusal).to_string().as_bytes()).await?;
        } else if !self.is_secure() {
            return Ok(());
        }
        self.socket.shutdown_write()?;
        let mut left = FAREWELL_BYTES;
        while left > 0 {
            match self.socket.read(&mut [0; MAX_LINE]).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok(())
    }
}
