//! Bytes and ends-of-file, each way.

use crate::rig::{Setup, end, fill, pattern, read_all, small, soon};
use relay_net::pipe::{End, Manner};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const BULK: usize = 24 * 1024 * 1024;

#[tokio::test]
async fn bulk_passes_both_ways_at_once() {
    let moved = Setup::default().start().await.exchange(BULK, BULK).await;
    assert_eq!(moved.up.load(Ordering::Relaxed), BULK as u64);
    assert_eq!(moved.down.load(Ordering::Relaxed), BULK as u64);
}

#[tokio::test]
async fn the_users_end_of_file_reaches_the_service_and_the_reply_the_user() {
    let mut rig = Setup::default().start().await;
    rig.user.write_all(b"request").await.unwrap();
    rig.user.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.service).await.0, b"request");
    rig.service.write_all(b"reply").await.unwrap();
    rig.service.shutdown().await.unwrap();
    let (reply, clean) = read_all(&mut rig.user).await;
    clean.unwrap();
    assert_eq!(reply, b"reply");
    assert_eq!(end(rig.pipe).await, End::Done);
}

#[tokio::test]
async fn the_services_end_of_file_reaches_the_user_who_goes_on_sending() {
    let mut rig = Setup::default().start().await;
    rig.service.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.user).await.0, b"");
    rig.user.write_all(b"still").await.unwrap();
    rig.user.write_all(b" here").await.unwrap();
    rig.user.shutdown().await.unwrap();
    let (bytes, clean) = read_all(&mut rig.service).await;
    clean.unwrap();
    assert_eq!(bytes, b"still here");
    assert_eq!(end(rig.pipe).await, End::Done);
}

#[tokio::test]
async fn early_bytes_come_first() {
    let early = [b"user early ".to_vec(), b"service early ".to_vec()];
    let mut rig = Setup { early, ..Setup::default() }.start().await;
    rig.user.write_all(b"user late").await.unwrap();
    rig.user.shutdown().await.unwrap();
    rig.service.write_all(b"service late").await.unwrap();
    rig.service.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.user).await.0, b"service early service late");
    assert_eq!(read_all(&mut rig.service).await.0, b"user early user late");
    assert_eq!(end(rig.pipe).await, End::Done);
    assert_eq!((rig.moved.up.load(Ordering::Relaxed), rig.moved.down.load(Ordering::Relaxed)), (20, 26));
}

#[tokio::test]
async fn early_bytes_of_a_full_service_wait_for_it() {
    let early = pattern(3, 0, 1024 * 1024);
    let mut rig = Setup { early: [early.clone(), Vec::new()], ..small() }.start().await;
    rig.user.shutdown().await.unwrap();
    assert!(read_all(&mut rig.service).await.0 == early);
}

#[tokio::test]
async fn a_slow_reader_gets_everything_and_holds_up_only_its_own_direction() {
    let mut rig = small().start().await;
    let sent = fill(&mut rig.service).await;
    // Down is full; up moves on.
    for round in 0..100u8 {
        rig.user.write_all(&[round; 100]).await.unwrap();
        let mut bytes = [0; 100];
        soon(rig.service.read_exact(&mut bytes)).await.unwrap();
        assert_eq!(bytes, [round; 100]);
    }
    rig.service.shutdown().await.unwrap();
    let (mut got, mut buffer) = (0, [0; 97]);
    loop {
        match soon(rig.user.read(&mut buffer)).await.unwrap() {
            0 => break,
            read => got += read,
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(got, sent);
}

#[tokio::test]
async fn waiting_costs_no_polls() {
    waits_without_polls(Manner::Suited).await;
}

#[tokio::test]
async fn waiting_with_bytes_in_a_kernel_pipe_costs_no_polls() {
    waits_without_polls(Manner::Spliced).await;
}

async fn waits_without_polls(manner: Manner) {
    let mut rig = Setup { manner, ..small() }.start().await;
    rig.user.write_all(b"x").await.unwrap();
    rig.service.read_u8().await.unwrap();
    for step in ["idle", "full down", "full both ways", "half closed"] {
        match step {
            "full down" => assert!(fill(&mut rig.service).await > 0),
            "full both ways" => assert!(fill(&mut rig.user).await > 0),
            "half closed" => rig.user.shutdown().await.unwrap(),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = rig.polls.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(rig.polls.load(Ordering::Relaxed), before, "{step}");
    }
}

#[tokio::test]
async fn a_message_costs_one_poll() {
    const ROUNDS: usize = 1000;
    let mut rig = Setup::default().start().await;
    for _ in 0..ROUNDS {
        rig.user.write_u8(1).await.unwrap();
        rig.service.read_u8().await.unwrap();
    }
    let polls = rig.polls.load(Ordering::Relaxed);
    assert!(polls <= ROUNDS + ROUNDS / 10, "{polls}");
}

#[tokio::test]
async fn a_busy_pipe_lets_others_run() {
    let mut rig = Setup::default().start().await;
    let (mut service_in, _service_out) = rig.service.into_split();
    let sink = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 20];
        while service_in.read(&mut buffer).await.unwrap() > 0 {}
    });
    rig.user.write_all(&vec![0; BULK]).await.unwrap();
    rig.user.shutdown().await.unwrap();
    sink.await.unwrap();
    assert!(rig.polls.load(Ordering::Relaxed) >= BULK / (512 * 1024) / 2);
}
