//! Streams that programs read and write by themselves, at both ends of a link.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use proptest::prelude::*;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, split};

use super::*;
use crate::mux::Stream;
use crate::tls::tests::over;

/// More than the window that a stream has at first and what the kernel and a program's outbox hold.
const PLENTY: usize = 20_000_000;

impl Path {
    /// Both ends of a new stream: the user's and the service's.
    async fn stream(&self) -> (Stream, Stream) {
        let user = self.relay.open().await.unwrap();
        (user, timeout(PATIENCE, self.forwarder.accept()).await.expect("no stream").unwrap())
    }

    /// Both links know of no stream any more.
    async fn is_empty(&self) {
        let empty = async {
            while self.relay.streams() + self.forwarder.streams() > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, empty).await.expect("a stream was left behind");
    }
}

/// Lets all tasks go on until they have nothing to do but wait.
async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("nothing happened")
}

fn is_reset<T: std::fmt::Debug>(result: std::io::Result<T>) -> bool {
    result.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// Writes in pieces of these sizes, over and over; then ends.
async fn write(mut to: impl AsyncWrite + Unpin, bytes: &[u8], sizes: &[usize]) {
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        let (piece, others) = rest.split_at(rest.len().min(*size));
        to.write_all(piece).await.unwrap();
        rest = others;
        if rest.is_empty() {
            break;
        }
    }
    to.shutdown().await.unwrap();
}

/// Reads in pieces of these sizes, over and over, to the end.
async fn read(mut from: impl AsyncRead + Unpin, sizes: &[usize]) -> Vec<u8> {
    let mut got = Vec::new();
    let mut buffer = vec![0; *sizes.iter().max().unwrap()];
    for size in sizes.iter().cycle() {
        match from.read(&mut buffer[..*size]).await.unwrap() {
            0 => break,
            some => got.extend_from_slice(&buffer[..some]),
        }
    }
    assert_eq!(from.read(&mut buffer).await.unwrap(), 0, "the end does not go away");
    got
}

/// A link that has nothing else to do pings its peer some time after that.
const SOON: Duration = Duration::from_secs(8);

/// Both ends write and read at once; all arrives, and nothing is left of the stream.
async fn talk(user: Stream, service: Stream, len: usize, sizes: &[usize]) {
    let (up, down) = (pattern(len, 1), pattern(len / 2, 2));
    let ((user_in, user_out), (service_in, service_out)) = (split(user), split(service));
    let (got_down, got_up, (), ()) = within(async {
        tokio::join!(
            read(user_in, sizes),
            read(service_in, sizes),
            write(user_out, &up, sizes),
            write(service_out, &down, sizes)
        )
    })
    .await;
    assert!(got_up == up && got_down == down);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn bytes_arrive_whatever_pieces_they_are_written_and_read_in(
        secure: bool,
        len in prop_oneof![0..2_usize, 0..1_000_000_usize],
        sizes in prop::collection::vec(prop_oneof![1..20_usize, 1_000..200_000_usize], 1..6),
    ) {
        // A million pieces of one byte would only take time.
        let len = len.min(20_000 * sizes.iter().sum::<usize>() / sizes.len());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let path = Path::new(Config::default(), secure).await;
            let (user, service) = path.stream().await;
            talk(user, service, len, &sizes).await;
            path.is_empty().await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn halves_in_tasks_of_their_own_move_much_both_ways() {
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        let mut users = JoinSet::new();
        for _ in 0..4 {
            let (user, service) = path.stream().await;
            let ((user_in, user_out), (service_in, service_out)) = (split(user), split(service));
            for (from, to) in [(user_in, service_out), (service_in, user_out)] {
                users.spawn(async move { assert!(read(from, &[100_000]).await == pattern(PLENTY / 4, 1)) });
                users.spawn(async move { write(to, &pattern(PLENTY / 4, 1), &[70_000]).await });
            }
        }
        within(users.join_all()).await;
        path.is_empty().await;
    }
}

#[tokio::test]
async fn either_end_may_finish_first() {
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        for user_first in [true, false] {
            let (user, service) = path.stream().await;
            let (mut first, mut second) = if user_first { (user, service) } else { (service, user) };
            first.write_all(b"question").await.unwrap();
            within(first.shutdown()).await.unwrap();
            within(first.shutdown()).await.expect("again is as good as once");
            assert_eq!(first.write(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
            let mut question = String::new();
            within(second.read_to_string(&mut question)).await.unwrap();
            second.write_all(b"answer").await.unwrap();
            within(second.shutdown()).await.unwrap();
            drop(second);
            let mut answer = String::new();
            within(first.read_to_string(&mut answer)).await.unwrap();
            assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
            path.is_empty().await;
        }
    }
}

#[tokio::test]
async fn a_drop_without_an_end_is_a_reset_for_whoever_waits() {
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        for user_drops in [true, false] {
            let (user, service) = path.stream().await;
            let (drops, other) = if user_drops { (user, service) } else { (service, user) };
            let (mut reader, mut writer) = split(other);
            let reads = tokio::spawn(async move { reader.read_u8().await });
            let gives_up = tokio::spawn(async move {
                let error = loop {
                    if let Err(error) = writer.write(&[7; 10_000]).await {
                        break error;
                    }
                };
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                assert!(is_reset(writer.flush().await) && is_reset(writer.shutdown().await));
            });
            settle().await;
            drop(drops);
            assert!(is_reset(within(reads).await.unwrap()));
            within(gives_up).await.unwrap();
            path.is_empty().await;
        }
    }
}

#[tokio::test]
async fn a_reset_is_told_to_all_who_wait_for_it() {
    let path = Path::new(Config::default(), false).await;
    let (user, service) = path.stream().await;
    let told = async { tokio::join!(user.was_reset(), user.was_reset(), user.was_reset()) };
    within(async { tokio::join!(told, async { drop(service) }) }).await;
    within(user.was_reset()).await;
}

#[tokio::test]
async fn a_link_that_is_lost_is_a_reset() {
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        let (mut user, mut service) = path.stream().await;
        user.write_all(b"never read").await.unwrap();
        path.forwarder.abort();
        let mut buffer = [0; 100];
        assert!(is_reset(within(service.read(&mut buffer)).await), "what was not read is lost");
        assert!(is_reset(within(user.read(&mut buffer)).await));
        assert!(is_reset(user.read(&mut buffer).await), "it does not go away");
        assert!(is_reset(user.write(b"x").await) && is_reset(user.shutdown().await));
    }
}

/// What waits for it is a window at most, and others go on.
#[tokio::test]
async fn a_reader_that_never_reads_is_waited_for_and_holds_nobody_up() {
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        let (mut user, mut service) = path.stream().await;
        let mut written = 0;
        while let Ok(wrote) = timeout(Duration::from_millis(300), user.write(&[1; 10_000])).await {
            written += wrote.unwrap();
        }
        assert_eq!(written, 262_144 + 65_536, "the window, and what may wait for it");
        assert_eq!(path.forwarder.0.state().session.queued_bytes(), 262_144);
        let (other, its_service) = path.stream().await;
        talk(other, its_service, 1_000_000, &[50_000]).await;
        settle().await;
        // Once it reads, the rest comes: sooner than the link would wake by itself.
        let all = timeout(SOON, service.read_exact(&mut vec![0; written])).await;
        all.expect("no credit was renewed").unwrap();
        drop((user, service));
        path.is_empty().await;
        assert_eq!(path.forwarder.0.state().session.queued_bytes(), 0);
    }
}

#[tokio::test]
async fn a_link_finishes_once_the_last_program_has_read() {
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        let (mut user, mut service) = path.stream().await;
        write(&mut user, b"read at last", &[100]).await;
        within(service.shutdown()).await.unwrap();
        within(user.read_u8()).await.unwrap_err();
        path.forwarder.finish();
        settle().await;
        assert_eq!(path.forwarder.streams(), 1, "a byte is still to be read");
        assert_eq!(read(&mut service, &[100]).await, b"read at last");
        let ended = timeout(SOON, path.forwarder.ended()).await;
        assert_eq!(ended.expect("nobody told the link"), Ended::Finished);
    }
}

#[tokio::test]
async fn a_write_that_is_cancelled_has_taken_nothing() {
    let path = Path::new(Config::default(), false).await;
    let (mut user, service) = path.stream().await;
    let reader = tokio::spawn(read(service, &[30_000]));
    let bytes = pattern(2_000_000, 4);
    let (mut at, mut cancelled) = (0, 0);
    while at < bytes.len() {
        let piece = &bytes[at..bytes.len().min(at + 50_000)];
        tokio::select! {
            biased;
            written = user.write(piece) => at += written.unwrap(),
            () = std::future::ready(()) => {
                cancelled += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    user.shutdown().await.unwrap();
    assert!(within(reader).await.unwrap() == bytes && cancelled > 0);
}

/// One end of a link whose kernel holds little, and the socket of its peer, who does not read by itself.
async fn narrow(secure: bool) -> (Link, Socket) {
    let (near, far) = pair().await;
    SockRef::from(&near).set_send_buffer_size(4096).unwrap();
    SockRef::from(&far).set_recv_buffer_size(4096).unwrap();
    if secure {
        let (near, far) = over(near, far).await;
        (Link::start(Role::Relay, near, vec![], Config::default()), far.into())
    } else {
        (Link::start(Role::Relay, near, vec![], Config::default()), far.into())
    }
}

/// What is left behind then is at most what the kernel has: the process may end.
#[tokio::test]
async fn flush_and_shutdown_wait_for_the_kernel() {
    // Within the window, as the peer grants nothing.
    const MOST: usize = 250_000;
    for secure in SECURE {
        for ends in [false, true] {
            let (link, far) = narrow(secure).await;
            let mut stream = link.open().await.unwrap();
            let mut sent = 0;
            while sent < MOST
                && let Ok(wrote) = timeout(Duration::from_millis(100), stream.write(&[5; 10_000])).await
            {
                sent += wrote.unwrap();
            }
            let mut waits = Box::pin(async { if ends { stream.shutdown().await } else { stream.flush().await } });
            assert!(timeout(Duration::from_millis(100), &mut waits).await.is_err(), "the kernel cannot have it");
            let (mut read, mut buffer) = (0, vec![0; 4096]);
            let flushed = async {
                tokio::select! {
                    biased;
                    flushed = &mut waits => flushed,
                    () = async { loop { read += far.read(&mut buffer).await.unwrap(); } } => unreachable!("without an end"),
                }
            };
            within(flushed).await.unwrap();
            drop(waits);
            // Before the bytes, the SYN; behind them, perhaps the end; among them, headers. The link is closed, and all is there.
            link.abort();
            drop(stream);
            let whole = 12 + sent + 12 * usize::from(ends);
            while let Ok(some @ 1..) = within(far.read(&mut buffer)).await {
                read += some;
            }
            assert!((whole..whole + 500).contains(&read), "{read} of {whole}");
        }
    }
}

/// As a service does that has to know who comes before it knows where to.
#[tokio::test]
async fn a_stream_may_be_piped_after_a_program_has_used_it() {
    for secure in SECURE {
        let path = Path::new(Config::default(), secure).await;
        for (early, len) in [(true, 0), (false, 10), (true, 2_000_000)] {
            let (mut user, mut at_forwarder) = path.stream().await;
            let (mut service, near) = pair().await;
            let (head, up, down) = (pattern(100, 7), pattern(len, 5), pattern(len, 6));
            if early {
                user.write_all(&[&head[..], &up].concat()[..len.min(300_000) + 100]).await.unwrap();
            } else {
                user.write_all(&head).await.unwrap();
            }
            let mut got = vec![0; 100];
            within(at_forwarder.read_exact(&mut got)).await.unwrap();
            assert!(got == head);
            at_forwarder.write_all(b"welcome").await.unwrap();
            let piped = tokio::spawn(async move {
                at_forwarder.pipe(near.into(), Side::Service, &Moved::default(), HALF_CLOSED_IDLE).await
            });
            let (mut user_in, mut user_out) = split(user);
            let written = if early { len.min(300_000) } else { 0 };
            let mut got_up = Vec::new();
            let (service_in, service_out) = service.split();
            let (mut service_in, ()) = (service_in, ());
            let (got_down, _, (), ()) = within(async {
                tokio::join!(
                    read(&mut user_in, &[10_000]),
                    service_in.read_to_end(&mut got_up),
                    write(&mut user_out, &up[written..], &[10_000]),
                    write(service_out, &down, &[10_000]),
                )
            })
            .await;
            assert!(got_up == up && got_down == [b"welcome", &down[..]].concat());
            assert_eq!(within(piped).await.unwrap(), End::Done);
        }
        path.is_empty().await;
    }
}

/// The pipe has nothing to send then, and goes on with what it receives.
#[tokio::test]
async fn a_stream_that_a_program_has_ended_may_be_piped() {
    let path = Path::new(Config::default(), false).await;
    let (mut user, mut at_forwarder) = path.stream().await;
    let (service, near) = pair().await;
    at_forwarder.write_all(b"all there is").await.unwrap();
    let ends = poll_fn(|context| Poll::Ready(Pin::new(&mut at_forwarder).poll_shutdown(context)));
    assert!(ends.await.is_pending());
    let piped = tokio::spawn(async move {
        at_forwarder.pipe(near.into(), Side::Service, &Moved::default(), HALF_CLOSED_IDLE).await
    });
    write(&mut user, b"still heard", &[100]).await;
    assert_eq!(within(read(service, &[100])).await, b"still heard");
    assert_eq!(within(read(user, &[100])).await, b"all there is");
    assert_eq!(within(piped).await.unwrap(), End::Done);
}

/// The wire's end is in the same read as the stream's.
#[tokio::test]
async fn a_stream_that_has_come_to_its_end_is_read_although_the_link_is_lost() {
    let (near, mut far) = pair().await;
    let link = Link::start(Role::Relay, near, vec![], Config::default());
    let mut stream = link.open().await.unwrap();
    within(stream.shutdown()).await.unwrap();
    let (open, data) = ([0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 4]);
    far.write_all(&[&open[..], &data, b"last"].concat()).await.unwrap();
    drop(far);
    within(link.ended()).await;
    assert_eq!(read(&mut stream, &[3]).await, b"last");
    assert!(stream.is_read_to_the_end());
    stream.shutdown().await.unwrap();
}
