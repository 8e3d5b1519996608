//! Two links against each other over loopback, each stream between real sockets.

mod beginning;
#[cfg(target_os = "linux")]
mod bulk;
mod rate;
mod secure;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use relay_proto::yamux::{self, SessionError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Config, Ended, Link, Role, Side};
use crate::pipe::{End, HALF_CLOSED_IDLE, Moved};
use crate::socket::Socket;

const PATIENCE: Duration = Duration::from_secs(30);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, b) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (a.unwrap(), b.unwrap().0)
}

/// A user and a service with two links between them.
struct Path {
    relay: Link,
    forwarder: Link,
}

/// Whether the link is over TLS: all that follows holds for both.
const SECURE: [bool; 2] = [false, true];

impl Path {
    async fn new(config: Config, secure: bool) -> Self {
        Self::between(config.clone(), config, secure).await
    }

    async fn between(relay: Config, forwarder: Config, secure: bool) -> Self {
        let (a, b) = pair().await;
        let (a, b): (Socket, Socket) = if secure {
            let (a, b) = crate::tls::tests::over(a, b).await;
            (a.into(), b.into())
        } else {
            (a.into(), b.into())
        };
        Self {
            relay: Link::start(Role::Relay, a, vec![], relay),
            forwarder: Link::start(Role::Forwarder, b, vec![], forwarder),
        }
    }

    /// Connects one user with one service; gives their ends and how each pipe will have ended.
    async fn connect(&self, idle: Duration) -> (TcpStream, TcpStream, tokio::task::JoinHandle<(End, End)>) {
        let (user, at_relay) = pair().await;
        let (service, at_forwarder) = pair().await;
        let outward = self.relay.open().await.unwrap();
        let inward = timeout(PATIENCE, self.forwarder.accept()).await.expect("no stream").unwrap();
        let pipes = tokio::spawn(async move {
            let (ours, theirs) = (Moved::default(), Moved::default());
            let ends = tokio::join!(
                outward.pipe(Socket::from(at_relay), Side::User, &ours, idle),
                inward.pipe(Socket::from(at_forwarder), Side::Service, &theirs, idle),
            );
            if ends == (End::Done, End::Done) {
                assert_eq!(ours.up.load(Ordering::Relaxed), theirs.up.load(Ordering::Relaxed));
                assert_eq!(ours.down.load(Ordering::Relaxed), theirs.down.load(Ordering::Relaxed));
            }
            ends
        });
        (user, service, pipes)
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(31) ^ (at >> 8)).to_le_bytes()[0] ^ seed).collect()
}

async fn exchange(mut user: TcpStream, mut service: TcpStream, len: usize) {
    let (up, down) = (pattern(len, 1), pattern(len, 2));
    let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
    let (mut ur, mut uw) = user.split();
    let (mut sr, mut sw) = service.split();
    timeout(PATIENCE * 4, async {
        tokio::join!(
            async {
                uw.write_all(&up).await.unwrap();
                uw.shutdown().await.unwrap();
            },
            async {
                sw.write_all(&down).await.unwrap();
                sw.shutdown().await.unwrap();
            },
            async { ur.read_to_end(&mut got_down).await.unwrap() },
            async { sr.read_to_end(&mut got_up).await.unwrap() },
        )
    })
    .await
    .expect("bytes stopped moving");
    assert!(got_up == up && got_down == down);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_both_ways_and_both_ends_are_carried() {
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        for len in [0, 1, 100_000, 20_000_000] {
            let (user, service, pipes) = path.connect(HALF_CLOSED_IDLE).await;
            exchange(user, service, len).await;
            assert_eq!(pipes.await.unwrap(), (End::Done, End::Done));
        }
        assert_eq!((path.relay.streams(), path.forwarder.streams()), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_users_at_once() {
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        let mut users = Vec::new();
        for _ in 0..300 {
            let (user, service, pipes) = path.connect(HALF_CLOSED_IDLE).await;
            users.push(tokio::spawn(async move {
                exchange(user, service, 100_000).await;
                assert_eq!(pipes.await.unwrap(), (End::Done, End::Done));
            }));
        }
        for user in users {
            user.await.unwrap();
        }
    }
}

#[tokio::test]
async fn half_close_lets_the_reply_come() {
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        let (mut user, mut service, pipes) = path.connect(HALF_CLOSED_IDLE).await;
        user.write_all(b"question").await.unwrap();
        user.shutdown().await.unwrap();
        let mut question = String::new();
        service.read_to_string(&mut question).await.unwrap();
        service.write_all(b"answer").await.unwrap();
        drop(service);
        let mut answer = String::new();
        user.read_to_string(&mut answer).await.unwrap();
        assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
        assert_eq!(pipes.await.unwrap(), (End::Done, End::Done));
    }
}

#[tokio::test]
async fn a_reset_is_carried_each_way() {
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        for user_aborts in [true, false] {
            let (user, service, pipes) = path.connect(HALF_CLOSED_IDLE).await;
            let (aborts, mut other) = if user_aborts { (user, service) } else { (service, user) };
            aborts.set_zero_linger().unwrap();
            drop(aborts);
            let error = timeout(PATIENCE, other.read_u8()).await.expect("no reset came").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            let (at_relay, at_forwarder) = pipes.await.unwrap();
            let aborted = |end| match end {
                End::UserAborted(_) => user_aborts,
                End::ServiceAborted(_) => !user_aborts,
                _ => false,
            };
            assert!(aborted(at_relay) && aborted(at_forwarder));
        }
    }
}

/// Fills the path until nothing moves any more, then aborts.
#[tokio::test]
async fn a_reset_is_noticed_under_back_pressure() {
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        let (user, mut service, pipes) = path.connect(HALF_CLOSED_IDLE).await;
        let chunk = vec![0; 65536];
        while timeout(Duration::from_millis(300), user.writable()).await.is_ok() {
            let _ = user.try_write(&chunk);
        }
        user.set_zero_linger().unwrap();
        drop(user);
        let (at_relay, _) = timeout(PATIENCE, pipes).await.expect("the abort was not noticed").unwrap();
        assert!(matches!(at_relay, End::UserAborted(_)), "{at_relay:?}");
        let mut rest = Vec::new();
        assert_eq!(service.read_to_end(&mut rest).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_lost_link_resets_its_users() {
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        let (mut user, mut service, _pipes) = path.connect(HALF_CLOSED_IDLE).await;
        path.forwarder.abort();
        assert_eq!(timeout(PATIENCE, user.read_u8()).await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(timeout(PATIENCE, service.read_u8()).await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(timeout(PATIENCE, path.relay.ended()).await.unwrap(), Ended::PeerClosed);
        assert!(path.relay.open().await.is_err());
        assert!(path.forwarder.accept().await.is_none());
    }
}

#[tokio::test]
async fn a_link_finishes_after_its_last_stream() {
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        let (user, service, pipes) = path.connect(HALF_CLOSED_IDLE).await;
        path.forwarder.go_away();
        path.forwarder.finish();
        assert_eq!(timeout(PATIENCE, path.relay.refusing()).await.expect("GoAway did not arrive"), None);
        assert!(path.relay.open().await.is_err());
        exchange(user, service, 1_000_000).await;
        assert_eq!(pipes.await.unwrap(), (End::Done, End::Done));
        assert_eq!(timeout(PATIENCE, path.forwarder.ended()).await.unwrap(), Ended::Finished);
        assert_eq!(timeout(PATIENCE, path.relay.ended()).await.unwrap(), Ended::PeerClosed);
    }
}

#[tokio::test]
async fn a_half_closed_stream_in_which_nothing_moves_is_reset() {
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        let (mut user, mut service, pipes) = path.connect(Duration::from_millis(200)).await;
        user.shutdown().await.unwrap();
        assert_eq!(service.read(&mut [0]).await.unwrap(), 0);
        let ends = timeout(PATIENCE, pipes).await.unwrap().unwrap();
        assert!(matches!(ends, (End::Idle, _) | (_, End::Idle)), "{ends:?}");
        assert_eq!(user.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_stalled_reader_does_not_slow_another() {
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        let (stalled, mut source, _pipes) = path.connect(HALF_CLOSED_IDLE).await;
        let flood = tokio::spawn(async move {
            let chunk = vec![0; 65536];
            while source.write_all(&chunk).await.is_ok() {}
        });
        for _ in 0..20 {
            let (user, service, pipes) = path.connect(HALF_CLOSED_IDLE).await;
            exchange(user, service, 500_000).await;
            assert_eq!(pipes.await.unwrap(), (End::Done, End::Done));
        }
        flood.abort();
        drop(stalled);
    }
}

/// Half of what may be queued belongs to a user who never reads: at the bound that one is reset.
#[tokio::test]
async fn the_memory_of_a_link_is_bounded() {
    for secure in SECURE {
        let session = yamux::Config { max_queued: 100_000, ..yamux::Config::default() };
        let path = Path::new(Config { session, ..Config::default() }, secure).await;
        let (mut user, mut service, _pipes) = path.connect(HALF_CLOSED_IDLE).await;
        let flood = tokio::spawn(async move {
            let chunk = vec![7; 65536];
            while service.write_all(&chunk).await.is_ok() {}
        });
        timeout(PATIENCE, flood).await.expect("the stalled user's stream was not reset").unwrap();
        let mut rest = Vec::new();
        assert_eq!(user.read_to_end(&mut rest).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let (user, service, pipes) = path.connect(HALF_CLOSED_IDLE).await;
        exchange(user, service, 10_000).await;
        assert_eq!(pipes.await.unwrap(), (End::Done, End::Done));
    }
}

/// Two links fill what both may hold together, half a window each at least: a user who never reads is reset, and who
/// reads goes on.
#[tokio::test]
async fn the_memory_of_all_links_is_bounded() {
    let budget = Arc::new(yamux::Budget::new(200_000));
    let session = yamux::Config { budget: Some(budget.clone()), ..yamux::Config::default() };
    let config = Config { session, ..Config::default() };
    let paths = [
        Path::between(config.clone(), Config::default(), false).await,
        Path::between(config, Config::default(), true).await,
    ];
    let mut floods = JoinSet::new();
    let mut users = Vec::new();
    for path in &paths {
        let (user, mut service, pipes) = path.connect(HALF_CLOSED_IDLE).await;
        // Little of it is held by the kernel, most by the link.
        socket2::SockRef::from(&user).set_recv_buffer_size(4096).unwrap();
        users.push(user);
        floods.spawn(async move {
            let chunk = vec![7; 65536];
            while service.write_all(&chunk).await.is_ok() {}
            pipes.await.unwrap()
        });
    }
    let reset = timeout(PATIENCE, floods.join_next()).await.expect("nobody was reset").unwrap().unwrap();
    assert_eq!(reset.0, End::CrowdedOut);
    assert!(budget.held() <= 200_000);
    for path in &paths {
        let (user, service, pipes) = path.connect(HALF_CLOSED_IDLE).await;
        exchange(user, service, 10_000).await;
        assert_eq!(pipes.await.unwrap(), (End::Done, End::Done));
    }
    drop((paths, users));
    floods.shutdown().await;
}

#[tokio::test]
async fn users_wait_their_turn_while_streams_lack_an_ack() {
    let (near, mut far) = pair().await;
    let session = yamux::Config { max_unacknowledged: 2, ..yamux::Config::default() };
    let link = Link::start(Role::Relay, near, vec![], Config { session, ..Config::default() });
    let _first = link.open().await.unwrap();
    let second = link.open().await.unwrap();
    let third = link.open();
    tokio::pin!(third);
    assert!(timeout(Duration::from_millis(50), &mut third).await.is_err());
    // The peer accepts the first stream.
    far.write_all(&[0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
    let _third = timeout(PATIENCE, third).await.expect("still waiting").unwrap();
    // A stream that is reset waits for no ACK.
    let fourth = link.open();
    tokio::pin!(fourth);
    assert!(timeout(Duration::from_millis(50), &mut fourth).await.is_err());
    drop(second);
    timeout(PATIENCE, fourth).await.expect("still waiting").unwrap();
}

/// A socket's error shows once: to whoever looks next, a reset looks like an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_amid_bytes_is_never_an_end_on_the_link() {
    const STREAMS: u32 = 300;
    let (near, far) = pair().await;
    let link = Link::start(Role::Relay, near, vec![], Config::default());
    let (mut frames, mut answers) = far.into_split();
    for number in 0..STREAMS {
        let id = (2 * number + 1).to_be_bytes();
        let (user, at_relay) = pair().await;
        let stream = link.open().await.unwrap();
        tokio::spawn(async move {
            stream.pipe(Socket::from(at_relay), Side::User, &Moved::default(), HALF_CLOSED_IDLE).await
        });
        // Of a stream that ends before its SYN is written, the peer never hears.
        let mut frame = [0; 12];
        while frame[4..8] != id {
            frames.read_exact(&mut frame).await.unwrap();
        }
        let mut flood = [[0, 1, 0, 2], id, [0; 4]].concat();
        for _ in 0..100 {
            flood.extend([[0; 4], id, 1000_u32.to_be_bytes()].concat());
            flood.extend([5; 1000]);
        }
        let abort = async {
            user.readable().await.unwrap();
            user.set_zero_linger().unwrap();
            drop(user);
        };
        let (sent, ()) = tokio::join!(answers.write_all(&flood), abort);
        sent.unwrap();
        let reset = timeout(PATIENCE, async {
            loop {
                frames.read_exact(&mut frame).await.unwrap();
                if frame[4..8] == id && frame[3] & 0b1100 != 0 {
                    return frame[3] & 0b1000 != 0;
                }
            }
        });
        assert!(reset.await.expect("no reset came"), "stream {number} of {STREAMS} was ended");
    }
}

#[tokio::test]
async fn what_waits_for_a_peer_that_never_reads_is_bounded() {
    let (near, mut far) = pair().await;
    socket2::SockRef::from(&near).set_send_buffer_size(4096).unwrap();
    socket2::SockRef::from(&far).set_recv_buffer_size(4096).unwrap();
    let link = Link::start(Role::Forwarder, near, vec![], Config::default());
    // Each ping would have a pong, each opening with too much credit a reset.
    let mut flood = Vec::new();
    for id in 0..2_000_u32 {
        flood.extend([0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        flood.extend([[0, 1, 0, 1], (2 * id + 1).to_be_bytes(), u32::MAX.to_be_bytes()].concat());
    }
    let mut most = 0;
    let ended = timeout(PATIENCE, async {
        loop {
            tokio::select! {
                _ = far.write_all(&flood) => most = most.max(link.0.state().output.waiting()),
                ended = link.ended() => return ended,
            }
        }
    });
    assert_eq!(ended.await.expect("no bound was reached"), Ended::Session(SessionError::TooManyResets));
    assert!(most <= 3000, "{most} frames wait");
}

#[tokio::test]
async fn streams_that_nobody_took_do_not_keep_a_link_that_finishes() {
    let (near, mut far) = pair().await;
    let link = Link::start(Role::Forwarder, near, vec![], Config::default());
    far.write_all(&[0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
    let mut ack = [0; 12];
    far.read_exact(&mut ack).await.unwrap();
    assert_eq!(ack, [0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0]);
    link.go_away();
    link.finish();
    assert_eq!(timeout(PATIENCE, link.ended()).await.unwrap(), Ended::Finished);
    let mut last_words = Vec::new();
    far.read_to_end(&mut last_words).await.unwrap();
    let (go_away, reset) = ([0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 1, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0]);
    assert_eq!(last_words, [go_away, reset].concat());
}

/// One stream has come to its end on the link, another has bytes that the link does not take.
#[tokio::test]
async fn a_complete_stream_is_delivered_although_the_link_is_lost() {
    let (near, mut far) = pair().await;
    let link = Link::start(Role::Relay, near, vec![], Config::default());
    let (mut reader, at_relay) = pair().await;
    let first = link.open().await.unwrap();
    let carried = tokio::spawn(async move {
        first.pipe(Socket::from(at_relay), Side::User, &Moved::default(), HALF_CLOSED_IDLE).await
    });
    reader.shutdown().await.unwrap();
    let mut frames = [0; 24];
    far.read_exact(&mut frames).await.unwrap();
    assert_eq!(frames[12..], [0, 1, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0], "the user's end");
    // Another user fills the link, which is granted more credit than it can take.
    let (other, at_relay) = pair().await;
    let blocked = link.open().await.unwrap();
    tokio::spawn(
        async move { blocked.pipe(Socket::from(at_relay), Side::User, &Moved::default(), HALF_CLOSED_IDLE).await },
    );
    far.write_all(&[0, 1, 0, 2, 0, 0, 0, 3, 0x7f, 0, 0, 0]).await.unwrap();
    let chunk = vec![0; 65536];
    while timeout(Duration::from_millis(300), other.writable()).await.is_ok() {
        let _ = other.try_write(&chunk);
    }
    // More than the user's socket takes at once, then the end of the stream, then the end of the link.
    let body = pattern(262_144, 3);
    far.write_all(&[0, 0, 0, 4, 0, 0, 0, 1, 0, 4, 0, 0]).await.unwrap();
    far.write_all(&body).await.unwrap();
    far.shutdown().await.unwrap();
    timeout(PATIENCE, link.ended()).await.unwrap();
    let mut got = Vec::new();
    timeout(PATIENCE, reader.read_to_end(&mut got)).await.unwrap().unwrap();
    assert!(got == body);
    assert_eq!(carried.await.unwrap(), End::Done);
}

/// Longer than a half-closed stream may be silent, with bytes in the kernel's buffers, in the queue and at
/// the service; the service has sent its end by then, or cannot yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_who_pauses_loses_nothing() {
    const IDLE: Duration = Duration::from_millis(200);
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        for len in [300_000, 3_000_000, 20_000_000] {
            let (mut user, mut service, pipes) = path.connect(IDLE).await;
            user.shutdown().await.unwrap();
            let body = pattern(len, 9);
            let sent = body.clone();
            let sender = tokio::spawn(async move {
                service.write_all(&sent).await.unwrap();
                service.shutdown().await.unwrap();
                service
            });
            tokio::time::sleep(5 * IDLE).await;
            let mut got = Vec::new();
            timeout(PATIENCE, user.read_to_end(&mut got)).await.unwrap().unwrap();
            assert!(got == body, "{} of {len} bytes", got.len());
            drop(sender.await.unwrap());
            assert_eq!(pipes.await.unwrap(), (End::Done, End::Done));
        }
    }
}
