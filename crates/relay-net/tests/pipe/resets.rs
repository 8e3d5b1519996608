//! An abort of one party, in every state of the pipe, is a reset of the other.

use crate::rig::{Rig, Setup, abort, assert_reset, end, fill, pair, read_all, small, soon};
use relay_net::pipe::{End, HALF_CLOSED_IDLE, Moved, Party, pipe};
use relay_net::socket::Socket;
use std::io::ErrorKind::ConnectionReset;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The user's socket, the service's, and the pipe between them.
type Parts = (TcpStream, TcpStream, tokio::task::JoinHandle<End>);

fn parts(rig: Rig) -> Parts {
    (rig.user, rig.service, rig.pipe)
}

async fn user_aborts((user, mut service, pipe): Parts) {
    abort(user);
    // At once: the other party has not taken a byte since.
    let end = end(pipe).await;
    assert!(matches!(end, End::UserAborted(_)), "{end:?}");
    assert_reset(&mut service).await;
}

async fn service_aborts((mut user, service, pipe): Parts) {
    abort(service);
    // At once: the other party has not taken a byte since.
    let end = end(pipe).await;
    assert!(matches!(end, End::ServiceAborted(_)), "{end:?}");
    assert_reset(&mut user).await;
}

#[tokio::test]
async fn while_idle() {
    user_aborts(parts(Setup::default().start().await)).await;
    service_aborts(parts(Setup::default().start().await)).await;
}

#[tokio::test]
async fn while_the_other_party_takes_nothing() {
    let mut rig = small().start().await;
    fill(&mut rig.user).await;
    user_aborts(parts(rig)).await;

    let mut rig = small().start().await;
    fill(&mut rig.service).await;
    service_aborts(parts(rig)).await;
}

#[tokio::test]
async fn while_it_takes_nothing_itself() {
    let mut rig = small().start().await;
    fill(&mut rig.service).await;
    user_aborts(parts(rig)).await;

    let mut rig = small().start().await;
    fill(&mut rig.user).await;
    service_aborts(parts(rig)).await;
}

#[tokio::test]
async fn while_nobody_takes_anything() {
    let mut rig = small().start().await;
    fill(&mut rig.service).await;
    fill(&mut rig.user).await;
    user_aborts(parts(rig)).await;

    let mut rig = small().start().await;
    fill(&mut rig.service).await;
    fill(&mut rig.user).await;
    service_aborts(parts(rig)).await;
}

#[tokio::test]
async fn after_its_own_end_of_file() {
    let mut rig = Setup::default().start().await;
    rig.user.shutdown().await.unwrap();
    assert_eq!(rig.service.read(&mut [0]).await.unwrap(), 0);
    abort(rig.user);
    assert!(matches!(end(rig.pipe).await, End::UserAborted(_)));
    // The end-of-file came first, and hides the reset from reads: it shows in a write.
    rig.service.ready(tokio::io::Interest::ERROR).await.unwrap();
    assert!(rig.service.write_all(b"reply").await.is_err());

    let mut rig = Setup::default().start().await;
    rig.service.shutdown().await.unwrap();
    assert_eq!(rig.user.read(&mut [0]).await.unwrap(), 0);
    abort(rig.service);
    assert!(matches!(end(rig.pipe).await, End::ServiceAborted(_)));
    rig.user.ready(tokio::io::Interest::ERROR).await.unwrap();
    assert!(rig.user.write_all(b"request").await.is_err());
}

#[tokio::test]
async fn after_the_others_end_of_file() {
    let mut rig = Setup::default().start().await;
    rig.service.shutdown().await.unwrap();
    assert_eq!(rig.user.read(&mut [0]).await.unwrap(), 0);
    user_aborts(parts(rig)).await;

    let mut rig = Setup::default().start().await;
    rig.user.shutdown().await.unwrap();
    assert_eq!(rig.service.read(&mut [0]).await.unwrap(), 0);
    service_aborts(parts(rig)).await;
}

#[tokio::test]
async fn a_party_that_closes_with_bytes_to_come_is_one_that_aborts() {
    let mut rig = Setup::default().start().await;
    rig.user.shutdown().await.unwrap();
    assert_eq!(rig.service.read(&mut [0]).await.unwrap(), 0);
    drop(rig.user);
    // Nobody takes this: the user's kernel answers with RST.
    rig.service.write_all(b"too late").await.unwrap();
    assert!(matches!(end(rig.pipe).await, End::UserAborted(_)));
    rig.service.ready(tokio::io::Interest::ERROR).await.unwrap();
}

#[tokio::test]
async fn what_arrived_before_comes_first() {
    // Not one byte of it has passed before the service is gone: all of it is in the kernel when the pipe starts.
    for length in [1, 20_000] {
        let (mut user, near_user) = pair(0).await;
        let (mut service, near_service) = pair(0).await;
        let last_words = vec![7; length];
        service.write_all(&last_words).await.unwrap();
        let service = Socket::from(service);
        soon(async {
            while service.unsent() > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        service.abort();
        near_service.ready(tokio::io::Interest::ERROR).await.unwrap();
        let moved = Moved::default();
        let pipe = pipe(
            Party { socket: near_user.into(), early: Vec::new() },
            Party { socket: near_service.into(), early: Vec::new() },
            &moved,
            HALF_CLOSED_IDLE,
        );
        let (end, (bytes, result)) = tokio::join!(pipe, read_all(&mut user));
        assert_eq!(end, End::ServiceAborted(ConnectionReset));
        assert!(bytes == last_words);
        assert_eq!(result.unwrap_err().kind(), ConnectionReset);
    }
}

#[tokio::test]
async fn what_arrived_comes_first_although_the_users_bytes_meet_the_reset() {
    let (mut user, near_user) = pair(0).await;
    let (mut service, near_service) = pair(0).await;
    service.write_all(b"refused").await.unwrap();
    abort(service);
    near_service.ready(tokio::io::Interest::ERROR).await.unwrap();
    let moved = Moved::default();
    let pipe = pipe(
        Party { socket: near_user.into(), early: b"the write of this takes the error".to_vec() },
        Party { socket: near_service.into(), early: Vec::new() },
        &moved,
        HALF_CLOSED_IDLE,
    );
    let (end, (bytes, result)) = tokio::join!(pipe, read_all(&mut user));
    assert!(matches!(end, End::ServiceAborted(_)));
    assert_eq!(bytes, b"refused");
    assert_eq!(result.unwrap_err().kind(), ConnectionReset);
}

#[tokio::test]
async fn dropping_the_pipe_resets_both() {
    let mut rig = Setup::default().start().await;
    rig.user.write_all(b"x").await.unwrap();
    rig.service.read_u8().await.unwrap();
    rig.pipe.abort();
    assert_reset(&mut rig.user).await;
    assert_reset(&mut rig.service).await;
}

#[tokio::test]
async fn dropping_a_pipe_that_never_ran_resets_both() {
    let (mut user, near_user) = pair(0).await;
    let (mut service, near_service) = pair(0).await;
    let moved = Moved::default();
    drop(pipe(
        Party { socket: near_user.into(), early: Vec::new() },
        Party { socket: near_service.into(), early: Vec::new() },
        &moved,
        HALF_CLOSED_IDLE,
    ));
    assert_reset(&mut user).await;
    assert_reset(&mut service).await;
}
