//! Ends and aborts of a party that speaks TLS, which are not those of TCP.

use crate::rig::{Setup, assert_reset, end, pair, sockets, soon};
use relay_net::pipe::End;
use relay_net::socket::Socket;
use socket2::SockRef;
use std::io::ErrorKind::{ConnectionReset, InvalidData};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What the party reads up to its end.
async fn read_to_end(socket: &Socket) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 5000];
    loop {
        match soon(socket.read(&mut buffer)).await? {
            0 => return Ok(bytes),
            read => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}

#[tokio::test]
async fn the_end_of_one_direction_is_that_of_one_direction() {
    for user_first in [true, false] {
        let (mut user, near_user) = pair(0).await;
        let (service, near_service) = sockets(0, true).await;
        let (_, _, pipe) = Setup::default().pipe(near_user.into(), near_service);
        if user_first {
            user.write_all(b"request").await.unwrap();
            user.shutdown().await.unwrap();
            assert_eq!(read_to_end(&service).await.unwrap(), b"request");
        }
        service.write_all(b"reply").await.unwrap();
        service.shutdown_write().unwrap();
        let mut reply = Vec::new();
        soon(user.read_to_end(&mut reply)).await.unwrap();
        assert_eq!(reply, b"reply");
        if !user_first {
            user.write_all(b"late").await.unwrap();
            user.shutdown().await.unwrap();
            assert_eq!(read_to_end(&service).await.unwrap(), b"late");
        }
        assert_eq!(end(pipe).await, End::Done);
    }
}

#[tokio::test]
async fn a_session_that_is_cut_off_is_an_abort_behind_its_bytes() {
    let (mut user, near_user) = pair(0).await;
    let (service, near_service) = sockets(0, true).await;
    let (_, _, pipe) = Setup::default().pipe(near_user.into(), near_service);
    service.write_all(b"most of it").await.unwrap();
    let mut bytes = [0; 10];
    soon(user.read_exact(&mut bytes)).await.unwrap();
    SockRef::from(service.tcp().unwrap()).shutdown(Shutdown::Write).unwrap();
    assert_reset(&mut user).await;
    assert_eq!(end(pipe).await, End::ServiceAborted(ConnectionReset));
    assert_eq!(read_to_end(&service).await.unwrap_err().kind(), ConnectionReset);
}

#[tokio::test]
async fn what_is_not_tls_is_an_abort() {
    let (mut user, near_user) = pair(0).await;
    let (service, near_service) = sockets(0, true).await;
    let (_, _, pipe) = Setup::default().pipe(near_user.into(), near_service);
    service.tcp().unwrap().try_write(&[b'?'; 100]).unwrap();
    assert_reset(&mut user).await;
    assert_eq!(end(pipe).await, End::ServiceAborted(InvalidData));
}

#[tokio::test]
async fn an_abort_of_the_other_party_cuts_the_session_off() {
    for fills in [false, true] {
        let (user, near_user) = sockets(8 * 1024, false).await;
        let (service, near_service) = sockets(8 * 1024, true).await;
        let (_, _, pipe) = Setup::default().pipe(near_user, near_service);
        if fills {
            fill(&user).await;
        }
        user.abort();
        assert!(matches!(end(pipe).await, End::UserAborted(_)));
        assert_eq!(read_to_end(&service).await.unwrap_err().kind(), ConnectionReset);
    }
}

/// Writes until nobody takes any more for a while.
async fn fill(socket: &Socket) {
    loop {
        match socket.try_write(&[b'f'; 4096]) {
            Ok(_) => {}
            Err(_) => match tokio::time::timeout(Duration::from_millis(200), socket.writable()).await {
                Ok(writable) => writable.unwrap(),
                Err(_) => return,
            },
        }
    }
}

#[tokio::test]
async fn waiting_with_ciphertext_costs_no_polls() {
    let (user, near_user) = sockets(8 * 1024, true).await;
    let (service, near_service) = sockets(8 * 1024, true).await;
    let (_, polls, pipe) = Setup::default().pipe(near_user, near_service);
    for from in [&user, &service] {
        fill(from).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = polls.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(polls.load(Ordering::Relaxed), before);
    }
    pipe.abort();
}

/// All that the pipe has left to do is to flush, and the end comes behind it.
#[tokio::test]
async fn what_a_slow_reader_has_yet_to_take_is_not_left_behind() {
    let (user, near_user) = sockets(8 * 1024, false).await;
    let (service, near_service) = sockets(8 * 1024, true).await;
    let idle = Duration::from_millis(50);
    let (moved, _, pipe) = Setup { idle, ..Setup::default() }.pipe(near_user, near_service);
    service.shutdown_write().unwrap();
    assert_eq!(read_to_end(&user).await.unwrap(), b"");
    user.write_all(&vec![7; 30_000]).await.unwrap();
    user.shutdown_write().unwrap();
    // Long enough for a pipe that took this for silence.
    tokio::time::sleep(4 * idle).await;
    assert!(read_to_end(&service).await.unwrap() == vec![7; 30_000]);
    assert_eq!(end(pipe).await, End::Done);
    assert_eq!(moved.up.load(Ordering::Relaxed), 30_000);
}

#[tokio::test]
async fn a_half_closed_session_in_which_nothing_moves_is_idle() {
    let (user, near_user) = sockets(0, true).await;
    let (service, near_service) = sockets(0, true).await;
    let idle = Duration::from_millis(50);
    let (_, _, pipe) = Setup { idle, ..Setup::default() }.pipe(near_user, near_service);
    user.shutdown_write().unwrap();
    assert_eq!(read_to_end(&service).await.unwrap(), b"");
    assert_eq!(end(pipe).await, End::Idle);
    soon(service.aborted()).await;
}
