//! The service that the kit offers to whatever client needs one: an echo, which can do for a check what an echo
//! does not, and tells how its users leave.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use relay_net::socket::Socket;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::conformance::peer::{End, within};
use crate::conformance::{Seen, Verdict};

/// What the service says first when it [greets](Manner::Greets).
pub(super) const GREETING: &str = "what may it be?";

/// What it does with those who connect from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// Sends back what it gets, and then the end.
    Echoes,
    /// Speaks first, and then echoes.
    Greets,
    /// Resets the connection instead of echoing the first bytes.
    Aborts,
}

/// A running service. Dropping it ends it.
pub(super) struct Service {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    ends: tokio::sync::Mutex<mpsc::UnboundedReceiver<(usize, End)>>,
    _task: JoinSet<()>,
}

struct Shared {
    manner: Mutex<Manner>,
    served: AtomicUsize,
    /// Which user has left, and how.
    ended: mpsc::UnboundedSender<(usize, End)>,
}

impl Service {
    /// Listens on a free port of this machine.
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (ended, ends) = mpsc::unbounded_channel();
        let manner = Mutex::new(Manner::Echoes);
        let shared = Arc::new(Shared { manner, served: AtomicUsize::new(0), ended });
        let address = listener.local_addr()?;
        let mut task = JoinSet::new();
        task.spawn(serve(listener, shared.clone()));
        Ok(Self { address, shared, ends: ends.into(), _task: task })
    }

    /// Whether anybody has come: then it is what is behind the client.
    pub(super) fn is_used(&self) -> bool {
        self.shared.served.load(Ordering::Relaxed) > 0
    }

    /// Serves from now on in that manner. Gives how many have come before.
    pub(super) fn behave(&self, manner: Manner) -> usize {
        *self.shared.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
        self.shared.served.load(Ordering::Relaxed)
    }

    /// How a user leaves who has come after so many others.
    pub(super) async fn user_left(&self, before: usize) -> Verdict<End> {
        let mut ends = self.ends.lock().await;
        let leaves = async {
            loop {
                match ends.recv().await {
                    Some((user, _)) if user < before => {}
                    Some((_, end)) => return Ok(end),
                    None => return Err(Seen::from("the kit's own service has ended")),
                }
            }
        };
        within("the service hears that its user has left", leaves).await?
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut users = JoinSet::new();
    loop {
        // What cannot be accepted shows as a user who is not served.
        let Ok((user, _)) = listener.accept().await else { continue };
        let number = shared.served.fetch_add(1, Ordering::Relaxed);
        let shared = shared.clone();
        users.spawn(async move {
            let manner = *shared.manner.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = user.set_nodelay(true);
            let end = if echo(user.into(), manner).await.is_ok() { End::Clean } else { End::Reset };
            // Fails only when the kit is done.
            let _ = shared.ended.send((number, end));
        });
        while users.try_join_next().is_some() {}
    }
}

async fn echo(user: Socket, manner: Manner) -> io::Result<()> {
    if manner == Manner::Greets {
        user.write_all(GREETING.as_bytes()).await?;
    }
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match user.read(&mut buffer).await? {
            0 => return user.shutdown_write(),
            _ if manner == Manner::Aborts => {
                user.abort();
                return Ok(());
            }
            read => user.write_all(&buffer[..read]).await?,
        }
    }
}
