//! A small client of its own kind, in all three protocols, with a fault or without. It forwards to an echo service.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use relay::conformance::client::{Place, Play};
use relay_client::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::fault::Fault;
use crate::service::{Event, Out};

/// How many idle members it keeps.
const MEMBERS: usize = 4;

/// So many members that end unused, one after the other, mean that there is no such pool any more.
const REFUSED: usize = 5;

const PAUSE: Duration = Duration::from_millis(20);

/// A client with that fault.
pub(crate) fn play(protocol: Protocol, fault: Fault) -> Play {
    Box::new(move |place| {
        let client = Arc::new(Client {
            protocol,
            fault,
            place,
            dead: CancellationToken::new(),
            users: AtomicUsize::new(0),
            turn: Mutex::new(()),
        });
        Box::pin(async move {
            // Whatever was spawned ends with this.
            let _guard = client.dead.clone().drop_guard();
            let _ = client.dead.run_until_cancelled(client.clone().run()).await;
        })
    })
}

pub(crate) struct Client {
    pub(crate) protocol: Protocol,
    pub(crate) fault: Fault,
    pub(crate) place: Place,
    dead: CancellationToken,
    /// Who are served.
    pub(crate) users: AtomicUsize,
    /// Whose turn it is, for [`Fault::ServesOneAtATime`].
    pub(crate) turn: Mutex<()>,
}

/// What a relay has given.
pub(crate) struct Tunnel {
    pub(crate) relay: Lines,
    /// Each user begins with a line that says who he is.
    pub(crate) addressed: bool,
    pool: String,
}

impl Client {
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// Ends the client, with all its connections.
    pub(crate) fn die(&self) {
        self.dead.cancel();
    }

    pub(crate) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let dead = self.dead.clone();
        tokio::spawn(async move { dead.run_until_cancelled(task).await });
    }

    async fn run(self: Arc<Self>) {
        let mut old = false;
        loop {
            if let Ok(Some(tunnel)) = self.ask(&mut old).await {
                match self.protocol {
                    Protocol::Multiplex => self.clone().link(tunnel).await,
                    Protocol::Pool => self.clone().pool(tunnel).await,
                    _ => self.clone().event(tunnel).await,
                }
                if self.has(Fault::NeverComesBack) {
                    std::future::pending::<()>().await;
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Asks for a tunnel; none if the relay turns out to be old, or refuses.
    async fn ask(&self, old: &mut bool) -> io::Result<Option<Tunnel>> {
        let mut relay = self.dial().await?;
        let mut features = String::new();
        if !*old {
            relay.say("relay/1\n").await?;
            match timeout(Duration::from_secs(2), relay.line()).await {
                Ok(Ok(line)) => features = line,
                Ok(Err(_)) if self.has(Fault::GivesOldRelaysUp) => self.die(),
                Err(_) if self.has(Fault::WaitsForOldRelays) => std::future::pending().await,
                Ok(Err(_)) | Err(_) => {
                    *old = true;
                    return Ok(None);
                }
            }
        }
        let addressed = features.split(' ').any(|word| word == "proxy") || self.has(Fault::AsksForWhatIsNotNamed);
        let option = if addressed { " proxy=v1" } else { "" };
        let new = if self.protocol == Protocol::Multiplex { "" } else { "new\n" };
        let asked = format!("{}{option}\n{new}", self.protocol);
        relay.say(if self.has(Fault::SaysOtherLines) { asked.to_uppercase() } else { asked }).await?;
        let port = relay.line().await?;
        if port.starts_with("error ") {
            if self.has(Fault::TakesErrorsForFinal) {
                self.die();
            }
            return Ok(None);
        }
        let pool = if self.protocol == Protocol::Pool { relay.line().await? } else { String::new() };
        if self.has(Fault::DropsWhatFollowsTheAnswer) {
            relay.ahead.clear();
        }
        Ok(Some(Tunnel { relay, addressed, pool }))
    }

    async fn dial(&self) -> io::Result<Lines> {
        let socket = TcpStream::connect(self.place.relay).await?;
        socket.set_nodelay(true)?;
        Ok(Lines { socket, ahead: Vec::new(), whole_reads: self.has(Fault::TakesAReadForTheAnswer) })
    }

    async fn dial_back(&self, id: &str) -> io::Result<Lines> {
        let mut relay = self.dial().await?;
        relay.say(format!("{}\n{id}\n", self.protocol)).await?;
        Ok(relay)
    }

    async fn pool(self: Arc<Self>, tunnel: Tunnel) {
        let Tunnel { relay, addressed, pool } = tunnel;
        let (over, mut refused) = mpsc::channel::<()>(1);
        let shared = Arc::new((pool, AtomicUsize::new(0), over, addressed));
        self.spawn(self.clone().keep_member(Some(relay), shared.clone()));
        let more = if self.has(Fault::KeepsOneMember) { 0 } else { MEMBERS - 1 };
        for _ in 0..more {
            self.spawn(self.clone().keep_member(None, shared.clone()));
        }
        drop(shared);
        refused.recv().await;
    }

    /// Keeps one idle member in the pool, until it is gone.
    async fn keep_member(
        self: Arc<Self>,
        mut first: Option<Lines>,
        shared: Arc<(String, AtomicUsize, mpsc::Sender<()>, bool)>,
    ) {
        let (pool, refused, over, addressed) = &*shared;
        while refused.load(Ordering::Relaxed) < REFUSED {
            let joined = match first.take() {
                Some(member) => Ok(member),
                None => self.dial_back(pool).await,
            };
            if let Ok(mut member) = joined
                && (!member.ahead.is_empty() || member.more().await.is_ok())
            {
                refused.store(0, Ordering::Relaxed);
                let served = self.clone().serve_socket(member, *addressed);
                if self.has(Fault::KeepsOneMember) {
                    served.await;
                } else {
                    self.spawn(served);
                }
                continue;
            }
            if self.has(Fault::EndsWithAMember) {
                self.die();
            }
            refused.fetch_add(1, Ordering::Relaxed);
            sleep(PAUSE).await;
        }
        let _ = over.try_send(());
    }

    async fn event(self: Arc<Self>, tunnel: Tunnel) {
        let Tunnel { mut relay, addressed, .. } = tunnel;
        let control = CancellationToken::new();
        relay.whole_reads = self.has(Fault::DropsHalfATicket);
        while let Ok(ticket) = relay.line().await {
            if self.has(Fault::TakesAReadForATicket) {
                relay.ahead.clear();
            }
            let (client, control) = (self.clone(), control.clone());
            self.spawn(async move {
                let ends_too = client.has(Fault::EndsUsersWithTheControlConnection);
                let claim = async {
                    let Ok(mut claim) = client.dial_back(&ticket).await else { return };
                    if client.has(Fault::EndsWithAClaim) && claim.more().await.is_err() {
                        client.die();
                    }
                    client.clone().serve_socket(claim, addressed).await;
                };
                tokio::select! {
                    () = claim => {}
                    () = control.cancelled(), if ends_too => {}
                }
            });
        }
        control.cancel();
    }

    /// Serves a user who has a connection of his own.
    async fn serve_socket(self: Arc<Self>, carrier: Lines, addressed: bool) {
        let (mut from, to) = carrier.socket.into_split();
        let (events, came) = mpsc::unbounded_channel();
        if !carrier.ahead.is_empty() {
            let _ = events.send(Event::Bytes(carrier.ahead));
        }
        let reads = async move {
            let mut buffer = vec![0; 16 * 1024];
            loop {
                let event = match from.read(&mut buffer).await {
                    Ok(0) => Event::End,
                    Ok(read) => Event::Bytes(buffer[..read].to_vec()),
                    Err(_) => Event::Abort,
                };
                let last = !matches!(event, Event::Bytes(_));
                if events.send(event).is_err() || last {
                    return std::future::pending().await;
                }
            }
        };
        tokio::select! {
            () = self.serve(came, Out::Socket(Some(to)), addressed) => {}
            () = reads => {}
        }
    }
}

/// A connection of which lines are read.
pub(crate) struct Lines {
    pub(crate) socket: TcpStream,
    pub(crate) ahead: Vec<u8>,
    /// Takes what one read gives for a whole line.
    whole_reads: bool,
}

impl Lines {
    async fn say(&mut self, lines: impl AsRef<str>) -> io::Result<()> {
        self.socket.write_all(lines.as_ref().as_bytes()).await
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            let end = self.ahead.iter().position(|byte| *byte == b'\n');
            if let Some(end) = end.or(self.ahead.len().checked_sub(1).filter(|_| self.whole_reads)) {
                let line: Vec<u8> = self.ahead.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim().into());
            }
            self.more().await?;
        }
    }

    /// Waits for at least a byte.
    async fn more(&mut self) -> io::Result<()> {
        // All of a segment.
        self.ahead.reserve(16 * 1024);
        match self.socket.read_buf(&mut self.ahead).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
