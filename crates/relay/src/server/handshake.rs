//! What a client wants, learnt in bounded time, room and number. There are no error replies: failure
//! is a close.

use std::fmt;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use relay_proto::handshake::{ClientReader, Established, HandshakeError, MAX_LINE, Request, Said};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::pending::Place;
use super::pool::{Pool, PoolFull};
use super::tunnel::{NoPort, Tunnel};
use super::{Relay, event, multiplex, pool};

/// Why a connection to the control port came to nothing.
#[derive(Debug)]
enum Refused {
    /// It closed without a byte: a port scan, a health check.
    Silent,
    Closed,
    Lost(io::Error),
    Late,
    Crowded,
    Bad(HandshakeError),
    NoTicket,
    NoPool,
    PoolFull,
    NoPort(NoPort),
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
            Self::Bad(error) => error.fmt(f),
            Self::NoTicket => f.write_str("claimed a user who does not wait (any more)"),
            Self::NoPool => f.write_str("named a pool that does not exist (any more)"),
            Self::PoolFull => f.write_str("joined a pool that has too many idle members"),
            Self::NoPort(error) => error.fmt(f),
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
            Self::Bad(_) => "client refused",
            Self::NoTicket => "claim refused",
            Self::NoPool | Self::PoolFull => "member refused",
            Self::NoPort(_) => "tunnel refused",
        }
    }
}

/// Takes one connection to the control port through its handshake and hands it on.
pub(super) async fn greet(relay: Arc<Relay>, stream: TcpStream, peer: SocketAddr, mut place: Place) {
    let deadline = Instant::now() + relay.limits().handshake;
    let request = tokio::select! {
        biased;
        request = timeout_at(deadline, read_request(&stream)) => request.unwrap_or(Err(Refused::Late)),
        () = place.pushed_out() => Err(Refused::Crowded),
        () = relay.draining.cancelled() => Err(Refused::Stopping),
    };
    let served = match request {
        Ok((request, early)) => {
            let start = serve(&relay, stream, peer, request, early);
            timeout_at(deadline, start).await.unwrap_or(Err(Refused::Late))
        }
        Err(refused) => Err(refused),
    };
    match served {
        Ok(()) => {}
        Err(refused @ (Refused::Silent | Refused::Stopping)) => debug!(%peer, "client {refused}"),
        Err(refused) => relay.say(refused.kind(), 0, peer, &refused),
    }
}

/// Reads the request; gives what arrived after it, too.
async fn read_request(stream: &TcpStream) -> Result<(Request, Vec<u8>), Refused> {
    let mut reader = ClientReader::default();
    let mut spoke = false;
    loop {
        stream.readable().await.map_err(Refused::Lost)?;
        let mut piece = [0; MAX_LINE];
        let read = match stream.try_read(&mut piece) {
            Ok(0) if spoke => return Err(Refused::Closed),
            Ok(0) => return Err(Refused::Silent),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(Refused::Lost(error)),
        };
        spoke = true;
        let mut input = &piece[..read];
        match reader.read(&mut input).map_err(Refused::Bad)? {
            None => {}
            Some(Said::Request(request, _)) => return Ok((request, input.to_vec())),
            Some(said) => {
                let word = said.to_string().trim_end().into();
                return Err(Refused::Bad(HandshakeError::Unknown(word)));
            }
        }
    }
}

/// Starts what the request asks for; all that lasts goes on in tasks of its own.
async fn serve(
    relay: &Arc<Relay>,
    mut stream: TcpStream,
    peer: SocketAddr,
    request: Request,
    early: Vec<u8>,
) -> Result<(), Refused> {
    let protocol = request.protocol();
    match request {
        Request::Multiplex => {
            let (tunnel, public) = Tunnel::open(relay, peer, protocol).await.map_err(Refused::NoPort)?;
            // In full before the link starts: its frames follow on the same connection.
            reply(&mut stream, &Established { port: tunnel.port, pool: None }).await?;
            tunnel.clone().spawn(multiplex::serve(tunnel, public, stream, early));
        }
        Request::EventNew => {
            let (tunnel, public) = Tunnel::open(relay, peer, protocol).await.map_err(Refused::NoPort)?;
            reply(&mut stream, &Established { port: tunnel.port, pool: None }).await?;
            // The client has nothing more to say: what came early is discarded like what comes later.
            tunnel.clone().spawn(event::serve(tunnel, public, stream));
        }
        Request::EventClaim(id, _) => {
            let user = relay.tickets.take(&id).ok_or(Refused::NoTicket)?;
            user.send((stream, early)).map_err(|_| Refused::NoTicket)?;
        }
        Request::PoolNew => {
            let (tunnel, public) = Tunnel::open(relay, peer, protocol).await.map_err(Refused::NoPort)?;
            let pool = Pool::new(tunnel.clone());
            let name = relay.pools.give(pool.clone());
            reply(&mut stream, &Established { port: tunnel.port, pool: Some(name.id().clone()) }).await?;
            pool.join(stream, peer, early).map_err(|PoolFull| Refused::PoolFull)?;
            tunnel.spawn(pool::serve(pool, public, name));
        }
        Request::PoolJoin(id, _) => {
            let pool = relay.pools.get(&id).ok_or(Refused::NoPool)?;
            pool.join(stream, peer, early).map_err(|PoolFull| Refused::PoolFull)?;
        }
    }
    Ok(())
}

async fn reply(stream: &mut TcpStream, answer: &Established) -> Result<(), Refused> {
    stream.write_all(answer.to_string().as_bytes()).await.map_err(Refused::Lost)
}
