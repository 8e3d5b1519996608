//! What only a link over TLS can meet.

use std::net::Shutdown;
use std::time::Instant;

use socket2::SockRef;

use super::super::output::Written;
use super::*;
use crate::tls::tests::over;

/// A link whose peer is a TLS session in the test's hands.
async fn link() -> (Link, Socket) {
    let (near, far) = pair().await;
    let (near, far) = over(near, far).await;
    (Link::start(Role::Forwarder, near, vec![], Config::default()), far.into())
}

#[tokio::test]
async fn how_a_link_ends_tells_a_close_from_a_cut() {
    let (link, peer) = link().await;
    peer.shutdown_write().unwrap();
    assert_eq!(timeout(PATIENCE, link.ended()).await.unwrap(), Ended::PeerClosed);
    assert_eq!(peer.read(&mut [0]).await.unwrap(), 0, "it answers likewise");

    let (link, peer) = self::link().await;
    SockRef::from(peer.tcp().unwrap()).shutdown(Shutdown::Write).unwrap();
    assert_eq!(timeout(PATIENCE, link.ended()).await.unwrap(), Ended::Io(ErrorKind::ConnectionReset));

    let (link, peer) = self::link().await;
    peer.tcp().unwrap().try_write(&[b'?'; 100]).unwrap();
    assert_eq!(timeout(PATIENCE, link.ended()).await.unwrap(), Ended::Io(ErrorKind::InvalidData));
}

#[tokio::test]
async fn a_link_that_we_end_ends_with_close_notify() {
    let (link, peer) = link().await;
    link.go_away();
    link.finish();
    let mut last_words = [0; 100];
    assert_eq!(timeout(PATIENCE, peer.read(&mut last_words)).await.unwrap().unwrap(), 12);
    assert_eq!(last_words[..12], [0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], "GoAway");
    assert_eq!(timeout(PATIENCE, peer.read(&mut last_words)).await.unwrap().unwrap(), 0);
    peer.shutdown_write().unwrap();
    assert_eq!(timeout(PATIENCE, link.ended()).await.unwrap(), Ended::Finished);
}

/// The frames that came with the handshake's last bytes wake nobody: they are in the session already.
#[tokio::test]
async fn what_was_decrypted_before_the_link_began_is_processed() {
    let (near, far) = pair().await;
    let (near, far) = over(near, far).await;
    let (near, far) = (Socket::from(near), Socket::from(far));
    // Behind a byte that the handshake of the lines takes, two openings and the peer's end.
    let open = |id: u8| [0, 1, 0, 1, 0, 0, 0, id, 0, 0, 0, 0];
    far.write_all(&[b"x", &open(1)[..], &open(3)].concat()).await.unwrap();
    assert_eq!(near.read(&mut [0]).await.unwrap(), 1);
    let link = Link::start(Role::Forwarder, near, vec![], Config::default());
    for _ in 0..2 {
        timeout(PATIENCE, link.accept()).await.unwrap().unwrap();
    }
}

/// All that is left to do is to flush: no frame, no byte of a user and no time wakes the link for it.
#[tokio::test]
async fn ciphertext_does_not_stay_behind_when_nothing_else_is_to_be_done() {
    const SENT: usize = 50_000;
    let (near, far) = pair().await;
    SockRef::from(&near).set_send_buffer_size(4096).unwrap();
    SockRef::from(&far).set_recv_buffer_size(4096).unwrap();
    let (near, far) = over(near, far).await;
    let (link, far) = (Link::start(Role::Relay, near, vec![], Config::default()), Socket::from(far));
    let (mut user, at_relay) = pair().await;
    let stream = link.open().await.unwrap();
    tokio::spawn(
        async move { stream.pipe(Socket::from(at_relay), Side::User, &Moved::default(), HALF_CLOSED_IDLE).await },
    );
    user.write_all(&pattern(SENT, 5)).await.unwrap();
    let waits = async {
        while !link.0.wire.is_unflushed() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waits).await.expect("the kernel took all of it");
    let reads = async {
        let (mut read, mut buffer) = (0, [0; 4096]);
        // The link would ping a silent peer, and flush with that, later.
        while read < SENT {
            read += far.read(&mut buffer).await.unwrap();
        }
    };
    timeout(Duration::from_secs(8), reads).await.expect("bytes were left behind");
}

#[tokio::test]
async fn a_link_that_holds_ciphertext_is_full() {
    let (near, far) = pair().await;
    SockRef::from(&near).set_send_buffer_size(4096).unwrap();
    SockRef::from(&far).set_recv_buffer_size(4096).unwrap();
    let (near, _far) = over(near, far).await;
    let near = Socket::from(near);
    let mut path = super::super::path::Path::new(&near, false, Instant::now());
    let (link, _task) = Link::with_task(Role::Relay, near, vec![], Config::default());
    let (mut user, at_relay) = pair().await;
    let stream = link.open().await.unwrap();
    tokio::spawn(
        async move { stream.pipe(Socket::from(at_relay), Side::User, &Moved::default(), HALF_CLOSED_IDLE).await },
    );
    for _ in 0..1000 {
        user.write_all(&[5; 1000]).await.unwrap();
        tokio::task::yield_now().await;
        let written = link.0.write_some(&mut path);
        assert_eq!(matches!(written, Written::Full), link.0.wire.is_unflushed());
        if link.0.wire.is_unflushed() {
            return;
        }
    }
    panic!("the kernel took all of it");
}
