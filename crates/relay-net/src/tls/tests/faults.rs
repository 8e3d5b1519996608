//! Peers that are at fault, that leave, and that are not whom they should be.

use rustls::{AlertDescription, CertificateError};

use super::super::session::READ_MOST;
use super::*;
use crate::socket::Socket;

/// What of TLS an error tells.
fn tls_error(error: &io::Error) -> TlsError {
    error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()).expect("not an error of TLS").clone()
}

#[tokio::test]
async fn an_end_without_close_notify_is_a_reset_behind_the_last_byte() {
    let (near, far) = pair().await;
    near.try_write(b"cut").unwrap();
    SockRef::from(near.tcp()).shutdown(std::net::Shutdown::Write).unwrap();
    let mut buffer = [0; 16];
    assert_eq!(read(&far, &mut buffer).await.unwrap(), 3);
    for _ in 0..2 {
        let error = read(&far, &mut buffer).await.unwrap_err();
        assert_eq!((error.kind(), tls_error(&error)), (io::ErrorKind::ConnectionReset, TlsError::Closed));
    }
    assert_eq!(far.try_write(b"x").unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(far.shutdown_write().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_is_a_reset() {
    let (near, far) = pair().await;
    Socket::from(near).abort();
    for _ in 0..2 {
        assert_eq!(read(&far, &mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn garbage_behind_the_handshake_is_refused_and_the_peer_told() {
    let (near, far) = pair().await;
    near.try_write(b"good").unwrap();
    near.tcp().try_write(&[b'?'; 100]).unwrap();
    let mut buffer = [0; 16];
    assert_eq!(read(&far, &mut buffer).await.unwrap(), 4);
    for _ in 0..2 {
        let error = read(&far, &mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(matches!(tls_error(&error), TlsError::Peer(_)), "{error}");
    }
    assert_eq!(far.try_write(b"x").unwrap_err().kind(), io::ErrorKind::InvalidData);
    let error = read(&near, &mut buffer).await.unwrap_err();
    assert!(matches!(tls_error(&error), TlsError::Alert(_)), "{error}");
}

#[tokio::test]
async fn a_record_that_was_changed_is_refused() {
    let (near, left) = tcp_pair().await;
    let (right, far) = tcp_pair().await;
    let (mut left, mut right) = (left, right);
    let relayed = tokio::spawn(async move {
        let _ = tokio::io::copy_bidirectional(&mut left, &mut right).await;
    });
    let (near, far) = over(near, far).await;
    // A record of application data with room for a tag, made by nobody who knows the keys.
    let mut record = vec![23, 3, 3, 0, 40];
    record.extend([7; 40]);
    near.tcp().try_write(&record).unwrap();
    let error = read(&far, &mut [0]).await.unwrap_err();
    assert!(matches!(tls_error(&error), TlsError::Peer(rustls::Error::DecryptError)), "{error}");
    drop((near, far));
    soon(relayed).await.unwrap();
}

#[tokio::test]
async fn what_is_no_hello_is_refused_with_an_alert() {
    for garbage in
        [&b"multiplex\nmultiplex\n"[..], b"GET / HTTP/1.1\r\n\r\n", &[22, 3, 1, 0, 5, 9, 0, 0, 1, 9], &[0; 64]]
    {
        for early in [0, 1, garbage.len()] {
            let (mut near, far) = tcp_pair().await;
            near.write_all(&garbage[early..]).await.unwrap();
            let error = soon(accept(far, garbage[..early].to_vec(), RELAY.server(None).into())).await.unwrap_err();
            assert!(matches!(error, TlsError::Peer(_)), "{error:?}");
            let mut alert = [0; 7];
            soon(near.read_exact(&mut alert)).await.unwrap();
            assert_eq!((alert[0], alert[5]), (21, 2), "a fatal alert");
        }
    }
}

/// Only what has come takes memory, and that is not much: one in many fragments, and one that claims to be large.
#[tokio::test]
async fn a_giant_handshake_message_is_refused() {
    let fragments: Vec<u8> = [22, 3, 1, 0, 4, 1, 0, 255, 0]
        .into_iter()
        .chain([22, 3, 1, 0, 1, 0].into_iter().cycle().take(6 * READ_MOST))
        .collect();
    let claims = vec![22, 3, 1, 0, 4, 1, 255, 255, 255];
    for message in [fragments, claims] {
        let (near, far) = tcp_pair().await;
        let (mut near_in, mut near_out) = near.into_split();
        let server = Side::Server(UnbufferedServerConnection::new(RELAY.server(None).into()).unwrap());
        let (sent, error) = tokio::join!(near_out.write_all(&message), async {
            let error = soon(TlsStream::shake_hands(far, Vec::new(), server)).await.unwrap_err();
            let _ = near_in.read(&mut [0; 16]).await;
            error
        });
        // Whether all of it was sent does not matter.
        drop(sent);
        assert!(matches!(error, TlsError::Peer(rustls::Error::InvalidMessage(_))), "{error:?}");
    }
}

#[tokio::test]
async fn a_peer_that_leaves_in_the_handshake_is_told_from_one_that_misbehaves() {
    let (near, far) = tcp_pair().await;
    drop(near);
    assert_eq!(soon(accept(far, vec![22], RELAY.server(None).into())).await.unwrap_err(), TlsError::Closed);

    let (near, mut far) = tcp_pair().await;
    let (error, ()) = tokio::join!(soon(connect(near, RELAY.client(None).into(), name())), async {
        // Unread bytes would make it a reset.
        while let Err(error) = far.try_read(&mut [0; 4096]) {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            far.readable().await.unwrap();
        }
        far.shutdown().await.unwrap();
    });
    assert_eq!(error.unwrap_err(), TlsError::Closed);

    let (near, far) = tcp_pair().await;
    let (error, ()) = tokio::join!(soon(connect(near, RELAY.client(None).into(), name())), async {
        far.readable().await.unwrap();
        Socket::from(far).abort();
    });
    assert_eq!(error.unwrap_err(), TlsError::Io(io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_certificate_that_is_not_accepted_is_told_from_all_else() {
    let other = Identity::new();
    let (near, far) = tcp_pair().await;
    let (near, far) = with(near, far, other.client(None), RELAY.server(None)).await;
    assert!(matches!(near.unwrap_err(), TlsError::Certificate(_)));
    assert!(matches!(far.unwrap_err(), TlsError::Alert(_)));

    let (near, far) = tcp_pair().await;
    let elsewhere = ServerName::try_from("elsewhere.example").unwrap();
    let (near, _) = soon(async {
        tokio::join!(
            connect(near, RELAY.client(None).into(), elsewhere),
            accept(far, Vec::new(), RELAY.server(None).into())
        )
    })
    .await;
    let error = near.unwrap_err();
    assert!(matches!(error, TlsError::Certificate(CertificateError::NotValidForNameContext { .. })), "{error:?}");
}

#[tokio::test]
async fn a_client_is_told_that_it_needs_a_certificate() {
    let laptop = Identity::new();
    let (near, far) = tcp_pair().await;
    let (near, far) = with(near, far, RELAY.client(None), RELAY.server(Some(&laptop))).await;
    assert_eq!(far.unwrap_err(), TlsError::Peer(rustls::Error::NoCertificatesPresented));
    let error = read(&near.unwrap(), &mut [0]).await.unwrap_err();
    assert_eq!(tls_error(&error), TlsError::Alert(AlertDescription::CertificateRequired));
}

#[tokio::test]
async fn a_flush_that_fails_says_so_each_time() {
    let (near, far) = small_pair().await;
    while near.try_write(&[0; 4096]).is_ok() {}
    assert!(near.unflushed() > 0);
    Socket::from(far).abort();
    soon(near.ready(Interest::ERROR)).await.unwrap();
    near.flush().unwrap_err();
    assert_eq!((near.unflushed(), memory(&near)), (0, 0));
    near.flush().unwrap_err();
    near.try_write(b"x").unwrap_err();
}
