//! Which relays are trusted, and what is said to others: nothing.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use relay_client::{ClientCertificate, Error, Listener, Protocol, Relay, RelayAddr, Tls, TlsSetupError, Trust};
use relay_net::socket::Socket;
use relay_proto::invite::server_name;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stage::{Shown, Stage, any, ca, within};

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn ca_file(ca: &CertifiedIssuer<'_, KeyPair>) -> NamedTempFile {
    file(&ca.as_ref().pem())
}

fn trusting(file: &NamedTempFile) -> Tls {
    Tls::new(Trust::CaFile(file.path().into()), None).unwrap()
}

/// The relay is not the one that is meant: it hears nothing, and there is no other try.
async fn refused(stage: &Stage, tls: Tls) -> String {
    let builder = Listener::to(Relay::Tls(stage.address())).tls(tls).retry_first(true);
    let (bound, met) = stage.tried(builder, stage.shake_hands()).await;
    let error = bound.unwrap_err();
    assert!(matches!(error, Error::Certificate { .. }) && !error.is_temporary(), "{error}");
    if let Ok(stream) = met {
        // The relay's part of the handshake was complete before it was refused.
        let mut heard = [0];
        assert!(matches!(Socket::from(stream).read(&mut heard).await, Ok(0) | Err(_)), "{heard:?}");
    }
    stage.is_left_alone().await;
    error.to_string()
}

/// The relay is the one that is meant.
async fn accepted(stage: &Stage, tls: Tls) {
    let builder = Listener::to(Relay::Tls(stage.address())).tls(tls);
    let play = async {
        let client = stage.secure().await;
        client.hears("relay/1\n").await;
        client.says("relay/1\n").await;
        client.hears("multiplex\n").await;
        client.says("7001\n").await;
        client
    };
    let (bound, _client) = stage.tried(builder, play).await;
    bound.unwrap();
}

#[tokio::test]
async fn another_certificate_than_the_pinned_one_is_refused_for_good() {
    let (meant, came) = (any(), any());
    let stage = Stage::showing(&came).await;
    let error = refused(&stage, Tls::new(Trust::Pin(meant.pin()), None).unwrap()).await;
    let hex = |pin| Trust::Pin(pin).to_string().rsplit(' ').next().unwrap().to_owned();
    assert_eq!(
        error,
        format!(
            "{} does not show the certificate that is expected, the one with SHA-256 {}: it has SHA-256 {}; \
             ask the operator for a new invite",
            stage.address(),
            hex(meant.pin()),
            hex(came.pin())
        )
    );
}

#[tokio::test]
async fn the_pinned_certificate_without_its_key_is_refused_for_good() {
    let meant = any();
    let stolen = Shown { certificate: meant.certificate.clone(), key: KeyPair::generate().unwrap() };
    let stage = Stage::showing(&stolen).await;
    let error = refused(&stage, stage.tls()).await;
    assert!(error.contains("does not have its key; ask the operator for a new invite"), "{error}");
    accepted(&Stage::showing(&meant).await, Tls::new(Trust::Pin(meant.pin()), None).unwrap()).await;
}

#[tokio::test]
async fn a_pinned_certificate_may_be_expired_and_for_another_host() {
    let mut params = CertificateParams::new(vec!["another.example".into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let stage = Stage::showing(&Shown::self_signed(&params)).await;
    accepted(&stage, stage.tls()).await;
}

#[tokio::test]
async fn a_certificate_is_for_the_host_and_of_the_named_ca() {
    let (ours, theirs) = (ca(), ca());
    let (ours_file, theirs_file) = (ca_file(&ours), ca_file(&theirs));
    let stage = Stage::showing(&Shown::signed("127.0.0.1", &ours)).await;
    accepted(&stage, trusting(&ours_file)).await;

    let error = refused(&stage, trusting(&theirs_file)).await;
    let expected = format!("a CA of {}: another CA of the same name has signed it", theirs_file.path().display());
    assert!(error.contains(&expected), "{error}");

    let elsewhere = Stage::showing(&Shown::signed("elsewhere.example", &ours)).await;
    let error = refused(&elsewhere, trusting(&ours_file)).await;
    assert!(error.contains("not valid for name \"127.0.0.1\"") && error.contains("elsewhere.example"), "{error}");

    let nobodys = Stage::showing(&any()).await;
    let error = refused(&nobodys, trusting(&ours_file)).await;
    assert!(error.contains(": another CA has signed it; ask"), "{error}");
}

#[tokio::test]
async fn what_a_certificate_says_cannot_harm_a_terminal() {
    let ca = ca();
    let stage = Stage::showing(&Shown::signed("\x1b[31m\x07.example", &ca)).await;
    let error = refused(&stage, trusting(&ca_file(&ca))).await;
    assert!(error.contains("[31m") && error.chars().all(|c| !c.is_control()), "{error:?}");
}

#[tokio::test]
async fn the_right_certificate_at_the_wrong_time_is_waited_for() {
    let ca = ca();
    let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap().der().clone();
    let stage = Stage::showing(&Shown { certificate, key }).await;
    let builder = Listener::to(Relay::Tls(stage.address())).tls(trusting(&ca_file(&ca)));
    let (bound, _) = stage.tried(builder, stage.shake_hands()).await;
    let error = bound.unwrap_err();
    assert!(error.is_temporary() && error.to_string().contains("certificate expired"), "{error}");
}

#[tokio::test]
async fn a_host_that_no_certificate_can_name_is_an_error() {
    let stage = Stage::new().await;
    let ca = ca();
    let address = RelayAddr::new("größe.example", stage.address().port()).unwrap();
    let builder = Listener::to(Relay::Tls(address)).tls(trusting(&ca_file(&ca))).retry_first(true);
    let error = within("bind", builder.bind()).await.unwrap_err();
    assert!(matches!(error, Error::NoCertificateName { .. }) && !error.is_temporary(), "{error}");
    stage.is_left_alone().await;
}

#[tokio::test]
async fn the_relay_is_asked_for_its_protocol_and_its_certificate() {
    let shown = any();
    let stage = Stage::showing(&shown).await;
    let play = async {
        let stream = stage.shake_hands().await.unwrap();
        (stream.server_name(), stream.alpn())
    };
    let (_, asked) = stage.tried(stage.builder(), play).await;
    assert_eq!(asked, (Some(server_name(&shown.pin())), Some(b"relay/1".to_vec())));

    let ca = ca();
    let address = RelayAddr::new("localhost", stage.address().port()).unwrap();
    let stage = Stage { config: Stage::showing(&Shown::signed("localhost", &ca)).await.config, ..stage };
    let builder = Listener::to(Relay::Tls(address)).tls(trusting(&ca_file(&ca)));
    let (_, name) = stage.tried(builder, async { stage.shake_hands().await.unwrap().server_name() }).await;
    assert_eq!(name.as_deref(), Some("localhost"));
}

/// Bytes of a client that spoke nothing but the handshake of TLS.
fn are_tls_only(mut bytes: &[u8]) {
    assert!(!bytes.is_empty());
    while let [kind, 3, _, high, low, rest @ ..] = bytes {
        // Records of handshake and alert, RFC 8446, 5.1.
        assert!(matches!(kind, 21 | 22), "{bytes:?}");
        bytes = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..).unwrap_or_default();
    }
    assert_eq!(bytes, b"");
}

#[tokio::test]
async fn nothing_is_said_in_clear_whatever_the_relay_does() {
    let answers: [&[u8]; 5] =
        [b"", b"relay/1 auth\n", b"7001\n", b"error denied no\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"];
    for protocol in [Protocol::Multiplex, Protocol::Pool, Protocol::Event] {
        for answer in answers {
            let stage = Stage::new().await;
            let play = async {
                let mut client = stage.tcp().await;
                let mut heard = vec![client.read_u8().await.unwrap()];
                client.write_all(answer).await.unwrap();
                client.shutdown().await.unwrap();
                // It may go with a reset.
                let _ = within("the end", client.read_to_end(&mut heard)).await;
                heard
            };
            let (bound, heard) = stage.tried(stage.builder().protocol(protocol), play).await;
            let error = bound.unwrap_err();
            assert!(matches!(error, Error::Tls { .. }) && error.is_temporary(), "{error}");
            are_tls_only(&heard);
            stage.is_left_alone().await;
        }
    }
}

#[tokio::test]
async fn a_relay_that_hangs_in_the_handshake_is_given_up() {
    let stage = Stage::new().await;
    let silent = async {
        let mut client = stage.tcp().await;
        client.read_u8().await.unwrap();
        tokio::time::pause();
        client
    };
    let (bound, _client) = tokio::join!(stage.builder().bind(), silent);
    assert!(matches!(bound.unwrap_err(), Error::Silent { .. }));
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let ca = ca();
    let mut roots = RootCertStore::empty();
    roots.add(ca.as_ref().der().clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
    let shown = any();
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![shown.certificate.clone()], PrivateKeyDer::try_from(shown.key.serialize_der()).unwrap())
        .unwrap();
    let stage = Stage::configured(config, shown.pin()).await;

    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["laptop".into()]).unwrap().signed_by(&key, &ca).unwrap();
    let (chain_file, key_file) = (file(&certificate.pem()), file(&key.serialize_pem()));
    let ours = ClientCertificate { chain: chain_file.path().into(), key: key_file.path().into() };
    let tls = Tls::new(Trust::Pin(shown.pin()), Some(&ours)).unwrap();
    let builder = Listener::to(Relay::Tls(stage.address())).tls(tls);
    let (_, seen) = stage.tried(builder, async { stage.shake_hands().await.unwrap().peer_certificates() }).await;
    assert_eq!(seen, [certificate.der().clone()]);

    // The relay says so to one who has none.
    let (bound, met) = stage.tried(stage.builder(), stage.shake_hands()).await;
    assert!(met.is_err());
    let error = bound.unwrap_err();
    assert!(error.is_temporary() && error.to_string().contains("certificate"), "{error}");

    let other = file(&KeyPair::generate().unwrap().serialize_pem());
    let mixed = ClientCertificate { key: other.path().into(), ..ours };
    let error = Tls::new(Trust::Pin(shown.pin()), Some(&mixed)).unwrap_err();
    assert!(matches!(error, TlsSetupError::Unusable { .. }), "{error}");
}

#[test]
fn files_that_are_of_no_use_are_named_and_not_shown() {
    let missing = Path::new("/nonexistent/ca.pem");
    let error = Tls::new(Trust::CaFile(missing.into()), None).unwrap_err();
    assert!(error.to_string().starts_with("cannot read /nonexistent/ca.pem: "), "{error}");
    for text in
        ["", "secret", "-----BEGIN secret-----\n", "-----BEGIN CERTIFICATE-----\n!secret\n-----END CERTIFICATE-----\n"]
    {
        let file = file(text);
        let error = Tls::new(Trust::CaFile(file.path().into()), None).unwrap_err().to_string();
        assert_eq!(error, format!("{} holds no certificate in PEM", file.path().display()));
        let chain = ca_file(&ca());
        let client = ClientCertificate { chain: chain.path().into(), key: file.path().into() };
        let error = Tls::new(Trust::Pin([0; 32]), Some(&client)).unwrap_err().to_string();
        assert_eq!(error, format!("{} holds no private key in PEM", file.path().display()));
    }
}
