//! Pipes that share a rate.

use crate::rig::{Rig, Setup, abort, assert_reset, end, pattern, read_all, soon};
use relay_net::pipe::End;
use relay_net::rate::Bucket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn rig(rate: &Arc<Bucket>) -> Rig {
    Setup { rate: Some(rate.clone()), ..Setup::default() }.start().await
}

fn bucket(rate: u64) -> Arc<Bucket> {
    Arc::new(Bucket::new(rate, || {}))
}

#[tokio::test]
async fn the_rate_is_kept_and_reached() {
    // Of the second, what may go in its turn is large enough to be spliced.
    for (rate, up, down) in [(1_000_000, 1_000_000, 0), (20_000_000, 10_000_000, 10_000_000)] {
        let rig = rig(&bucket(rate)).await;
        let start = Instant::now();
        rig.exchange(up, down).await;
        let time = start.elapsed();
        assert!((Duration::from_millis(600)..Duration::from_secs(3)).contains(&time), "{time:?}");
    }
}

/// Another sends and receives as much as it can.
#[tokio::test]
async fn a_small_exchange_does_not_queue_behind_bulk() {
    const EXCHANGES: u32 = 30;
    let rate = bucket(1_000_000);
    let mut small = rig(&rate).await;
    let mut bulk = rig(&rate).await;
    let over = Arc::new(AtomicBool::new(false));
    let until = over.clone();
    let flood = tokio::spawn(async move {
        let (chunk, mut one, mut other) = (vec![0; 65536], vec![0; 65536], vec![0; 65536]);
        let (mut user_in, mut user_out) = bulk.user.split();
        let (mut service_in, mut service_out) = bulk.service.split();
        while !until.load(Ordering::Relaxed) {
            tokio::select! {
                sent = user_out.write(&chunk) => drop(sent.unwrap()),
                sent = service_out.write(&chunk) => drop(sent.unwrap()),
                read = user_in.read(&mut one) => drop(read.unwrap()),
                read = service_in.read(&mut other) => drop(read.unwrap()),
            }
        }
        bulk.moved.up.load(Ordering::Relaxed) + bulk.moved.down.load(Ordering::Relaxed)
    });
    let start = Instant::now();
    let mut byte = [0];
    for _ in 0..EXCHANGES {
        small.user.write_all(b"?").await.unwrap();
        soon(small.service.read_exact(&mut byte)).await.unwrap();
        small.service.write_all(b"!").await.unwrap();
        soon(small.user.read_exact(&mut byte)).await.unwrap();
    }
    let each = start.elapsed() / EXCHANGES;
    assert!(each < Duration::from_millis(60), "{each:?}");
    tokio::time::sleep(Duration::from_secs(1).saturating_sub(start.elapsed())).await;
    over.store(true, Ordering::Relaxed);
    let moved = flood.await.unwrap();
    let most = 1000 * (u64::try_from(start.elapsed().as_millis()).unwrap() + 200);
    assert!(moved > most / 3 && moved < most, "{moved} of {most}");
}

/// Although nothing may be moved for hours.
#[tokio::test]
async fn an_abort_is_noticed_in_line_and_what_came_before_it_is_delivered() {
    let mut rig = rig(&bucket(1)).await;
    rig.user.write_all(&pattern(1, 0, 30_000)).await.unwrap();
    soon(rig.service.read_exact(&mut [0; 16 * 1024])).await.unwrap();
    abort(rig.user);
    assert_reset(&mut rig.service).await;
    assert!(matches!(end(rig.pipe).await, End::UserAborted(_)));
    assert_eq!(rig.moved.up.load(Ordering::Relaxed), 30_000);
}

#[tokio::test]
async fn who_waits_for_the_rate_is_not_idle() {
    let idle = Duration::from_millis(50);
    let mut rig = Setup { idle, rate: Some(bucket(20_000)), ..Setup::default() }.start().await;
    let bytes = pattern(1, 0, 30_000);
    rig.user.write_all(&bytes).await.unwrap();
    rig.user.shutdown().await.unwrap();
    let (got, clean) = read_all(&mut rig.service).await;
    clean.unwrap();
    assert!(got == bytes);
    rig.service.shutdown().await.unwrap();
    assert_eq!(end(rig.pipe).await, End::Done);
}
