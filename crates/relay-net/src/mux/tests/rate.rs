//! A link that keeps to the rate of its tunnel.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;
use crate::rate::Bucket;

const MEGABYTE: usize = 1_000_000;
/// What a megabyte may take at a megabyte a second: a tenth of it goes at once, and machines are slow at times.
const A_SECOND: std::ops::Range<Duration> = Duration::from_millis(600)..Duration::from_secs(3);

/// A path whose relay moves a megabyte a second.
async fn limited(secure: bool) -> Path {
    let rate = Some(Arc::new(Bucket::new(MEGABYTE as u64, || {})));
    Path::between(Config { rate, ..Config::default() }, Config::default(), secure).await
}

async fn transfer(mut from: TcpStream, mut to: TcpStream, len: usize) {
    let bytes = pattern(len, 3);
    let mut got = Vec::new();
    let (sent, read) = tokio::join!(
        async {
            from.write_all(&bytes).await.unwrap();
            from.shutdown().await.unwrap();
        },
        async {
            to.read_to_end(&mut got).await.unwrap();
            to.shutdown().await.unwrap();
        },
    );
    let ((), ()) = (sent, read);
    assert!(got == bytes);
}

#[tokio::test]
async fn each_way_and_both_ways_together_the_rate_is_kept_and_reached() {
    for secure in SECURE {
        let took = async |what: u8| {
            let path = limited(secure).await;
            let (user, service, pipes) = path.connect(HALF_CLOSED_IDLE).await;
            let start = Instant::now();
            match what {
                0 => transfer(user, service, MEGABYTE).await,
                1 => transfer(service, user, MEGABYTE).await,
                _ => exchange(user, service, MEGABYTE / 2).await,
            }
            let took = start.elapsed();
            assert_eq!(pipes.await.unwrap(), (End::Done, End::Done));
            took
        };
        let times: [Duration; 3] = tokio::join!(took(0), took(1), took(2)).into();
        assert!(times.iter().all(|time| A_SECOND.contains(time)), "{times:?}");
    }
}

#[tokio::test]
async fn many_users_share_the_rate() {
    let path = limited(false).await;
    let start = Instant::now();
    let mut users = JoinSet::new();
    for number in 0..20 {
        let (user, service, pipes) = path.connect(HALF_CLOSED_IDLE).await;
        users.spawn(async move {
            let (from, to) = if number % 2 == 0 { (user, service) } else { (service, user) };
            transfer(from, to, MEGABYTE / 20).await;
            assert_eq!(pipes.await.unwrap(), (End::Done, End::Done));
        });
    }
    users.join_all().await;
    assert!(A_SECOND.contains(&start.elapsed()), "{:?}", start.elapsed());
}

/// Others send and receive as much as they can; a small exchange waits for turns, never for all that they have.
#[tokio::test]
async fn a_small_exchange_does_not_queue_behind_bulk() {
    const EXCHANGES: usize = 30;
    let path = limited(false).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut bulk = JoinSet::new();
    for uploads in [true, false] {
        let (user, service, pipes) = path.connect(HALF_CLOSED_IDLE).await;
        let (mut from, mut to) = if uploads { (user, service) } else { (service, user) };
        let over = over.clone();
        bulk.spawn(async move {
            let (chunk, mut buffer) = (vec![0; 65536], vec![0; 65536]);
            let mut got = 0;
            while !over.load(Ordering::Relaxed) {
                tokio::select! {
                    sent = from.write(&chunk) => drop(sent.unwrap()),
                    read = to.read(&mut buffer) => got += read.unwrap(),
                }
            }
            drop(pipes);
            got
        });
    }
    let (mut user, mut service, _pipes) = path.connect(HALF_CLOSED_IDLE).await;
    let start = Instant::now();
    let mut byte = [0];
    for _ in 0..EXCHANGES {
        user.write_all(b"?").await.unwrap();
        service.read_exact(&mut byte).await.unwrap();
        service.write_all(b"!").await.unwrap();
        user.read_exact(&mut byte).await.unwrap();
    }
    let each = start.elapsed() / u32::try_from(EXCHANGES).unwrap();
    // A window of what the others send takes a quarter of a second.
    assert!(each < Duration::from_millis(60), "{each:?}");
    tokio::time::sleep(Duration::from_secs(1).saturating_sub(start.elapsed())).await;
    let time = start.elapsed();
    over.store(true, Ordering::Relaxed);
    let got = bulk.join_all().await;
    let most = MEGABYTE * usize::try_from(time.as_millis() + 200).unwrap() / 1000 + 2 * 262_144;
    assert!(got.iter().all(|got| *got > most / 10), "{got:?} of {most}");
    assert!(got.iter().sum::<usize>() < most, "{got:?} of {most}");
}

/// Although nothing may be sent for hours.
#[tokio::test]
async fn an_abort_is_noticed_while_the_rate_holds_bytes_back() {
    let rate = Arc::new(Bucket::new(1, || {}));
    let config = Config { rate: Some(rate.clone()), ..Config::default() };
    let path = Path::between(config, Config::default(), false).await;
    let (mut user, mut service, pipes) = path.connect(HALF_CLOSED_IDLE).await;
    user.write_all(&pattern(100_000, 1)).await.unwrap();
    let mut got = [0; 16 * 1024];
    service.read_exact(&mut got).await.unwrap();
    user.set_zero_linger().unwrap();
    drop(user);
    let ends = timeout(PATIENCE, pipes).await.expect("the abort was not noticed").unwrap();
    assert!(matches!(ends, (End::UserAborted(_), End::UserAborted(_))), "{ends:?}");
    assert_eq!(service.read_to_end(&mut Vec::new()).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}
