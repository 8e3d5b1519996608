//! A user, as the client under test sees one: a stream of its link, or a connection that it dialled.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use relay_net::socket::Socket;
use tokio::time::sleep;

use super::link::Stream;
use crate::conformance::peer::{End, within};
use crate::conformance::{Seen, Verdict};

/// Between two bytes of what is sent byte by byte: long enough for most to be read on their own, which is all that
/// is needed, as any cut must do.
pub(super) const SLICE_PAUSE: Duration = Duration::from_millis(1);

/// What comes from the client's service.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Came {
    Bytes(Vec<u8>),
    End(End),
}

/// The relay's end of what carries one user.
pub(super) enum User {
    Stream(Stream),
    /// With what was read from it already.
    Socket(Socket, Mutex<Vec<u8>>),
}

impl User {
    pub(super) fn on(socket: Socket, ahead: Vec<u8>) -> Self {
        Self::Socket(socket, Mutex::new(ahead))
    }

    pub(super) async fn send(&self, bytes: &[u8]) -> Verdict {
        match self {
            Self::Stream(stream) => stream.send(bytes).await,
            Self::Socket(socket, _) => {
                for piece in bytes.chunks(64 * 1024) {
                    let sent = within("a user's bytes leave", socket.write_all(piece)).await?;
                    sent.map_err(|error| format!("a user's bytes cannot be sent: {error}"))?;
                }
                Ok(())
            }
        }
    }

    /// Sends each byte on its own.
    pub(super) async fn send_sliced(&self, bytes: &[u8]) -> Verdict {
        for byte in bytes {
            self.send(&[*byte]).await?;
            sleep(SLICE_PAUSE).await;
        }
        Ok(())
    }

    pub(super) fn finish(&self) {
        match self {
            Self::Stream(stream) => stream.finish(),
            // Fails only on a connection that is reset, which reading from it will tell.
            Self::Socket(socket, _) => drop(socket.shutdown_write()),
        }
    }

    pub(super) fn abort(self) {
        match self {
            Self::Stream(stream) => stream.reset(),
            Self::Socket(socket, _) => socket.abort(),
        }
    }

    /// What comes next: at least a byte, or an end.
    pub(super) async fn next(&self) -> Verdict<Came> {
        let (socket, ahead) = match self {
            Self::Stream(stream) => return stream.next().await,
            Self::Socket(socket, ahead) => (socket, ahead),
        };
        let ahead = std::mem::take(&mut *ahead.lock().unwrap_or_else(PoisonError::into_inner));
        if !ahead.is_empty() {
            return Ok(Came::Bytes(ahead));
        }
        let mut buffer = vec![0; 64 * 1024];
        Ok(match within("an answer", socket.read(&mut buffer)).await? {
            Ok(0) => Came::End(End::Clean),
            Ok(read) => Came::Bytes(buffer[..read].to_vec()),
            Err(_) => Came::End(End::Reset),
        })
    }

    /// These bytes come, and none beyond them with the last.
    pub(super) async fn expect(&self, bytes: &[u8]) -> Verdict {
        let mut seen = 0;
        while seen < bytes.len() {
            match self.next().await.map_err(|error| error.at(format_args!("after {seen} of {} bytes", bytes.len())))? {
                Came::Bytes(came) => {
                    let wanted = &bytes[seen..];
                    if !wanted.starts_with(&came) {
                        return Err(differs(seen, &came, wanted));
                    }
                    seen += came.len();
                }
                Came::End(end) => {
                    return Err(format!("{} after {seen} of {} bytes", end.word(), bytes.len()).into());
                }
            }
        }
        Ok(())
    }

    /// Sends bytes, and they come back meanwhile.
    pub(super) async fn echo(&self, bytes: &[u8]) -> Verdict {
        tokio::try_join!(self.send(bytes), self.expect(bytes)).map(|_| ())
    }

    /// It ends in that manner, without another byte.
    pub(super) async fn ends(&self, how: End) -> Verdict {
        match self.next().await? {
            Came::End(end) if end == how => Ok(()),
            Came::End(end) => Err(format!("a {} instead of a {}", end.word(), how.word()).into()),
            Came::Bytes(came) => Err(format!("{} bytes more instead of a {}", came.len(), how.word()).into()),
        }
    }

    /// It is served on: says something that nobody said before, and hears it.
    pub(super) async fn is_served(&self, word: &str) -> Verdict {
        self.echo(word.as_bytes()).await
    }
}

fn differs(at: usize, came: &[u8], wanted: &[u8]) -> Seen {
    let same = came.iter().zip(wanted).take_while(|(came, wanted)| came == wanted).count();
    let end = came.len().min(same + 32);
    format!("from byte {} on \"{}\" came instead of what was sent", at + same, came[same..end].escape_ascii()).into()
}

/// Bytes that do not repeat, others for each seed.
pub(super) fn pattern(seed: u32, length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64 ^ (u64::from(seed) << 32); // xorshift
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
