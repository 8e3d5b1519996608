//! A man in the middle: he stands before our own relay, passes everything on, and breaks one thing.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use relay::conformance::session::Frame;
use relay_client::{Tls, Trust};
use relay_net::socket::Socket;
use relay_net::tls;
use relay_proto::invite::Invite;
use relay_proto::yamux::{HEADER_LEN, Header, Kind};
use rustls::ServerConfig;
use rustls::crypto::ring;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::rig::OwnCertificate;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToRelay,
    ToClient,
}

/// What is passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Without its end.
    Line(String),
    Frame(Frame),
    Bytes(Vec<u8>),
    Finish,
    Reset,
}

/// What a connection to the control port has been asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    Unknown,
    Multiplex,
    PoolNew,
    EventNew,
    DialBack,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    GoesOn,
    Closes,
    /// Stays open, and nothing more is passed on.
    Hangs,
}

/// What is remembered of one connection, both ways.
pub(crate) struct Memory {
    pub(crate) purpose: Purpose,
    /// What the client has said so far, in lines.
    pub(crate) said: String,
    /// For the fault to count by.
    pub(crate) count: usize,
    pub(crate) held: Option<Piece>,
    pub(crate) all: Arc<Shared>,
    fate: Fate,
    /// A port was given; the name of the pool may have to follow.
    answered: bool,
    named: bool,
}

/// What is remembered of all connections.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) words: Mutex<HashSet<String>>,
    pub(crate) notes: Mutex<HashMap<&'static str, String>>,
    dead: CancellationToken,
}

impl Memory {
    pub(crate) fn close(&mut self) -> Vec<Piece> {
        self.fate = Fate::Closes;
        Vec::new()
    }

    pub(crate) fn hang(&mut self) -> Vec<Piece> {
        self.fate = Fate::Hangs;
        Vec::new()
    }

    /// The whole relay ends.
    pub(crate) fn die(&mut self) -> Vec<Piece> {
        self.all.dead.cancel();
        Vec::new()
    }
}

/// What he breaks.
#[derive(Clone, Copy)]
pub(crate) struct Fault {
    /// Changes what was read at once.
    pub(crate) chunk: fn(&mut Memory, Way, Vec<u8>) -> Vec<u8>,
    /// Changes what that means.
    pub(crate) piece: fn(&mut Memory, Way, Piece) -> Vec<Piece>,
    /// Passes what came in plain text on over TLS.
    pub(crate) launders: bool,
}

pub(crate) const NONE: Fault = Fault { chunk: |_, _, bytes| bytes, piece: |_, _, piece| vec![piece], launders: false };

/// He and his connections; they end with the test.
pub(crate) struct Middle {
    pub(crate) control: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Middle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Both sides' TLS: he has the relay's certificate and its key.
#[derive(Clone)]
struct BothTls {
    server: Arc<ServerConfig>,
    client: Tls,
    invite: Invite,
}

impl Middle {
    pub(crate) async fn start(relay: SocketAddr, certificate: Option<&OwnCertificate>, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let control = listener.local_addr().unwrap();
        let tls = certificate.map(|certificate| {
            let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der.clone()], certificate.key());
            let mut config = config.unwrap();
            config.alpn_protocols = vec![relay_client::ALPN.to_vec()];
            let invite: Invite = certificate.invite(relay).parse().unwrap();
            BothTls {
                server: Arc::new(config),
                client: Tls::new(Trust::Pin(invite.pin.unwrap()), None).unwrap(),
                invite,
            }
        });
        let all = Arc::new(Shared::default());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            let dead = all.dead.clone();
            let serve = async {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (all, tls) = (all.clone(), tls.clone());
                    connections.spawn(async move {
                        // Whatever goes wrong, it is over.
                        let _ = pass_on(stream, relay, tls, fault, all).await;
                    });
                }
            };
            tokio::select! {
                () = serve => {}
                () = dead.cancelled() => {}
            }
        });
        Self { control, task }
    }
}

async fn pass_on(
    stream: TcpStream,
    relay: SocketAddr,
    tls: Option<BothTls>,
    fault: Fault,
    all: Arc<Shared>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    // Only a client of TLS has to speak before the relay is dialled.
    let is_tls = tls.is_some() && stream.peek(&mut first).await? == 1 && first == [0x16];
    let (client, relay) = match tls {
        Some(tls) if is_tls || fault.launders => {
            let relay = tls.client.dial(&tls.invite.relay).await.map_err(io::Error::other)?;
            let client = if is_tls {
                tls::accept(stream, Vec::new(), tls.server).await.map_err(io::Error::other)?.into()
            } else {
                Socket::from(stream)
            };
            (client, relay)
        }
        _ => (Socket::from(stream), Socket::from(TcpStream::connect(relay).await?)),
    };
    let _ = relay.tcp().map(|tcp| tcp.set_nodelay(true));
    let memory = Memory {
        purpose: Purpose::Unknown,
        said: String::new(),
        count: 0,
        held: None,
        all,
        fate: Fate::GoesOn,
        answered: false,
        named: false,
    };
    let memory = Mutex::new(memory);
    let ended = tokio::try_join!(
        pump(Way::ToRelay, &client, &relay, &memory, fault),
        pump(Way::ToClient, &relay, &client, &memory, fault)
    );
    if ended.is_err() {
        client.abort();
        relay.abort();
    }
    Ok(())
}

/// Passes one direction on until its clean end; an error is a reset.
async fn pump(way: Way, from: &Socket, to: &Socket, memory: &Mutex<Memory>, fault: Fault) -> io::Result<()> {
    let mut unread = Vec::new();
    loop {
        let mut piece = vec![0; 64 * 1024];
        let read = from.read(&mut piece).await;
        let (out, over, fate) = {
            let mut memory = memory.lock().unwrap();
            let end = match read {
                Ok(0) => Some(Piece::Finish),
                Ok(read) => {
                    unread.extend((fault.chunk)(&mut memory, way, piece[..read].to_vec()));
                    None
                }
                Err(_) => Some(Piece::Reset),
            };
            let over = end.is_some();
            let mut out = Vec::new();
            while let Some(piece) = memory.next(way, &mut unread, over) {
                out.extend((fault.piece)(&mut memory, way, piece));
            }
            out.extend(end.map(|end| (fault.piece)(&mut memory, way, end)).unwrap_or_default());
            (out, over, memory.fate)
        };
        if fate == Fate::Hangs {
            return std::future::pending().await;
        }
        for piece in out {
            match piece {
                Piece::Line(line) => to.write_all(format!("{line}\n").as_bytes()).await?,
                Piece::Bytes(bytes) => to.write_all(&bytes).await?,
                Piece::Frame(Frame { header, body }) => to.write_all(&[&header.encode()[..], &body].concat()).await?,
                Piece::Finish => to.shutdown_write()?,
                Piece::Reset => return Err(io::ErrorKind::ConnectionReset.into()),
            }
        }
        if fate == Fate::Closes {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if over {
            return Ok(());
        }
    }
}

impl Memory {
    /// The next piece of what was read, if it is whole; at an end whatever is left.
    fn next(&mut self, way: Way, unread: &mut Vec<u8>, over: bool) -> Option<Piece> {
        if unread.is_empty() {
            return None;
        }
        let frames = self.purpose == Purpose::Multiplex && (way == Way::ToRelay || self.answered);
        let lines = match (way, self.purpose) {
            (_, Purpose::Unknown) | (Way::ToClient, Purpose::EventNew) => true,
            (Way::ToClient, Purpose::Multiplex) => !self.answered,
            (Way::ToClient, Purpose::PoolNew) => !self.named,
            _ => false,
        };
        if lines {
            if let Some(end) = unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = unread.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line[..end]).into_owned();
                self.learn(way, &line);
                return Some(Piece::Line(line));
            }
            // An endless line, or the beginning of one.
            return (over || unread.len() > 4096).then(|| Piece::Bytes(std::mem::take(unread)));
        }
        let header = unread.first_chunk::<HEADER_LEN>().map(|header| Header::decode(*header));
        match header {
            Some(Ok(header)) if frames => {
                let body = if header.kind == Kind::Data { header.length as usize } else { 0 };
                // A frame that promises more than comes is passed on as it is.
                if unread.len() < HEADER_LEN + body && body <= 1 << 20 && !over {
                    return None;
                }
                if unread.len() < HEADER_LEN + body {
                    return Some(Piece::Bytes(std::mem::take(unread)));
                }
                unread.drain(..HEADER_LEN);
                Some(Piece::Frame(Frame { header, body: unread.drain(..body).collect() }))
            }
            None if frames && !over => None,
            _ => Some(Piece::Bytes(std::mem::take(unread))),
        }
    }

    fn learn(&mut self, way: Way, line: &str) {
        let words = line.trim();
        if way == Way::ToClient {
            self.named |= self.answered;
            self.answered |= words.parse::<u16>().is_ok();
            return;
        }
        let before = self.said.lines().last().and_then(|line| line.split_whitespace().next());
        let first = words.split_whitespace().next();
        self.purpose = match (before, first) {
            (Some("pool"), Some("new")) => Purpose::PoolNew,
            (Some("event"), Some("new")) => Purpose::EventNew,
            (Some("pool" | "event"), Some(_)) => Purpose::DialBack,
            (_, Some("multiplex")) => Purpose::Multiplex,
            _ => Purpose::Unknown,
        };
        self.said.extend([words, "\n"]);
    }
}
