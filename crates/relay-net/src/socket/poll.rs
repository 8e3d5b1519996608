//! A socket as tokio's [`AsyncRead`](tokio::io::AsyncRead) and [`AsyncWrite`](tokio::io::AsyncWrite) have it, but for
//! being shared. Of those who read, and of those who write, flush or end, only the task that asked last is woken.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;

use super::{Socket, is_temporary};

impl Socket {
    /// Reads what has arrived; no byte is the peer's end-of-file, as in [`try_read`](Self::try_read).
    pub fn poll_read(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let read = match self {
                Self::Tcp(stream) => stream.try_read_buf(buffer).map(drop),
                #[cfg(unix)]
                Self::Unix(stream) => stream.try_read_buf(buffer).map(drop),
                Self::Tls(stream) => stream.try_read(buffer.initialize_unfilled()).map(|read| buffer.advance(read)),
            };
            match read {
                Err(error) if is_temporary(&error) => ready!(self.poll_read_ready(context))?,
                read => return Poll::Ready(read),
            }
        }
    }

    /// Writes what the kernel takes, or over TLS what [`try_write`](Self::try_write) does: it may have to be flushed.
    pub fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_trying(context, || self.try_write(bytes))
    }

    /// The same for several pieces; over TLS, only the first that is not empty.
    pub fn poll_write_vectored(&self, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_trying(context, || match self {
            Self::Tcp(stream) => stream.try_write_vectored(parts),
            #[cfg(unix)]
            Self::Unix(stream) => stream.try_write_vectored(parts),
            Self::Tls(stream) => stream.try_write(parts.iter().find(|part| !part.is_empty()).map_or(&[], |part| part)),
        })
    }

    /// Waits until the kernel has taken all that was written.
    pub fn poll_flush(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.flush()? {
            ready!(self.poll_write_ready(context))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends end-of-file behind all that was written, and waits until the kernel has taken it.
    pub fn poll_shutdown(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.shutdown_write() {
            Ok(()) => self.poll_flush(context),
            // It was reset, which nothing has met yet.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Err(self.failure())),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_trying(
        &self,
        context: &mut Context<'_>,
        mut write: impl FnMut() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match write() {
                Err(error) if is_temporary(&error) => ready!(self.poll_write_ready(context))?,
                written => return Poll::Ready(written),
            }
        }
    }
}
