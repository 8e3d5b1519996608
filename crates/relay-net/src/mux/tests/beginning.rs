//! How a user's stream begins.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::pipe::Beginning;

fn ahead(line: &str) -> Beginning {
    Beginning { ahead: line.into(), refuses: None }
}

fn data(id: u8, payload: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 0, 0, 0, 0, id, 0, 0, 0, u8::try_from(payload.len()).unwrap()], payload].concat()
}

#[tokio::test]
async fn what_goes_ahead_leaves_with_the_syn_and_the_user_follows() {
    let (near, mut far) = pair().await;
    let link = Link::start(Role::Relay, near, vec![], Config::default());
    let (mut user, at_relay) = pair().await;
    user.write_all(b"hello").await.unwrap();
    let stream = link.open_with(ahead("line\r\n")).await.unwrap();
    let syn = [0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0];
    let mut bytes = vec![0; 64];
    far.readable().await.unwrap();
    let read = far.read(&mut bytes).await.unwrap();
    assert_eq!(bytes[..read], [&syn[..], &data(1, b"line\r\n")].concat(), "in one write");
    let moved = Moved::default();
    let pipe = stream.pipe(Socket::from(at_relay), Side::User, &moved, HALF_CLOSED_IDLE);
    let rest = async {
        let wanted = data(1, b"hello");
        let mut bytes = vec![0; wanted.len()];
        far.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, wanted);
        far.write_all(&[0, 1, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0]).await.unwrap();
    };
    let (end, ()) = timeout(PATIENCE, async { tokio::join!(pipe, rest) }).await.unwrap();
    assert!(matches!(end, End::ServiceAborted(_)));
}

#[tokio::test]
async fn a_user_who_begins_with_what_is_refused_gets_no_byte_through() {
    for (sent, refused) in [("PROXY x", true), ("x PROXY ", false)] {
        let (near, mut far) = pair().await;
        let link = Link::start(Role::Relay, near, vec![], Config::default());
        let (mut user, at_relay) = pair().await;
        user.write_all(sent.as_bytes()).await.unwrap();
        user.write_all(b"PROXY ").await.unwrap();
        user.shutdown().await.unwrap();
        let refuses = Some((|bytes: &[u8]| bytes.starts_with(b"PROXY ")) as crate::pipe::Refuses);
        let stream = link.open_with(Beginning { ahead: Vec::new(), refuses }).await.unwrap();
        let pipe = tokio::spawn(async move {
            stream.pipe(Socket::from(at_relay), Side::User, &Moved::default(), HALF_CLOSED_IDLE).await
        });
        let mut frames = [0; 24];
        timeout(PATIENCE, far.read_exact(&mut frames)).await.unwrap().unwrap();
        if refused {
            assert_eq!(frames[12..16], [0, 1, 0, 8], "a reset");
            assert_eq!(pipe.await.unwrap(), End::Refused);
            user.read(&mut [0]).await.unwrap_err();
        } else {
            assert_eq!(frames[12..16], [0, 0, 0, 0], "data");
        }
    }
}
