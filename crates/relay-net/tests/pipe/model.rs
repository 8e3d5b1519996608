//! Two parties with random plans, through the pipe: what they see must be what TCP without a relay shows,
//! in whichever manner the bytes are moved.

use crate::rig::{MANNERS, Setup, abort, pattern, sockets, soon};
use proptest::prelude::*;
use relay_net::pipe::{End, Manner};
use relay_net::rate::Bucket;
use relay_net::socket::Socket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use tokio::sync::watch;

/// How a party's sending ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    Finish,
    Abort,
    FinishThenAbort,
}

/// What a party does.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Lengths of its writes, and how often it lets others run after each.
    writes: Vec<(usize, u8)>,
    pub(crate) last: Last,
    /// Most it reads at once.
    chunk: usize,
    /// How often it lets others run between reads.
    slow: u8,
    /// Reads nothing before its own writes are done.
    late: bool,
}

impl Plan {
    pub(crate) fn length(&self) -> usize {
        self.writes.iter().map(|(length, _)| length).sum()
    }
}

/// Of its writes, twelve are of any size for each `huge` that are huge.
pub(crate) fn plan(late: bool, huge: u32) -> impl Strategy<Value = Plan> {
    let last = prop_oneof![3 => Just(Last::Finish), 1 => Just(Last::Abort), 1 => Just(Last::FinishThenAbort)];
    let length =
        prop_oneof![4 => 1..100usize, 4 => 1..20_000usize, 4 => 1..200_000usize, huge => 500_000..1_500_000usize];
    let chunk = prop_oneof![Just(1usize << 20), Just(65536usize), 200..5000usize];
    (prop::collection::vec((length, 0..4u8), 0..6), last, chunk, 0..3u8, any::<bool>())
        .prop_map(move |(writes, last, chunk, slow, waits)| Plan { writes, last, chunk, slow, late: waits && late })
}

/// How a party saw its connection end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Saw {
    EndOfFile,
    Reset,
    /// It aborted before.
    Nothing,
}

/// Plays a party to its end; returns what it read.
pub(crate) async fn play(socket: Socket, plan: &Plan, seed: u64) -> (Vec<u8>, Saw) {
    let written = watch::Sender::new(false);
    let gone = watch::Sender::new(false);
    let failed = AtomicBool::new(false);
    let write = async {
        let mut at = 0;
        'plan: for &(length, pauses) in &plan.writes {
            let bytes = pattern(seed, at, length);
            at += length;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                match socket.try_write(rest) {
                    Ok(taken) => rest = &rest[taken..],
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => socket.writable().await.unwrap(),
                    Err(_) => {
                        failed.store(true, Ordering::Relaxed);
                        break 'plan;
                    }
                }
            }
            for _ in 0..pauses {
                tokio::task::yield_now().await;
            }
        }
        if plan.last != Last::Abort {
            // Both fail if the other party has aborted.
            let _ = socket.shutdown_write();
            while let Ok(false) = socket.flush() {
                socket.writable().await.unwrap();
            }
        }
        written.send_replace(true);
        if plan.last != Last::Finish {
            gone.send_replace(true);
        }
    };
    let reads = async {
        let mut got = Vec::new();
        let mut buffer = vec![0; plan.chunk];
        if plan.late {
            written.subscribe().wait_for(|done| *done).await.unwrap();
        }
        let mut aborted = gone.subscribe();
        let saw = loop {
            let read = tokio::select! {
                biased;
                _ = aborted.wait_for(|gone| *gone) => break Saw::Nothing,
                read = socket.read(&mut buffer) => read,
            };
            match read {
                // Whoever meets the error first is the only one to see it.
                Ok(0) if failed.load(Ordering::Relaxed) => break Saw::Reset,
                Ok(0) => break Saw::EndOfFile,
                Ok(read) => got.extend_from_slice(&buffer[..read]),
                Err(_) => break Saw::Reset,
            }
            for _ in 0..plan.slow {
                tokio::task::yield_now().await;
            }
        };
        (got, saw)
    };
    let ((), result) = tokio::join!(write, reads);
    if plan.last != Last::Finish {
        abort(socket);
    }
    result
}

/// What one party may have seen, given both plans.
pub(crate) fn check(got: &[u8], saw: Saw, own: &Plan, peer: &Plan, seed: u64) {
    assert!(got.len() <= peer.length() && got == pattern(seed, 0, got.len()), "not a prefix of what was sent");
    match saw {
        Saw::EndOfFile => {
            assert_ne!(peer.last, Last::Abort, "an abort looked like an end-of-file");
            assert_eq!(got.len(), peer.length(), "an end-of-file before the last byte");
        }
        Saw::Reset => assert_ne!(peer.last, Last::Finish, "a reset that nobody sent"),
        Saw::Nothing => assert_ne!(own.last, Last::Finish),
    }
}

/// What each party read and how it saw its connection end, and how the pipe ended.
type Outcome = ((Vec<u8>, Saw), (Vec<u8>, Saw), End);

/// Shared by all cases, one behind another, so that there is always a debt.
pub(crate) static RATE: LazyLock<Arc<Bucket>> = LazyLock::new(|| Arc::new(Bucket::new(50_000_000, || {})));

/// `secure` says on which sides TLS is spoken, `limited` whether a rate is kept.
fn run(user: &Plan, service: &Plan, buffers: usize, manner: Manner, secure: [bool; 2], limited: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (far_user, near_user) = sockets(buffers, secure[0]).await;
        let (far_service, near_service) = sockets(buffers, secure[1]).await;
        let (moved, _, pipe) =
            Setup { manner, rate: limited.then(|| RATE.clone()), ..Setup::default() }.pipe(near_user, near_service);
        let (at_user, at_service) =
            soon(async { tokio::join!(play(far_user, user, 1), play(far_service, service, 2)) }).await;
        let end = soon(pipe).await.unwrap();
        check(&at_user.0, at_user.1, user, service, 2);
        check(&at_service.0, at_service.1, service, user, 1);
        match (user.last, service.last) {
            (Last::Finish, Last::Finish) => {
                assert_eq!(end, End::Done);
                assert_eq!(moved.up.load(Ordering::Relaxed), user.length() as u64);
                assert_eq!(moved.down.load(Ordering::Relaxed), service.length() as u64);
            }
            (Last::Finish, _) => assert!(matches!(end, End::ServiceAborted(_) | End::Done), "{end:?}"),
            (_, Last::Finish) => assert!(matches!(end, End::UserAborted(_) | End::Done), "{end:?}"),
            _ => assert_ne!(end, End::Idle),
        }
        if user.last == Last::Abort || service.last == Last::Abort {
            assert_ne!(end, End::Done);
        }
        (at_user, at_service, end)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pipe_looks_like_tcp(
        user in plan(true, 1),
        service in plan(false, 1),
        small in any::<bool>(),
        secure in any::<[bool; 2]>(),
    ) {
        let plain = MANNERS.map(|manner| (manner, [false; 2], false));
        let others = [(Manner::Suited, secure, false), (Manner::Suited, secure, true)];
        let outcomes = plain.into_iter().chain(others).map(|(manner, secure, limited)| {
            run(&user, &service, if small { 8 * 1024 } else { 0 }, manner, secure, limited)
        });
        let outcomes: Vec<_> = outcomes.collect();
        // Whatever an abort cuts off is a matter of moments, and what the parties see without one is not.
        if user.last == Last::Finish && service.last == Last::Finish {
            assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "the manner shows, or TLS does, or the rate");
        }
    }
}
