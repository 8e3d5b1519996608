//! Bulk that is spliced past our memory, against a peer that does what it likes with its frames.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use relay_proto::yamux::StreamId;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::output::Written;
use super::super::path::Path;
use super::super::{Config, Ended, Link, Role, Side};
use super::{PATIENCE, Path as BothEnds, pair, pattern};
use crate::pipe::{End, HALF_CLOSED_IDLE, Moved};
use crate::socket::Socket;

const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const SYN: u8 = 1;
const ACK: u8 = 2;
const FIN: u8 = 4;
const RST: u8 = 8;

/// What every stream may send before it is granted more, and the longest frame.
const WINDOW: u32 = 256 * 1024;
/// More than anything here sends.
const PLENTY: u32 = 64 * 1024 * 1024;

fn header(kind: u8, flags: u8, stream: u32, length: u32) -> Vec<u8> {
    [&[0, kind, 0, flags], &stream.to_be_bytes()[..], &length.to_be_bytes()].concat()
}

/// A link with a peer that is played by hand.
struct Rig {
    link: Link,
    peer: TcpStream,
    polls: Arc<AtomicUsize>,
}

/// A frame that the peer got.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Rig {
    /// `buffers` is the size of the kernel's on the link; 0 leaves them as they are.
    async fn new(buffers: usize) -> Self {
        let (near, peer) = pair().await;
        if buffers > 0 {
            SockRef::from(&near).set_send_buffer_size(buffers).unwrap();
            SockRef::from(&peer).set_recv_buffer_size(buffers).unwrap();
        }
        let (link, task) = Link::with_task(Role::Relay, near.into(), vec![], Config::default());
        let polls = Arc::new(AtomicUsize::new(0));
        tokio::spawn(counted(tokio::task::unconstrained(task), polls.clone()));
        Self { link, peer, polls }
    }

    /// A user whose stream the peer has accepted with so much credit beyond the usual.
    async fn user(&mut self, credit: u32) -> (TcpStream, JoinHandle<End>) {
        self.join(pair().await, credit).await
    }

    /// One for whom the kernel holds little; also gives our end of that connection.
    async fn slow_user(&mut self) -> (TcpStream, JoinHandle<End>, socket2::Socket) {
        let (user, at_relay) = pair().await;
        SockRef::from(&user).set_recv_buffer_size(8192).unwrap();
        SockRef::from(&at_relay).set_send_buffer_size(8192).unwrap();
        let ours = SockRef::from(&at_relay).try_clone().unwrap();
        let (user, pipe) = self.join((user, at_relay), 0).await;
        (user, pipe, ours)
    }

    async fn join(&mut self, (user, at_relay): (TcpStream, TcpStream), credit: u32) -> (TcpStream, JoinHandle<End>) {
        let stream = self.link.open().await.unwrap();
        let pipe =
            async move { stream.pipe(Socket::from(at_relay), Side::User, &Moved::default(), HALF_CLOSED_IDLE).await };
        let pipe = tokio::spawn(counted(pipe, self.polls.clone()));
        let syn = loop {
            let frame = self.frame().await;
            if (frame.kind, frame.flags) == (WINDOW_UPDATE, SYN) {
                break frame;
            }
        };
        self.peer.write_all(&header(WINDOW_UPDATE, ACK, syn.stream, credit)).await.unwrap();
        (user, pipe)
    }

    /// The next frame that the link wrote, pings aside.
    async fn frame(&mut self) -> Frame {
        timeout(PATIENCE, async {
            loop {
                let mut header = [0; 12];
                self.peer.read_exact(&mut header).await.unwrap();
                let word = |at| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
                let mut payload = vec![0; if header[1] == DATA { word(8) as usize } else { 0 }];
                self.peer.read_exact(&mut payload).await.unwrap();
                if header[1] <= WINDOW_UPDATE {
                    return Frame { kind: header[1], flags: header[3], stream: word(4), payload };
                }
            }
        })
        .await
        .expect("no frame came")
    }

    /// What the stream sends up to its end, and the flag that ended it.
    async fn sent_by(&mut self, stream: u32) -> (Vec<u8>, u8) {
        let mut sent = Vec::new();
        loop {
            let frame = self.frame().await;
            if frame.stream == stream {
                sent.extend(frame.payload);
                if frame.flags & (FIN | RST) != 0 {
                    return (sent, frame.flags & (FIN | RST));
                }
            }
        }
    }

    /// Waits until the link has taken all that the peer wrote.
    async fn settled(&self) {
        while SockRef::from(self.link.0.wire.tcp().unwrap()).peek(&mut [std::mem::MaybeUninit::uninit()]).is_ok() {
            tokio::task::yield_now().await;
        }
    }

    /// Whether bytes wait for the stream's user.
    fn queues(&self, stream: u32) -> bool {
        let id = StreamId::new(stream).unwrap();
        let slot = self.link.0.state().slots[&id].clone();
        slot.inbox().spliceable().is_none()
    }

    /// Asserts that no task is run while nothing happens.
    async fn quiet(&self, when: &str) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let before = self.polls.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(self.polls.load(Ordering::Relaxed), before, "{when}");
    }

    /// Waits until the link takes no more, with the bytes of a frame in a pipe of the kernel.
    async fn stuck(&self) {
        until("the link is full", || self.link.0.state().output.is_piped()).await;
    }
}

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let waited = timeout(PATIENCE, async {
        while !reached() {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}

/// Counts how often the task is run.
async fn counted<T>(task: impl Future<Output = T>, polls: Arc<AtomicUsize>) -> T {
    let mut task = std::pin::pin!(task);
    std::future::poll_fn(|context| {
        polls.fetch_add(1, Ordering::Relaxed);
        task.as_mut().poll(context)
    })
    .await
}

/// Sends without waiting for anybody, so that the link meets all of it at once.
fn send_now(socket: &TcpStream, bytes: &[u8]) {
    assert_eq!(SockRef::from(socket).send(bytes).unwrap(), bytes.len());
}

fn abort(socket: TcpStream) {
    Socket::from(socket).abort();
}

/// The seed of what a flood consists of.
const FLOOD: u8 = 7;

/// Writes for as long as the socket takes any; aborts it when aborted itself.
fn flood(mut socket: TcpStream) -> JoinHandle<()> {
    socket.set_zero_linger().unwrap();
    tokio::spawn(async move {
        // As long as it is, the pattern goes on at its start.
        let chunk = pattern(65536, FLOOD);
        while socket.write_all(&chunk).await.is_ok() {}
    })
}

/// The frame's end is behind bytes that nobody read.
#[tokio::test]
async fn data_and_the_end_in_one_large_frame() {
    let mut rig = Rig::new(0).await;
    for number in 0..8 {
        let (mut user, pipe) = rig.user(0).await;
        let stream = 2 * u32::from(number) + 1;
        let body = pattern(WINDOW as usize, number);
        let frame = [header(DATA, FIN, stream, WINDOW), body.clone()].concat();
        let receive = async {
            let mut got = Vec::new();
            timeout(PATIENCE, user.read_to_end(&mut got)).await.expect("no end came").unwrap();
            got
        };
        let (sent, got) = tokio::join!(rig.peer.write_all(&frame), receive);
        sent.unwrap();
        assert!(got == body);
        user.shutdown().await.unwrap();
        assert_eq!(rig.sent_by(stream).await, (Vec::new(), FIN));
        assert_eq!(pipe.await.unwrap(), End::Done);
    }
}

/// Each piece is taken before the next comes, so that the same frame is read here and spliced there.
#[tokio::test]
async fn frames_that_come_in_pieces() {
    let mut rig = Rig::new(0).await;
    for (number, pieces) in [&[1, 11, 1, 40_000, 3][..], &[12, 100_000, 1], &[7, 20_000, 17_000]].iter().enumerate() {
        let (mut user, pipe) = rig.user(0).await;
        let stream = 2 * u32::try_from(number).unwrap() + 1;
        let body = pattern(WINDOW as usize, 1);
        let mut frames = Vec::new();
        for (at, length) in [(0, 100_000), (100_000, 5), (100_005, 30_000), (130_005, body.len() - 130_005)] {
            let flags = if at > 130_000 { FIN } else { 0 };
            frames.extend(header(DATA, flags, stream, u32::try_from(length).unwrap()));
            frames.extend(&body[at..at + length]);
        }
        let send = async {
            let mut rest = &frames[..];
            for piece in pieces.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*piece));
                rig.peer.write_all(now).await.unwrap();
                rig.settled().await;
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
        };
        let mut got = Vec::new();
        let ((), received) = timeout(PATIENCE, async { tokio::join!(send, user.read_to_end(&mut got)) }).await.unwrap();
        received.unwrap();
        assert!(got == body, "{pieces:?}");
        user.shutdown().await.unwrap();
        assert_eq!(pipe.await.unwrap(), End::Done);
    }
}

/// The link and the user's socket become ready in one moment, and the link's task is run first.
#[tokio::test]
async fn nothing_overtakes_what_waits_for_the_user() {
    const QUEUED: usize = 100_000;
    let mut rig = Rig::new(0).await;
    let (mut user, _pipe, ours) = rig.slow_user().await;
    let body = pattern(WINDOW as usize, 6);
    rig.peer.write_all(&[&header(DATA, 0, 1, WINDOW)[..], &body[..QUEUED]].concat()).await.unwrap();
    rig.settled().await;
    assert!(rig.queues(1));
    let mut got = vec![0; body.len()];
    send_now(&rig.peer, &body[QUEUED..QUEUED + 20_000]);
    let mut read = 0;
    while crate::sys::unsent(ours.as_fd()) > 0 {
        // No task is run before our socket has become writable again.
        read += rustix::io::read(&user, &mut got[read..]).unwrap_or(0);
    }
    let rest = rig.peer.write_all(&body[QUEUED + 20_000..]);
    let (sent, received) = tokio::join!(rest, timeout(PATIENCE, user.read_exact(&mut got[read..])));
    sent.unwrap();
    received.expect("bytes stopped moving").unwrap();
    assert!(got == body);
}

/// Whether they come at once or not: splicing stops at the mark as if nothing was there.
#[tokio::test]
async fn what_follows_an_urgent_mark_amid_bulk_arrives() {
    // Two frames, so that the next look at the user's socket is a splice.
    const LENGTH: usize = 32 * 1024;
    let (before, after) = (pattern(LENGTH, 1), pattern(20_000, 2));
    let all = [&before[..], &after].concat();
    for at_once in [true, false] {
        let mut rig = Rig::new(0).await;
        let (mut user, _pipe) = rig.user(0).await;
        rig.settled().await;
        // From the user to the peer.
        let mut got = Vec::new();
        send_now(&user, &before);
        while !at_once && got.len() < LENGTH {
            got.extend(rig.frame().await.payload);
        }
        SockRef::from(&user).send_out_of_band(b"!").unwrap();
        send_now(&user, &after);
        while got.len() < all.len() {
            got.extend(rig.frame().await.payload);
        }
        assert!(got == all);
        // From the peer to the user, with the mark on the link itself.
        send_now(&rig.peer, &header(DATA, 0, 1, u32::try_from(all.len()).unwrap()));
        rig.settled().await;
        send_now(&rig.peer, &before);
        if !at_once {
            rig.settled().await;
        }
        SockRef::from(&rig.peer).send_out_of_band(b"!").unwrap();
        send_now(&rig.peer, &after);
        let mut got = vec![0; all.len()];
        timeout(PATIENCE, user.read_exact(&mut got)).await.expect("bytes stopped moving").unwrap();
        assert!(got == all);
    }
}

/// A socket's error shows once, to whoever looks first: a read or a splice.
#[tokio::test]
async fn an_abort_behind_bulk_is_never_an_end() {
    let mut rig = Rig::new(0).await;
    for number in 0..6 {
        let (user, pipe) = rig.user(PLENTY).await;
        rig.settled().await;
        // After a whole number of frames, the next look at the socket is a splice.
        let body = pattern(16 * 1024 * (1 + number as usize % 3), 1);
        send_now(&user, &body);
        abort(user);
        let (sent, last) = rig.sent_by(2 * number + 1).await;
        assert_eq!(last, RST, "after {} of {} bytes", sent.len(), body.len());
        assert!(body.starts_with(&sent));
        assert_eq!(pipe.await.unwrap(), End::UserAborted(ErrorKind::ConnectionReset));
    }
}

/// The same on the link.
#[tokio::test]
async fn a_link_that_fails_amid_a_large_frame_has_failed() {
    let mut rig = Rig::new(0).await;
    let (mut user, pipe) = rig.user(0).await;
    rig.settled().await;
    send_now(&rig.peer, &[header(DATA, FIN, 1, WINDOW), vec![1; 50_000]].concat());
    abort(rig.peer);
    assert_eq!(timeout(PATIENCE, rig.link.ended()).await.unwrap(), Ended::Io(ErrorKind::ConnectionReset));
    assert_eq!(user.read_to_end(&mut Vec::new()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(matches!(pipe.await.unwrap(), End::ServiceAborted(_)));
}

/// However much of the frame has gone to the user by then, its end has not.
#[tokio::test]
async fn a_link_that_ends_amid_a_spliced_frame_is_no_end_of_the_stream() {
    for length in [1, 20_000, WINDOW as usize - 1] {
        let mut rig = Rig::new(0).await;
        let (mut user, pipe) = rig.user(0).await;
        user.shutdown().await.unwrap();
        assert_eq!(rig.sent_by(1).await, (Vec::new(), FIN));
        let body = pattern(length, 4);
        rig.peer.write_all(&header(DATA, FIN, 1, WINDOW)).await.unwrap();
        rig.settled().await;
        rig.peer.write_all(&body).await.unwrap();
        rig.peer.shutdown().await.unwrap();
        let mut got = Vec::new();
        let result = timeout(PATIENCE, user.read_to_end(&mut got)).await.unwrap();
        assert_eq!(result.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(body.starts_with(&got));
        assert_eq!(timeout(PATIENCE, rig.link.ended()).await.unwrap(), Ended::PeerClosed);
        assert!(matches!(pipe.await.unwrap(), End::ServiceAborted(_)));
    }
}

/// Nobody reads its socket to the end, where the abort would show.
#[tokio::test]
async fn an_abort_is_noticed_while_bytes_wait_for_credit() {
    let mut rig = Rig::new(0).await;
    let (mut user, pipe) = rig.user(0).await;
    user.write_all(&vec![7; WINDOW as usize]).await.unwrap();
    let mut sent = 0;
    while sent < WINDOW as usize {
        sent += rig.frame().await.payload.len();
    }
    send_now(&user, &vec![7; 20_000]);
    abort(user);
    assert_eq!(rig.sent_by(1).await, (Vec::new(), RST));
    assert_eq!(pipe.await.unwrap(), End::UserAborted(ErrorKind::ConnectionReset));
}

/// What was begun of it is finished: other streams' frames stand behind.
#[tokio::test]
async fn a_reset_waits_for_the_rest_of_a_spliced_frame() {
    let mut rig = Rig::new(4096).await;
    let (user, pipe) = rig.user(PLENTY).await;
    let flood = flood(user);
    rig.stuck().await;
    flood.abort();
    assert!(matches!(timeout(PATIENCE, pipe).await.unwrap().unwrap(), End::UserAborted(_)));
    let (sent, last) = rig.sent_by(1).await;
    assert_eq!(last, RST);
    assert!(sent == pattern(sent.len(), FLOOD));
    let (mut user, _pipe) = rig.user(0).await;
    user.write_all(b"still in step").await.unwrap();
    assert_eq!(rig.frame().await, Frame { kind: DATA, flags: 0, stream: 3, payload: b"still in step".into() });
}

/// A session that ends says so between two frames, not within one.
#[tokio::test]
async fn the_last_words_wait_for_the_rest_of_a_spliced_frame() {
    let mut rig = Rig::new(4096).await;
    let (user, _pipe) = rig.user(PLENTY).await;
    let _flood = flood(user);
    rig.stuck().await;
    // No stream has the number 0.
    rig.peer.write_all(&header(DATA, 0, 0, 1)).await.unwrap();
    let mut words = Vec::new();
    timeout(PATIENCE, rig.peer.read_to_end(&mut words)).await.unwrap().unwrap();
    let mut rest = &words[..];
    let mut sent: Vec<u8> = Vec::new();
    while rest[1] == DATA {
        let length = u32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
        sent.extend(&rest[12..12 + length]);
        rest = &rest[12 + length..];
    }
    assert!(sent == pattern(sent.len(), FLOOD));
    assert_eq!(rest, [0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "GoAway: protocol error");
}

/// Handles to it may live on.
#[tokio::test]
async fn a_link_that_has_ended_keeps_no_bytes() {
    let mut rig = Rig::new(4096).await;
    let (user, pipe) = rig.user(PLENTY).await;
    let _flood = flood(user);
    rig.stuck().await;
    rig.link.abort();
    assert_eq!(timeout(PATIENCE, rig.link.ended()).await.unwrap(), Ended::Aborted);
    assert!(matches!(pipe.await.unwrap(), End::ServiceAborted(_)));
    assert!(!rig.link.0.state().output.is_piped());
}

/// A user whose last bytes were among these is told that the link was lost.
#[tokio::test]
async fn what_a_write_that_failed_was_to_take_is_unwritten() {
    let (near, peer) = pair().await;
    let near = Socket::from(near);
    let mut path = Path::new(&near, false, Instant::now());
    let (link, _task) = Link::with_task(Role::Relay, near, vec![], Config::default());
    let stream = link.open().await.unwrap();
    abort(peer);
    link.0.wire.ready(tokio::io::Interest::ERROR).await.unwrap();
    assert!(matches!(link.0.write_some(&mut path), Written::Failed(ErrorKind::ConnectionReset)));
    assert!(link.0.state().output.unwritten().contains(&1));
    drop(stream);
}

/// Who has yet to take what the kernel holds may take hours.
#[tokio::test]
async fn a_link_that_has_ended_is_not_kept_by_a_user_who_pauses() {
    let mut rig = Rig::new(0).await;
    let (mut user, pipe) = rig.user(0).await;
    user.shutdown().await.unwrap();
    let body = pattern(200_000, 8);
    rig.peer.write_all(&[&header(DATA, FIN, 1, 200_000), &body[..]].concat()).await.unwrap();
    let shared = Arc::downgrade(&rig.link.0);
    until("the stream is complete", || rig.link.streams() == 0).await;
    drop((rig.link, rig.peer));
    until("the link is gone", || shared.strong_count() == 0).await;
    assert!(!pipe.is_finished());
    let mut got = Vec::new();
    user.read_to_end(&mut got).await.unwrap();
    assert!(got == body);
    assert_eq!(pipe.await.unwrap(), End::Done);
}

/// The link's task and those of its streams, which wait for all that a stream can wait for.
#[tokio::test]
async fn waiting_costs_no_polls() {
    let mut rig = Rig::new(0).await;
    let mut users = Vec::new();
    for number in 0..5 {
        users.push(match number {
            2 => rig.slow_user().await.0,
            4 => rig.user(PLENTY).await.0,
            _ => rig.user(0).await.0,
        });
    }
    let [_idle, finished, _unread, lacks_credit, floods] = <[TcpStream; 5]>::try_from(users).unwrap();
    SockRef::from(&finished).shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rig.sent_by(3).await, (Vec::new(), FIN));
    rig.peer.write_all(&[header(DATA, 0, 5, WINDOW), vec![0; WINDOW as usize]].concat()).await.unwrap();
    rig.settled().await;
    assert!(rig.queues(5));
    rig.quiet("idle").await;
    let _lacks_credit = flood(lacks_credit);
    let mut sent = 0;
    while sent < WINDOW as usize {
        sent += rig.frame().await.payload.len();
    }
    rig.quiet("without credit").await;
    let _floods = flood(floods);
    rig.stuck().await;
    rig.quiet("full").await;
}

/// What the kernel may keep for us on a connection, and what it lets us ask for at most, doubled.
fn room(socket: &Socket) -> (usize, usize) {
    let room = SockRef::from(socket.tcp().unwrap()).recv_buffer_size().unwrap();
    let most: usize = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap().trim().parse().unwrap();
    (room, 2 * most.min(256 * 1024))
}

/// Only near connections are bounded, and a machine that is very busy may make even these long for a moment.
#[tokio::test]
async fn what_waits_on_a_link_and_of_a_user_who_sends_bulk_is_bounded() {
    let (mut link_bounded, mut user_bounded, mut small_bounded) = (false, false, false);
    for _ in 0..20 {
        let path = BothEnds::new(Config::default(), false).await;
        let (link, most) = room(&path.relay.0.wire);
        link_bounded |= link == most;
        for (bytes, bounded) in [(1, &mut small_bounded), (256 * 1024, &mut user_bounded)] {
            let (mut user, mut service, _pipes) = path.connect(HALF_CLOSED_IDLE).await;
            let sent = vec![b'x'; bytes];
            let mut got = vec![0; bytes];
            let (sending, reading) = tokio::join!(user.write_all(&sent), service.read_exact(&mut got));
            sending.unwrap();
            reading.unwrap();
            let slots: Vec<_> = path.relay.0.state().slots.values().cloned().collect();
            let last = slots.iter().max_by_key(|slot| slot.id.get()).unwrap();
            let (room, most) = room(last.socket.get().unwrap());
            *bounded |= room == most;
        }
        if link_bounded && user_bounded {
            break;
        }
    }
    assert!(link_bounded, "no link was bounded");
    assert!(user_bounded, "no user who sends bulk was bounded");
    assert!(!small_bounded, "a user who sends little was bounded");
}
