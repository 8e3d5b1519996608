//! What somebody tries who has heard, holds or guesses a part of what an identity's client says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use relay::identity::{Identity, Rights};
use relay_net::socket::Socket;
use relay_proto::auth::{Binding, SessionKey};
use relay_proto::handshake::Id;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::secure::{Line, Secure, identity, self_signed, token};
use crate::support::{Peer, freed, user, within};

fn laptop() -> Identity {
    identity("laptop", Rights::default())
}

/// A place on the way to a relay, where what its clients send is kept, a connection each.
struct Tap {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    async fn on_the_way_to(relay: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let all = heard.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_relay, mut to_relay) = TcpStream::connect(relay).await.unwrap().into_split();
                let at = all.lock().unwrap().len();
                all.lock().unwrap().push(Vec::new());
                let all = all.clone();
                tokio::spawn(async move {
                    let mut piece = [0; 4096];
                    while let Ok(read @ 1..) = from_client.read(&mut piece).await {
                        all.lock().unwrap()[at].extend_from_slice(&piece[..read]);
                        let _ = to_relay.write_all(&piece[..read]).await;
                    }
                });
                tokio::spawn(async move { tokio::io::copy(&mut from_relay, &mut to_client).await });
            }
        });
        Self { address, heard }
    }

    fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap().clone()
    }
}

/// In plain text: an identity's control connection, told its port, and the key of its seals.
async fn plain_event(address: SocketAddr, name: &str) -> (Line, u16, SessionKey) {
    let line = Line(Socket::from(Peer::connect(address).await.0));
    line.send(format!("relay/1\nauth {name}\n")).await;
    let (nonce, _) = line.proven(name, &token(name), &Binding::None, "event\nnew\n").await;
    line.expect("ok").await;
    let port = line.line().await.parse().unwrap();
    (line, port, token(name).session_key(&name.parse().unwrap(), &nonce, &Binding::None))
}

fn seal(key: &SessionKey, id: &str, count: u64) -> String {
    format!("{id} {count} {}", key.seal(&Id::parse(id).unwrap(), count))
}

fn tunnels(secure: &Secure) -> usize {
    secure.identities.list().iter().map(|status| status.tunnels).sum()
}

#[tokio::test]
async fn a_captured_exchange_is_of_no_use_in_plain_text() {
    let secure = Secure::configured([laptop()], |config| config.plain_text = true).await;
    let tap = Tap::on_the_way_to(secure.relay.control).await;
    let (control, port, key) = plain_event(tap.address, "laptop").await;
    let mut served = user(port).await;
    let ticket = control.line().await;
    let claim = Line(Socket::from(Peer::connect(tap.address).await.0));
    claim.send(format!("event\n{}\n", seal(&key, &ticket, 1))).await;
    claim.chat(&mut served).await;
    let mut waits = user(port).await;
    let next = control.line().await;
    let [link, claimed] = tap.heard().try_into().unwrap();

    // The whole link, as it was.
    let replayed = secure.say_plainly(&link).await;
    replayed.nonce().await;
    replayed.refused("denied").await;
    // The dial-back, as it was; and its seal with the id of another user, whom it has yet to serve.
    secure.say_plainly(&claimed).await.gone().await;
    let seal_of = |id: &str| String::from_utf8(claimed.clone()).unwrap().replace(&ticket, id);
    secure.say_plainly(seal_of(&next).split("answer").next().unwrap()).await.gone().await;
    assert_eq!(tunnels(&secure), 1);
    let claim = secure.say_plainly(format!("event\n{}\n", seal(&key, &next, 2))).await;
    claim.chat(&mut waits).await;
}

#[tokio::test]
async fn a_captured_exchange_is_of_no_use_over_tls() {
    let secure = Secure::start([laptop()]).await;
    let tap = Tap::on_the_way_to(secure.relay.control).await;
    let line = Line(Socket::from(secure.connect_to(tap.address, &secure.client).await));
    line.send("relay/1\nauth laptop\n").await;
    line.proven("laptop", &token("laptop"), &secure.binding(), "multiplex\n").await;
    line.expect("ok").await;
    line.line().await;
    for captured in tap.heard() {
        let mut replay = Peer::connect(secure.relay.control).await;
        replay.send(&captured).await;
        // The relay says its part of a handshake, in which the old answers make no sense.
        let _ = within("the end", replay.0.read_to_end(&mut Vec::new())).await;
    }
    assert_eq!(tunnels(&secure), 1);
}

#[tokio::test]
async fn another_identity_neither_claims_nor_joins() {
    let dog = identity("dog", Rights::default());
    let secure = Secure::configured([laptop(), dog], |config| config.plain_text = true).await;
    let (control, port, key) = plain_event(secure.relay.control, "laptop").await;
    let (_theirs, _, their_key) = plain_event(secure.relay.control, "dog").await;
    let mut waits = user(port).await;
    let ticket = control.line().await;
    secure.say_plainly(format!("event\n{}\n", seal(&their_key, &ticket, 1))).await.gone().await;
    secure.say_plainly(format!("event\n{ticket}\n")).await.gone().await;
    let claim = secure.say_plainly(format!("event\n{}\n", seal(&key, &ticket, 1))).await;
    claim.chat(&mut waits).await;

    let first = secure.say_plainly("relay/1\nauth laptop\n").await;
    let (nonce, _) = first.proven("laptop", &token("laptop"), &Binding::None, "pool\nnew\n").await;
    let key = token("laptop").session_key(&"laptop".parse().unwrap(), &nonce, &Binding::None);
    first.expect("ok").await;
    let port: u16 = first.line().await.parse().unwrap();
    let pool = first.line().await;
    secure.say_plainly(format!("pool\n{}\n", seal(&their_key, &pool, 2))).await.gone().await;
    let member = secure.say_plainly(format!("pool\n{}\n", seal(&key, &pool, 1))).await;
    for member in [first, member] {
        member.chat(&mut user(port).await).await;
    }
}

#[tokio::test]
async fn a_resumed_session_is_no_way_around_a_revocation() {
    let secure = Secure::start([laptop()]).await;
    let (control, port) = secure.event("laptop", "").await;
    let mut waits = user(port).await;
    let ticket = control.line().await;
    let resumed = async || {
        let stream = secure.connect_to(secure.relay.control, &secure.client).await;
        assert!(stream.is_resumed());
        Line(Socket::from(stream))
    };
    // One that stands already, and one that comes later.
    let before = resumed().await;
    secure.identities.revoke(&"laptop".parse().unwrap()).unwrap();
    control.gone().await;
    waits.was_reset().await;
    freed(port).await;
    before.send(format!("event\n{ticket}\n")).await;
    before.gone().await;
    let after = resumed().await;
    after.send("relay/1\nauth laptop\n").await;
    after.proven("laptop", &token("laptop"), &secure.binding(), "multiplex\n").await;
    after.refused("revoked").await;
}

#[tokio::test]
async fn a_resumed_session_keeps_no_certificate_from_being_revoked() {
    let certificate = self_signed();
    let der = CertificateDer::from_pem_slice(certificate.0.as_bytes()).unwrap();
    let by_certificate = Identity { verifier: None, certificate: Some(Sha256::digest(&der).into()), ..laptop() };
    let secure = Secure::start([by_certificate]).await;
    let client = secure.with_certificate(&certificate);
    let link = Line(Socket::from(secure.connect_to(secure.relay.control, &client).await));
    link.send("event\nnew\n").await;
    let port: u16 = link.line().await.parse().unwrap();
    // The certificate is not shown again, and still tells who it is.
    let again = secure.connect_to(secure.relay.control, &client).await;
    assert!(again.is_resumed());
    let again = Line(Socket::from(again));
    again.send("event\nnew\n").await;
    again.line().await;
    let before = Line(Socket::from(secure.connect_to(secure.relay.control, &client).await));
    secure.identities.revoke(&"laptop".parse().unwrap()).unwrap();
    link.gone().await;
    again.gone().await;
    freed(port).await;
    before.send("relay/1\nevent\nnew\n").await;
    before.features().await;
    before.refused("revoked").await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn failed_proofs_cost_only_the_address_that_they_come_from() {
    let secure = Secure::configured([laptop()], |config| {
        config.plain_text = true;
        config.limits.failures_per_source = 1;
    })
    .await;
    let from = async |source| Line(Socket::from(Peer::connect_from(source, secure.relay.control).await.unwrap().0));
    let guess = from("127.0.0.2").await;
    guess.send("relay/1\nauth laptop\n").await;
    guess.proven("laptop", &token("other"), &Binding::None, "").await;
    guess.refused("denied").await;
    let unheard = from("127.0.0.2").await;
    unheard.send("relay/1\nauth laptop\n").await;
    unheard.features().await;
    unheard.refused("busy").await;
    let honest = from("127.0.0.1").await;
    honest.send("relay/1\nauth laptop\n").await;
    honest.proven("laptop", &token("laptop"), &Binding::None, "").await;
    honest.expect("ok").await;
}
