//! Time, which stands still in these tests unless they move it.

use crate::rig::{Rig, Setup, assert_reset, pattern, small};
use relay_net::pipe::{End, HALF_CLOSED_IDLE};
use std::sync::mpsc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::advance;

const IDLE: Duration = HALF_CLOSED_IDLE;

/// Keeps tokio's paused clock from running ahead by itself whenever it waits for a socket.
struct Clock(#[expect(dead_code, reason = "dropping it ends the blocking task")] mpsc::Sender<()>);

impl Clock {
    fn stop() -> Self {
        let (sender, receiver) = mpsc::channel();
        tokio::task::spawn_blocking(move || receiver.recv());
        tokio::time::pause();
        Self(sender)
    }
}

/// Lets time go by until the pipe has ended.
async fn end(rig: &mut Rig) -> End {
    while !rig.pipe.is_finished() {
        advance(IDLE).await;
        // The kernel's own delays are in real time.
        tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))).await.unwrap();
    }
    (&mut rig.pipe).await.unwrap()
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(1))).await.unwrap();
    }
}

#[tokio::test]
async fn a_half_closed_pipe_ends_when_silent_and_resets_both() {
    let _clock = Clock::stop();
    for user_first in [true, false] {
        let mut rig = Setup::default().start().await;
        let (finished, other) =
            if user_first { (&mut rig.user, &mut rig.service) } else { (&mut rig.service, &mut rig.user) };
        finished.shutdown().await.unwrap();
        assert_eq!(other.read(&mut [0]).await.unwrap(), 0);
        // Until the end-of-file is acknowledged it counts as a byte on its way.
        settle().await;
        advance(IDLE.mul_f64(0.99)).await;
        settle().await;
        assert!(!rig.pipe.is_finished());
        assert_eq!(end(&mut rig).await, End::Idle);
        let finished = if user_first { &mut rig.user } else { &mut rig.service };
        assert_reset(finished).await;
    }
}

#[tokio::test]
async fn never_while_bytes_move() {
    let _clock = Clock::stop();
    let mut rig = Setup::default().start().await;
    rig.user.shutdown().await.unwrap();
    assert_eq!(rig.service.read(&mut [0]).await.unwrap(), 0);
    for _ in 0..5 {
        rig.service.write_u8(1).await.unwrap();
        rig.user.read_u8().await.unwrap();
        advance(IDLE.mul_f64(0.9)).await;
        settle().await;
        assert!(!rig.pipe.is_finished());
    }
    assert_eq!(end(&mut rig).await, End::Idle);
}

#[tokio::test]
async fn a_pipe_that_is_open_both_ways_may_be_silent_for_ever() {
    let _clock = Clock::stop();
    let mut rig = Setup::default().start().await;
    rig.user.write_u8(1).await.unwrap();
    rig.service.read_u8().await.unwrap();
    for _ in 0..10 {
        advance(IDLE * 10).await;
        settle().await;
    }
    assert!(!rig.pipe.is_finished());
}

/// The pipe's own kernel takes 64 KiB, which a user who reads nothing does not.
fn roomy() -> Setup {
    Setup { send: 256 * 1024, ..small() }
}

/// The service has sent its last; the user pauses, with `length` bytes to take.
async fn paused_user(setup: Setup, length: usize) {
    let _clock = Clock::stop();
    let rig = setup.start().await;
    let reply = pattern(5, 0, length);
    let (mut service_in, mut service_out) = rig.service.into_split();
    let sent = reply.clone();
    let writer = tokio::spawn(async move {
        service_out.write_all(&sent).await.unwrap();
        service_out.shutdown().await.unwrap();
        service_out
    });
    let (mut user_in, mut user_out) = rig.user.into_split();
    for _ in 0..10 {
        settle().await;
        advance(IDLE).await;
    }
    assert!(!rig.pipe.is_finished());
    let mut got = Vec::new();
    user_in.read_to_end(&mut got).await.unwrap();
    assert!(got == reply);
    user_out.write_all(b"thanks").await.unwrap();
    user_out.shutdown().await.unwrap();
    let mut thanks = Vec::new();
    service_in.read_to_end(&mut thanks).await.unwrap();
    assert_eq!(thanks, b"thanks");
    drop(writer.await.unwrap());
    while !rig.pipe.is_finished() {
        advance(Duration::from_secs(5)).await;
        settle().await;
    }
    assert_eq!(rig.pipe.await.unwrap(), End::Done);
}

#[tokio::test]
async fn a_user_who_pauses_with_bytes_in_the_kernel_loses_nothing() {
    paused_user(roomy(), 64 * 1024).await;
}

#[tokio::test]
async fn a_user_who_pauses_with_bytes_in_the_pipe_loses_nothing() {
    paused_user(small(), 1024 * 1024).await;
}

#[tokio::test]
async fn the_sockets_stay_open_until_a_paused_user_has_taken_everything() {
    let _clock = Clock::stop();
    let mut rig = roomy().start().await;
    let reply = pattern(6, 0, 64 * 1024);
    rig.user.shutdown().await.unwrap();
    rig.service.write_all(&reply).await.unwrap();
    rig.service.shutdown().await.unwrap();
    for _ in 0..10 {
        settle().await;
        advance(IDLE).await;
    }
    assert!(!rig.pipe.is_finished(), "closed with bytes to deliver");
    let mut got = Vec::new();
    rig.user.read_to_end(&mut got).await.unwrap();
    assert!(got == reply);
    while !rig.pipe.is_finished() {
        advance(Duration::from_secs(5)).await;
        settle().await;
    }
    assert_eq!(rig.pipe.await.unwrap(), End::Done);
}
