//! Sessions against each other over loopback, and against peers that break the rules.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("too slow")
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

fn name() -> ServerName<'static> {
    ServerName::try_from("relay.example").unwrap()
}

/// Configurations of a server and of a client that trusts it.
fn configs() -> (ServerConfig, ClientConfig) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server, client)
}

/// A client's and a server's end of one session.
async fn pair() -> (TlsStream, TlsStream) {
    let (server, client) = configs();
    let (near, far) = tcp_pair().await;
    let (near, far) =
        soon(async { tokio::join!(connect(near, client.into(), name()), accept(far, Vec::new(), server.into())) })
            .await;
    (near.unwrap(), far.unwrap())
}

async fn read(stream: &TlsStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        soon(stream.readable()).await?;
        match stream.try_read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

#[tokio::test]
async fn what_one_side_writes_the_other_reads() {
    let (near, far) = pair().await;
    for (from, to) in [(&near, &far), (&far, &near)] {
        assert_eq!(from.try_write(b"hello").unwrap(), 5);
        let mut buffer = [0; 16];
        assert_eq!(read(to, &mut buffer).await.unwrap(), 5);
        assert_eq!(&buffer[..5], b"hello");
    }
    near.shutdown_write().unwrap();
    assert_eq!(read(&far, &mut [0; 4]).await.unwrap(), 0);
    assert_eq!(far.try_write(b"still here").unwrap(), 10);
    assert_eq!(read(&near, &mut [0; 16]).await.unwrap(), 10);
    far.shutdown_write().unwrap();
    assert_eq!(read(&near, &mut [0; 16]).await.unwrap(), 0);
}
