//! Where users are, as the forwarder tells its service.

use std::time::Duration;

use relay::forward;
use relay_client::Protocol;
use relay_proto::proxy::{Header, Reader, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{Forwarder, PROTOCOLS, Relay, any, asked, config, own_port, user, within};

/// What a service hears first, as a header of either version.
async fn header_of(stream: &mut TcpStream) -> Header {
    let mut reader = Reader::default();
    loop {
        let byte = within("a header", stream.read_u8()).await.unwrap();
        if let Some(header) = reader.read(&mut &[byte][..]).unwrap() {
            return header;
        }
    }
}

#[tokio::test]
async fn the_service_is_told_where_users_are() {
    for protocol in PROTOCOLS {
        for version in [Version::V1, Version::V2] {
            let port = own_port();
            let _relay = Relay::start(port);
            let listener = TcpListener::bind(any()).await.unwrap();
            let service = listener.local_addr().unwrap().to_string();
            let config = forward::Config { proxy_protocol: Some(version), ..config(&service, port, protocol) };
            let mut forwarder = Forwarder::configured(config);
            let public = forwarder.established().await;
            let mut user = user(public).await;
            // The user is silent, and the service speaks first.
            let (mut served, _) = within("a dial", listener.accept()).await.unwrap();
            let header = header_of(&mut served).await;
            assert_eq!(header, Header::Proxied { user: user.local_addr().unwrap(), public });
            served.write_all(b"220 ready").await.unwrap();
            let mut greeting = [0; 9];
            within("the greeting", user.read_exact(&mut greeting)).await.unwrap();
            user.write_all(b"hello").await.unwrap();
            let mut heard = [0; 5];
            within("the user", served.read_exact(&mut heard)).await.unwrap();
            assert_eq!((&greeting, &heard), (b"220 ready", b"hello"));
        }
    }
}

#[tokio::test]
async fn a_service_that_speaks_first_needs_no_connection_for_each_idle_member() {
    let port = own_port();
    let _relay = Relay::start(port);
    let listener = TcpListener::bind(any()).await.unwrap();
    let service = listener.local_addr().unwrap().to_string();
    let mut forwarder = Forwarder::start(&service, port, Protocol::Pool);
    let mut user = user(forwarder.established().await).await;
    let (mut served, _) = within("a dial", listener.accept()).await.unwrap();
    served.write_all(b"220").await.unwrap();
    let mut greeting = [0; 3];
    within("the greeting", user.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"220", "and no header ahead of it");
    assert!(tokio::time::timeout(Duration::from_millis(100), listener.accept()).await.is_err());
}

#[tokio::test]
async fn a_service_is_told_that_an_old_relay_says_nothing() {
    for version in [Version::V1, Version::V2] {
        let control = TcpListener::bind(any()).await.unwrap();
        let listener = TcpListener::bind(any()).await.unwrap();
        let service = listener.local_addr().unwrap().to_string();
        let at = control.local_addr().unwrap().port();
        let config = forward::Config { proxy_protocol: Some(version), ..config(&service, at, Protocol::Event) };
        let _forwarder = Forwarder::configured(config);
        drop(asked(&control, "relay/1\n", "").await);
        let mut client = asked(&control, "event\nnew\n", "7001\n").await;
        client.write_all(b"ONE\n").await.unwrap();
        let mut user = asked(&control, "event\nONE\n", "hello").await;
        let (mut served, _) = within("a dial", listener.accept()).await.unwrap();
        let wanted = [&Header::Unknown.encode(version)[..], b"hello"].concat();
        let mut heard = vec![0; wanted.len()];
        within("the service", served.read_exact(&mut heard)).await.unwrap();
        assert_eq!(heard, wanted);
        user.shutdown().await.unwrap();
    }
}
