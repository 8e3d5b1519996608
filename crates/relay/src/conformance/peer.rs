//! One end of a connection, of which every wait has an end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use relay_net::socket::Socket;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{Seen, Verdict};

/// How long is waited for what has to come: as long as the protocol lets a user wait, and some round trips more.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// How long is looked for what must not come. It can miss a fault, and never sees one that is not.
pub const QUIET: Duration = Duration::from_millis(200);

/// Between two pieces of what is sent in pieces: long enough for the first to have been read on its own.
pub const PAUSE: Duration = Duration::from_millis(10);

/// The longest line that is read, in bytes: that with all options.
const MAX_LINE: usize = 4096;

/// Waits for what has to come.
///
/// # Errors
/// It has not come within [`PATIENCE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> Verdict<T> {
    timeout(PATIENCE, future).await.map_err(|_| format!("{what}: nothing within {} s", PATIENCE.as_secs()).into())
}

/// How the far side ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By an end-of-file; over TLS by a `close_notify`.
    Clean,
    /// By a reset; over TLS also by an end without `close_notify`.
    Reset,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Whom the kit plays with it; sentences begin with it.
    who: &'static str,
    socket: Socket,
    /// What was read beyond what was asked for.
    ahead: Vec<u8>,
}

impl Peer {
    /// The end of an existing connection.
    pub fn new(who: &'static str, socket: impl Into<Socket>) -> Self {
        let socket = socket.into();
        // What is sent in pieces has to leave in pieces.
        let _ = socket.tcp().map(|tcp| tcp.set_nodelay(true));
        Self { who, socket, ahead: Vec::new() }
    }

    /// A new connection in plain text.
    ///
    /// # Errors
    /// Nobody takes it.
    pub async fn connect(who: &'static str, address: SocketAddr) -> Verdict<Self> {
        match within(who, TcpStream::connect(address)).await? {
            Ok(stream) => Ok(Self::new(who, stream)),
            Err(error) => Err(format!("{who}: cannot connect to {address}: {error}").into()),
        }
    }

    /// The socket beneath, and what was read from it and not asked for.
    pub fn into_parts(self) -> (Socket, Vec<u8>) {
        (self.socket, self.ahead)
    }

    /// The socket beneath.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sends all of it.
    ///
    /// # Errors
    /// The far side has reset the connection, or takes no more.
    pub async fn send(&self, bytes: impl AsRef<[u8]>) -> Verdict {
        match timeout(PATIENCE, self.socket.write_all(bytes.as_ref())).await {
            Ok(sent) => sent.map_err(|error| self.seen(format_args!("nothing more can be sent: {error}"))),
            Err(_) => Err(self.seen(format_args!("takes no byte for {} s", PATIENCE.as_secs()))),
        }
    }

    /// Sends it in two pieces, cut at that place; in one if that is its beginning.
    ///
    /// # Errors
    /// As of [`send`](Self::send).
    pub async fn send_cut(&self, bytes: &[u8], at: usize) -> Verdict {
        let (first, second) = bytes.split_at(at);
        if !first.is_empty() {
            self.send(first).await?;
            sleep(PAUSE).await;
        }
        self.send(second).await
    }

    /// Sends end-of-file; reading goes on.
    ///
    /// # Errors
    /// The far side has reset the connection.
    pub async fn finish(&self) -> Verdict {
        self.socket.shutdown_write().map_err(|error| self.seen(format_args!("cannot end: {error}")))?;
        while !self.socket.flush().unwrap_or(true) {
            within(self.who, self.socket.writable()).await?.map_err(|error| self.seen(&error))?;
        }
        Ok(())
    }

    /// Resets the connection.
    pub fn abort(self) {
        self.socket.abort();
    }

    /// Exactly so many bytes; no memory is taken before they have come.
    ///
    /// # Errors
    /// They do not come.
    pub async fn exactly(&mut self, count: usize) -> Verdict<Vec<u8>> {
        while self.ahead.len() < count {
            if self.more().await?.is_none() {
                return Err(self.seen(format_args!("ended after {} of {count} bytes", self.ahead.len())));
            }
        }
        Ok(self.ahead.drain(..count).collect())
    }

    /// These bytes come next.
    ///
    /// # Errors
    /// Others come, or an end.
    pub async fn expect(&mut self, bytes: impl AsRef<[u8]>) -> Verdict {
        let wanted = bytes.as_ref();
        let came = self.exactly(wanted.len()).await.map_err(|seen| seen.at(format_args!("{:?}", Shown(wanted))))?;
        if came == wanted {
            return Ok(());
        }
        Err(self.seen(format_args!("{:?} instead of {:?}", Shown(&came), Shown(wanted))))
    }

    /// The next line, without its end; what follows stays unread.
    ///
    /// # Errors
    /// None comes, or one that is too long or no text.
    pub async fn line(&mut self) -> Verdict<String> {
        loop {
            if let Some(end) = self.ahead.iter().position(|&byte| byte == b'\n') {
                let mut line: Vec<u8> = self.ahead.drain(..=end).collect();
                line.pop();
                return String::from_utf8(line).map_err(|_| self.seen("a line that is not UTF-8"));
            }
            if self.ahead.len() > MAX_LINE {
                return Err(self.seen(format_args!("more than {MAX_LINE} bytes without the end of a line")));
            }
            if self.more().await?.is_none() {
                return Err(self.seen(format_args!("ended instead of a line, after {:?}", Shown(&self.ahead))));
            }
        }
    }

    /// The far side ends, in any manner, without another byte.
    ///
    /// # Errors
    /// It sends something, or does not end.
    pub async fn end(&mut self) -> Verdict<End> {
        if self.ahead.is_empty() {
            let mut byte = [0; 64];
            match within(self.who, self.socket.read(&mut byte)).await? {
                Ok(0) => return Ok(End::Clean),
                Ok(read) => self.ahead.extend_from_slice(&byte[..read]),
                Err(error) if is_reset(&error) => return Ok(End::Reset),
                Err(error) => return Err(self.seen(&error)),
            }
        }
        Err(self.seen(format_args!("{:?} instead of an end", Shown(&self.ahead))))
    }

    /// The far side ends in that manner, without another byte.
    ///
    /// # Errors
    /// It does otherwise.
    pub async fn ends(&mut self, how: End) -> Verdict {
        let end = self.end().await?;
        if end == how { Ok(()) } else { Err(self.seen(format_args!("a {} instead of a {}", end.word(), how.word()))) }
    }

    /// Nothing comes for a while, nor an end.
    ///
    /// # Errors
    /// Something does.
    pub async fn quiet(&mut self) -> Verdict {
        if !self.ahead.is_empty() {
            return Err(self.seen(format_args!("{:?} instead of nothing", Shown(&self.ahead))));
        }
        match timeout(QUIET, self.end()).await {
            Err(_) => Ok(()),
            Ok(end) => Err(self.seen(format_args!("a {} instead of nothing", end?.word()))),
        }
    }

    /// Reads more: how much, or that the far side has ended.
    async fn more(&mut self) -> Verdict<Option<usize>> {
        let mut piece = vec![0; 16 * 1024];
        match within(self.who, self.socket.read(&mut piece)).await? {
            Ok(0) => Ok(None),
            Ok(read) => {
                self.ahead.extend_from_slice(&piece[..read]);
                Ok(Some(read))
            }
            Err(error) => Err(self.seen(&error)),
        }
    }

    /// What was seen here.
    pub fn seen(&self, what: impl std::fmt::Display) -> Seen {
        Seen::from(what.to_string()).at(self.who)
    }
}

impl End {
    /// What to call it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Clean => "clean end",
            Self::Reset => "reset",
        }
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe
    )
}

/// The beginning of somebody's bytes, harmless to print.
struct Shown<'a>(&'a [u8]);

impl std::fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 64;
        let more = if self.0.len() > SHOWN { "…" } else { "" };
        write!(f, "\"{}{more}\"", self.0[..self.0.len().min(SHOWN)].escape_ascii())
    }
}
