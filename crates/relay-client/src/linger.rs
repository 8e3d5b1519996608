//! What is left to do for a connection that was dropped after its end had been sent.
//!
//! Closing it at once could destroy what the user has yet to take: TCP resets a connection that is closed with unread
//! bytes, or to which more come, and a reset overtakes what was sent before; so does that of a stream.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use relay_net::pipe::HALF_CLOSED_IDLE;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::connection::Carrier;
use crate::dialled::Dialled;

/// How long a user is listened to who has been told our end.
#[derive(Clone, Copy)]
struct Patience {
    /// Who still sends, in all.
    talking: Duration,
    /// Who sends nothing, since the last byte.
    silent: Duration,
}

/// 30 s: who reads the answer only behind all that it sends mostly comes to that.
const TALKING: Duration = Duration::from_secs(30);

/// On a connection of its own, once the relay has all that was sent to it. 5 s: closed then, nothing is destroyed
/// unless the user says more, and a descriptor is freed.
const DIALLED: Patience = Patience { talking: TALKING, silent: Duration::from_secs(5) };

/// On a stream nothing tells how much the relay still holds for a user who reads slowly. It takes no descriptor, and
/// lasts as long as a pipe may be silent that is half closed.
const STREAM: Patience = Patience { talking: TALKING, silent: HALF_CLOSED_IDLE };

/// Closes what carried a user, behind all that was written: in a task, unless nothing is left to do. Outside a runtime it
/// is reset.
pub(crate) fn leave(carrier: Carrier, live: TaskTrackerToken) {
    if is_over(&carrier) {
        return;
    }
    let Ok(runtime) = Handle::try_current() else { return carrier.reset() };
    runtime.spawn(async move {
        match carrier {
            Carrier::Stream(mut stream) => {
                discard(|context, buffer| Pin::new(&mut stream).poll_read(context, buffer), STREAM).await;
            }
            Carrier::Dialled(dialled) => linger(&dialled, DIALLED).await,
        }
        drop(live);
    });
}

/// Whether the user has ended too, and everything is where it belongs.
fn is_over(carrier: &Carrier) -> bool {
    match carrier {
        Carrier::Stream(stream) => stream.is_read_to_the_end(),
        // An end-of-file that has yet to be acknowledged counts as one.
        Carrier::Dialled(dialled) if dialled.socket.unsent() <= 1 => match dialled.socket.try_read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        },
        Carrier::Dialled(_) => false,
    }
}

/// For as long as it takes until the relay has all that was written, and somewhat longer.
async fn linger(dialled: &Dialled, patience: Patience) {
    let mut read = |context: &mut Context<'_>, buffer: &mut ReadBuf<'_>| dialled.socket.poll_read(context, buffer);
    let mut flushed = pin!(dialled.socket.flushed());
    tokio::select! {
        () = async { while take(&mut read).await.is_ok_and(|taken| taken > 0) {} } => {
            // However that ends, nothing is left to do.
            let _ = flushed.await;
            return;
        }
        flushed = &mut flushed => if flushed.is_err() { return },
    }
    discard(read, patience).await;
}

/// Takes what the user still sends, until it ends, is silent, or has been listened to for long enough.
async fn discard(mut read: impl FnMut(&mut Context<'_>, &mut ReadBuf<'_>) -> Poll<io::Result<()>>, patience: Patience) {
    let since = Instant::now();
    while let Ok(Ok(1..)) = timeout(patience.silent, take(&mut read)).await
        && since.elapsed() < patience.talking
    {}
}

/// Reads something and drops it; no memory is held while nothing comes.
async fn take(mut read: impl FnMut(&mut Context<'_>, &mut ReadBuf<'_>) -> Poll<io::Result<()>>) -> io::Result<usize> {
    poll_fn(|context| {
        let mut space = [MaybeUninit::uninit(); 16 * 1024];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(read(context, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use relay_net::socket::Socket;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    #[cfg(target_os = "linux")]
    use tokio::time::sleep;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::Connection;

    const BRIEF: Patience = Patience { talking: Duration::from_millis(300), silent: Duration::from_millis(100) };

    async fn within<T>(future: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(30), future).await.expect("nothing happened")
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    /// A user's connection, which counts as live, and its far end.
    async fn connection(live: &TaskTracker) -> (Connection, TcpStream) {
        let (near, far) = pair().await;
        (Connection::from_socket(near.into(), Vec::new(), live.token()), far)
    }

    /// A carrier that has sent its end, and its far end.
    async fn ended() -> (Dialled, TcpStream) {
        let (near, far) = pair().await;
        let mut dialled = Dialled::new(near.into(), Vec::new());
        poll_fn(|context| dialled.poll_shutdown(context)).await.unwrap();
        (dialled, far)
    }

    async fn end_of(far: &mut TcpStream) -> io::Result<usize> {
        within(far.read_to_end(&mut Vec::new())).await
    }

    #[tokio::test]
    async fn a_drop_before_the_end_is_a_reset_and_one_after_it_is_none() {
        for (shuts, resets) in [(false, false), (true, false), (true, true)] {
            let live = TaskTracker::new();
            let (mut near, mut far) = connection(&live).await;
            // Closed with this unread, a connection is reset by the kernel.
            far.write_all(b"unread").await.unwrap();
            if shuts {
                near.shutdown().await.unwrap();
            }
            if resets {
                near.reset();
            } else {
                drop(near);
            }
            if shuts && !resets {
                end_of(&mut far).await.unwrap();
                drop(far);
            } else {
                // Behind an end, no read tells.
                within(Socket::from(far).aborted()).await;
            }
            live.close();
            within(live.wait()).await;
        }
    }

    #[tokio::test]
    async fn nothing_is_left_behind_for_a_user_who_has_ended() {
        let live = TaskTracker::new();
        let (mut near, mut far) = connection(&live).await;
        near.write_all(b"answer").await.unwrap();
        near.shutdown().await.unwrap();
        far.shutdown().await.unwrap();
        end_of(&mut far).await.unwrap();
        let far = Socket::from(far);
        let acknowledged = async {
            while far.unsent() > 0 {
                tokio::task::yield_now().await;
            }
        };
        within(acknowledged).await;
        drop(near);
        assert!(live.is_empty(), "a task is left");
    }

    #[tokio::test]
    async fn a_drop_outside_a_runtime_is_a_reset() {
        let live = TaskTracker::new();
        let (mut near, far) = connection(&live).await;
        near.shutdown().await.unwrap();
        std::thread::spawn(move || drop(near)).join().unwrap();
        within(Socket::from(far).aborted()).await;
        assert!(live.is_empty());
    }

    #[tokio::test]
    async fn a_user_who_goes_on_talking_is_left_and_so_is_a_silent_one() {
        let (dialled, mut far) = ended().await;
        let talks = async { while far.write_all(&[1; 1000]).await.is_ok() {} };
        let leaves = async move {
            linger(&dialled, BRIEF).await;
            drop(dialled);
        };
        within(async { tokio::join!(talks, leaves) }).await;

        let (dialled, mut far) = ended().await;
        within(linger(&dialled, BRIEF)).await;
        drop(dialled);
        end_of(&mut far).await.unwrap();
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn a_user_who_has_yet_to_read_is_waited_for_while_what_it_sends_is_taken() {
        let (near, mut far) = pair().await;
        let mut dialled = Dialled::new(near.into(), Vec::new());
        let (bytes, mut written) = (vec![7; 65536], 0);
        while let Ok(wrote) =
            timeout(Duration::from_millis(100), poll_fn(|context| dialled.poll_write(context, &bytes))).await
        {
            written += wrote.unwrap();
        }
        poll_fn(|context| dialled.poll_shutdown(context)).await.unwrap();
        let leaves = async move {
            linger(&dialled, BRIEF).await;
            drop(dialled);
        };
        let (mut reader, mut writer) = far.split();
        let reads = async {
            sleep(3 * BRIEF.talking).await;
            let mut got = Vec::new();
            reader.read_to_end(&mut got).await.map(|_| got.len())
        };
        let talks = async {
            loop {
                writer.write_all(&[1; 1000]).await.unwrap();
                sleep(BRIEF.silent / 10).await;
            }
        };
        let user = async {
            tokio::select! {
                read = reads => read.unwrap(),
                () = talks => 0,
            }
        };
        let ((), read) = within(async { tokio::join!(leaves, user) }).await;
        assert_eq!(read, written);
    }
}
