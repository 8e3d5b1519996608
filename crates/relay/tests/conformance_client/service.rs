//! The way between a user and the service.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use relay_proto::yamux::Flags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;
use tokio::sync::mpsc;

use crate::client::Client;
use crate::fault::Fault;
use crate::link::{Frames, control, data};

/// What comes from a user.
pub(crate) enum Event {
    Bytes(Vec<u8>),
    End,
    Abort,
}

/// The way to a user.
pub(crate) enum Out {
    /// None once it is to be reset.
    Socket(Option<OwnedWriteHalf>),
    Stream {
        id: u32,
        credit: Arc<Semaphore>,
        frames: Frames,
    },
}

impl Client {
    /// Serves one user, from his first byte to both ends.
    pub(crate) async fn serve(
        self: Arc<Self>,
        mut came: mpsc::UnboundedReceiver<Event>,
        mut out: Out,
        addressed: bool,
    ) {
        let before = self.users.fetch_add(1, Ordering::Relaxed);
        if before >= 100 && self.has(Fault::ServesAHundred) {
            out.abort();
        } else {
            self.forward(&mut came, &mut out, addressed).await;
        }
        self.users.fetch_sub(1, Ordering::Relaxed);
    }

    async fn forward(&self, came: &mut mpsc::UnboundedReceiver<Event>, out: &mut Out, addressed: bool) {
        let mut first = VecDeque::new();
        if addressed && !self.has(Fault::PassesTheAddressOn) {
            let Some(behind) = address(came, out).await else { return };
            first.extend((!behind.is_empty()).then_some(Event::Bytes(behind)));
        }
        if self.has(Fault::WaitsForTheUser) && first.is_empty() {
            first.extend(came.recv().await);
        }
        let Ok(service) = TcpStream::connect(self.place.echo).await else { return out.abort() };
        let _ = service.set_nodelay(true);
        let (from, to) = service.into_split();
        let granted = out.granting();
        let down = self.down(first, came, to, granted);
        let up = self.up(from, out);
        let (mut down, mut up) = (std::pin::pin!(down), std::pin::pin!(up));
        let (mut is_down, mut is_up) = (false, false);
        while !(is_down && is_up) {
            tokio::select! {
                goes_on = &mut down, if !is_down => {
                    is_down = true;
                    if !goes_on {
                        break;
                    }
                }
                goes_on = &mut up, if !is_up => {
                    is_up = true;
                    if !goes_on {
                        break;
                    }
                }
            }
        }
    }

    /// From the user to the service. Gives whether the other direction goes on.
    async fn down(
        &self,
        mut first: VecDeque<Event>,
        came: &mut mpsc::UnboundedReceiver<Event>,
        mut service: OwnedWriteHalf,
        granting: Option<(u32, Frames)>,
    ) -> bool {
        loop {
            let event = match first.pop_front() {
                Some(event) => Some(event),
                None => came.recv().await,
            };
            match event {
                Some(Event::Bytes(bytes)) => {
                    if service.write_all(&bytes).await.is_err() {
                        return true;
                    }
                    if let Some((id, frames)) = &granting {
                        frames.send(control(Flags::NONE, *id, bytes.len()));
                    }
                }
                Some(Event::End) if self.has(Fault::CutsTheReply) => return false,
                Some(Event::End) => return service.shutdown().await.is_ok(),
                Some(Event::Abort) | None => {
                    if self.has(Fault::EndsWithAnAbort) {
                        self.die();
                    }
                    if self.has(Fault::EndsTheServiceCleanly) {
                        let _ = service.shutdown().await;
                    } else {
                        abort(service);
                    }
                    return false;
                }
            }
        }
    }

    /// From the service to the user. Gives whether the other direction goes on.
    async fn up(&self, mut service: OwnedReadHalf, out: &mut Out) -> bool {
        let mut buffer = vec![0; 16 * 1024];
        let mut sent = 0;
        loop {
            let read = match service.read(&mut buffer).await {
                Ok(0) => {
                    out.finish();
                    return true;
                }
                Ok(read) => read,
                Err(_) => {
                    if self.has(Fault::EndsTheUserCleanly) {
                        out.finish();
                    } else {
                        out.abort();
                    }
                    return false;
                }
            };
            let mut bytes = &buffer[..read];
            if self.has(Fault::LosesAByte) && sent < 300_000 && sent + read >= 300_000 {
                bytes = &bytes[1..];
            }
            sent += read;
            let turn = if self.has(Fault::ServesOneAtATime) { Some(self.turn.lock().await) } else { None };
            if out.send(bytes, self.has(Fault::IgnoresTheWindow)).await.is_err() {
                return false;
            }
            drop(turn);
        }
    }
}

/// Takes the line that says who the user is, and gives what came behind it.
async fn address(came: &mut mpsc::UnboundedReceiver<Event>, out: &Out) -> Option<Vec<u8>> {
    let mut heard = Vec::new();
    loop {
        let Some(Event::Bytes(bytes)) = came.recv().await else { return None };
        heard.extend_from_slice(&bytes);
        if let Some(end) = heard.windows(2).position(|pair| pair == b"\r\n") {
            if let Some((id, frames)) = out.granting() {
                frames.send(control(Flags::NONE, id, end + 2));
            }
            return Some(heard.split_off(end + 2));
        }
    }
}

/// Makes the socket's close a reset, and nothing come before it.
fn abort(socket: OwnedWriteHalf) {
    let _ = socket2::SockRef::from(socket.as_ref()).set_linger(Some(Duration::ZERO));
    socket.forget();
}

impl Out {
    async fn send(&mut self, bytes: &[u8], whatever_is_granted: bool) -> io::Result<()> {
        let (id, credit, frames) = match self {
            Self::Socket(Some(socket)) => return socket.write_all(bytes).await,
            Self::Socket(None) => return Err(io::ErrorKind::BrokenPipe.into()),
            Self::Stream { id, credit, frames } => (*id, credit, frames),
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut length = rest.len();
            if !whatever_is_granted {
                let Ok(permit) = credit.acquire().await else { return Err(io::ErrorKind::BrokenPipe.into()) };
                permit.forget();
                length = 1 + credit.forget_permits(rest.len() - 1);
            }
            let (now, later) = rest.split_at(length);
            frames.send(data(id, now));
            rest = later;
        }
        Ok(())
    }

    fn finish(&mut self) {
        match self {
            Self::Socket(socket) => drop(socket.take()),
            Self::Stream { id, frames, .. } => frames.send(control(Flags::FIN, *id, 0)),
        }
    }

    fn abort(&mut self) {
        match self {
            Self::Socket(socket) => socket.take().map_or((), abort),
            Self::Stream { id, frames, .. } => frames.send(control(Flags::RST, *id, 0)),
        }
    }

    /// By what more is granted for what was taken.
    fn granting(&self) -> Option<(u32, Frames)> {
        match self {
            Self::Socket(_) => None,
            Self::Stream { id, frames, .. } => Some((*id, frames.clone())),
        }
    }
}
