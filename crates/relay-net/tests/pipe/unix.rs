//! A Unix socket as the service.

use crate::rig::{assert_reset, pair, pattern, soon};
use relay_net::pipe::{End, HALF_CLOSED_IDLE, Moved, Party, pipe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

#[tokio::test]
async fn a_unix_socket_is_a_party_as_well() {
    let (mut user, near_user) = pair(0).await;
    let (mut service, near_service) = UnixStream::pair().unwrap();
    let moved = Moved::default();
    let pipe = pipe(
        Party { socket: near_user.into(), early: Vec::new() },
        Party { socket: near_service.into(), early: Vec::new() },
        &moved,
        HALF_CLOSED_IDLE,
    );
    let request = pattern(4, 0, 3 * 1024 * 1024);
    let parties = async {
        let (mut user_in, mut user_out) = user.split();
        let (mut got, mut reply) = (Vec::new(), Vec::new());
        let write = async {
            user_out.write_all(&request).await.unwrap();
            user_out.shutdown().await.unwrap();
        };
        let serve = async {
            service.read_to_end(&mut got).await.unwrap();
            service.write_all(&got).await.unwrap();
            service.shutdown().await.unwrap();
        };
        tokio::join!(write, serve, async { user_in.read_to_end(&mut reply).await.unwrap() });
        assert!(reply == request);
    };
    let (end, ()) = soon(async { tokio::join!(pipe, parties) }).await;
    assert_eq!(end, End::Done);
}

#[tokio::test]
async fn the_death_of_a_unix_service_resets_the_user() {
    let (mut user, near_user) = pair(0).await;
    let (service, near_service) = UnixStream::pair().unwrap();
    let moved = Moved::default();
    let pipe = pipe(
        Party { socket: near_user.into(), early: Vec::new() },
        Party { socket: near_service.into(), early: Vec::new() },
        &moved,
        HALF_CLOSED_IDLE,
    );
    let parties = async {
        user.write_all(b"never read").await.unwrap();
        service.readable().await.unwrap();
        drop(service);
        assert_reset(&mut user).await;
    };
    let (end, ()) = soon(async { tokio::join!(pipe, parties) }).await;
    assert!(matches!(end, End::ServiceAborted(_)), "{end:?}");
}
