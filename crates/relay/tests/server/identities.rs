//! Who is served, as whom, and what ends with it.

use std::time::{Duration, SystemTime};

use relay::identity::{Identity, Rights};
use relay::server::Anonymous;
use relay_proto::auth::Binding;
use relay_proto::handshake::Id;
use sha2::{Digest, Sha256};

use crate::secure::{Secure, identity, self_signed, token};
use crate::support::{freed, is_reset, own_ports, user};

fn laptop() -> Identity {
    identity("laptop", Rights::default())
}

fn ports() -> (u16, u16) {
    match own_ports() {
        relay::PortRange::FromTo(first, last) => (first, last),
        _ => unreachable!(),
    }
}

#[tokio::test]
async fn an_identity_is_served_over_tls() {
    let secure = Secure::start([laptop()]).await;
    let (control, port) = secure.event("laptop", "").await;
    let mut user = user(port).await;
    let ticket = control.line().await;
    secure.say(format!("event\n{ticket}\n")).await.chat(&mut user).await;
    let status = secure.identities.list().remove(0);
    assert_eq!((status.tunnels, status.users), (1, 1));
}

#[tokio::test]
async fn pools_and_links_are_served_over_tls() {
    let secure = Secure::start([laptop()]).await;
    let first = secure.prove("laptop", "laptop", "pool\nnew\n").await;
    first.expect("ok").await;
    let port = first.line().await.parse().unwrap();
    let pool = first.line().await;
    let mut one = user(port).await;
    first.chat(&mut one).await;
    let second = secure.say(format!("pool\n{pool}\n")).await;
    second.chat(&mut user(port).await).await;

    let link = secure.prove("laptop", "laptop", "multiplex\n").await;
    link.expect("ok").await;
    let port: u16 = link.line().await.parse().unwrap();
    let _user = user(port).await;
    let mut frame = [0; 12];
    link.0.read(&mut frame).await.unwrap();
    assert_eq!(frame[..8], [0, 1, 0, 1, 0, 0, 0, 1], "a window update with SYN for stream 1");
}

#[tokio::test]
async fn who_has_no_identity_is_told_so_if_he_understands() {
    let secure = Secure::start([laptop()]).await;
    secure.say_plainly("multiplex\n").await.gone().await;
    secure.say_plainly("event\nnew\n").await.gone().await;
    secure.say_plainly("relay/1\n").await.refused("tls-required").await;
    secure.say("multiplex\n").await.gone().await;
    let line = secure.say("relay/1\nmultiplex\n").await;
    line.features().await;
    line.refused("identity-required").await;
    let line = secure.say("relay/1\nfoo\n").await;
    line.features().await;
    line.refused("unsupported foo").await;
}

#[tokio::test]
async fn why_an_identity_is_refused_only_its_owner_learns() {
    let past = SystemTime::now() - Duration::from_secs(1);
    let old = identity("old", Rights { expires: Some(past), ..Rights::default() });
    let gone = Identity { revoked: true, ..identity("gone", Rights::default()) };
    let secure = Secure::configured([laptop(), old, gone], |config| config.limits.failures_per_source = 100).await;
    for (name, known, code) in [
        ("laptop", "other", "denied unknown name or wrong token"),
        ("nobody", "laptop", "denied unknown name or wrong token"),
        ("old", "laptop", "denied unknown name or wrong token"),
        ("gone", "laptop", "denied unknown name or wrong token"),
        ("old", "old", "expired"),
        ("gone", "gone", "revoked"),
    ] {
        secure.prove(name, known, "multiplex\n").await.refused(code).await;
    }
}

#[tokio::test]
async fn failed_proofs_cost_a_growing_while() {
    let secure = Secure::configured([laptop()], |config| config.limits.failures_per_source = 3).await;
    for _ in 0..3 {
        secure.prove("laptop", "other", "").await.refused("denied").await;
    }
    let line = secure.say("relay/1\nauth laptop\n").await;
    line.features().await;
    line.refused("busy").await;
}

#[tokio::test]
async fn a_proof_is_good_for_one_connection_and_one_name() {
    let two = identity("lapdog", Rights::default());
    let secure = Secure::configured([laptop(), two], |config| config.limits.failures_per_source = 100).await;
    let name = "laptop".parse().unwrap();

    let line = secure.say("relay/1\nauth laptop\n").await;
    let nonce = line.nonce().await;
    let proof = token("laptop").prove(&name, &nonce, &secure.binding());
    line.send(format!("{proof}\n")).await;
    line.expect("ok").await;
    // What was heard there, said again.
    let line = secure.say("relay/1\nauth laptop\n").await;
    assert_ne!(line.nonce().await, nonce);
    line.send(format!("{proof}\n")).await;
    line.refused("denied").await;
    // Made for one, used for another who happens to have the same token.
    let line = secure.say("relay/1\nauth lapdog\n").await;
    let proof = token("laptop").prove(&name, &line.nonce().await, &secure.binding());
    line.send(format!("{proof}\n")).await;
    line.refused("denied").await;
    // Made for another certificate, or for plain text.
    for binding in [Binding::to_certificate(b"another"), Binding::None] {
        let line = secure.say("relay/1\nauth laptop\n").await;
        let proof = token("laptop").prove(&name, &line.nonce().await, &binding);
        line.send(format!("{proof}\n")).await;
        line.refused("denied").await;
    }
}

#[tokio::test]
async fn a_revoked_identity_is_gone_within_moments() {
    let secure = Secure::start([laptop()]).await;
    let (control, port) = secure.event("laptop", "").await;
    let mut served = user(port).await;
    let claim = secure.say(format!("event\n{}\n", control.line().await)).await;
    claim.chat(&mut served).await;
    let mut waits = user(port).await;
    let ticket = control.line().await;
    let pool = secure.prove("laptop", "laptop", "pool\nnew\n").await;
    pool.expect("ok").await;
    let pool_port: u16 = pool.line().await.parse().unwrap();
    let pool_name = pool.line().await;

    let cut = secure.identities.revoke(&"laptop".parse().unwrap()).unwrap();
    assert_eq!((cut.tunnels, cut.users), (2, 2));
    served.was_reset().await;
    waits.was_reset().await;
    control.gone().await;
    claim.gone().await;
    pool.gone().await;
    freed(port).await;
    freed(pool_port).await;
    secure.say(format!("event\n{ticket}\n")).await.gone().await;
    secure.say(format!("pool\n{pool_name}\n")).await.gone().await;
    secure.prove("laptop", "laptop", "multiplex\n").await.refused("revoked").await;
}

#[tokio::test]
async fn who_is_revoked_between_proof_and_request_opens_nothing() {
    let secure = Secure::start([laptop()]).await;
    let line = secure.prove("laptop", "laptop", "").await;
    line.expect("ok").await;
    secure.identities.revoke(&"laptop".parse().unwrap()).unwrap();
    line.send("multiplex\n").await;
    line.refused("revoked").await;
}

#[tokio::test]
async fn the_control_port_is_no_public_port() {
    let own = |port| identity("laptop", Rights { ports: Some((port, port)), ..Rights::default() });
    let secure = Secure::configured([], |config| config.public_address = [127, 0, 0, 2].into()).await;
    let control = secure.relay.control.port();
    secure.identities.put(own(control));
    for (lines, code) in
        [(format!("event port={control}\nnew\n"), "port-not-allowed"), ("event\nnew\n".into(), "no-port")]
    {
        let line = secure.prove("laptop", "laptop", &lines).await;
        line.expect("ok").await;
        line.refused(code).await;
    }
}

#[tokio::test]
async fn a_new_token_ends_what_the_old_one_began() {
    let secure = Secure::start([laptop()]).await;
    let (control, _) = secure.event("laptop", "").await;
    secure.identities.put(Identity { verifier: Some(token("other").verifier()), ..laptop() });
    control.gone().await;
    secure.prove("laptop", "laptop", "").await.refused("denied").await;
    secure.prove("laptop", "other", "").await.expect("ok").await;
}

#[tokio::test]
async fn an_identity_expires_while_it_is_there() {
    let soon = SystemTime::now() + Duration::from_secs(1);
    let secure = Secure::start([identity("laptop", Rights { expires: Some(soon), ..Rights::default() })]).await;
    let (control, port) = secure.event("laptop", "").await;
    control.gone().await;
    freed(port).await;
    secure.prove("laptop", "laptop", "").await.refused("expired").await;
}

#[tokio::test]
async fn a_client_certificate_is_an_identity() {
    let certificate = self_signed();
    let der = rcgen_der(&certificate.0);
    let mut by_certificate = laptop();
    by_certificate.verifier = None;
    by_certificate.certificate = Some(Sha256::digest(&der).into());
    let secure = Secure::start([by_certificate]).await;
    let line = secure.say_with(&certificate, "event\nnew\n").await;
    let _port: u16 = line.line().await.parse().unwrap();
    secure.say_with(&self_signed(), "event\nnew\n").await.gone().await;
    let line = secure.say_with(&self_signed(), "relay/1\nevent\nnew\n").await;
    line.features().await;
    line.refused("denied").await;
    secure.identities.revoke(&"laptop".parse().unwrap()).unwrap();
    let line = secure.say_with(&certificate, "relay/1\nevent\nnew\n").await;
    line.features().await;
    line.refused("revoked").await;
}

fn rcgen_der(pem: &str) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[tokio::test]
async fn in_plain_text_ids_go_with_seals() {
    let secure = Secure::configured([laptop()], |config| config.plain_text = true).await;
    let line = secure.say_plainly("relay/1\nauth laptop\n").await;
    let name = "laptop".parse().unwrap();
    let nonce = line.nonce().await;
    let proof = token("laptop").prove(&name, &nonce, &Binding::None);
    let key = token("laptop").session_key(&name, &nonce, &Binding::None);
    line.send(format!("{proof}\npool\nnew\n")).await;
    line.expect("ok").await;
    let port: u16 = line.line().await.parse().unwrap();
    let pool = line.line().await;
    let seal = |count| key.seal(&Id::parse(&pool).unwrap(), count);
    let first = line;
    first.chat(&mut user(port).await).await;
    let join = format!("pool\n{pool} 7 {}\n", seal(7));
    let member = secure.say_plainly(&join).await;
    member.chat(&mut user(port).await).await;
    secure.say_plainly(&join).await.gone().await;
    secure.say_plainly(format!("pool\n{pool}\n")).await.gone().await;
    secure.say_plainly(format!("pool\n{pool} 8 {}\n", seal(7))).await.gone().await;
    let member = secure.say_plainly(format!("pool\n{pool} 8 {}\n", seal(8))).await;
    member.chat(&mut user(port).await).await;
}

#[tokio::test]
async fn what_was_given_over_tls_is_not_taken_in_plain_text() {
    let secure = Secure::configured([laptop()], |config| config.plain_text = true).await;
    let (control, port) = secure.event("laptop", "").await;
    let mut user = user(port).await;
    let ticket = control.line().await;
    secure.say_plainly(format!("event\n{ticket}\n")).await.gone().await;
    secure.say(format!("event\n{ticket}\n")).await.chat(&mut user).await;
}

#[tokio::test]
async fn a_port_is_demanded_wished_for_and_kept() {
    let (first, last) = ports();
    let own = Rights { ports: Some((first, first + 2)), ..Rights::default() };
    let other = identity("other", Rights { ports: Some((first, last)), ..Rights::default() });
    let secure = Secure::start([identity("laptop", own), other]).await;
    let (control, port) = secure.event("laptop", &format!(" port={}", first + 1)).await;
    assert_eq!(port, first + 1);
    let line = secure.prove("laptop", "laptop", &format!("event port={last}\nnew\n")).await;
    line.expect("ok").await;
    line.refused("port-not-allowed").await;
    let line = secure.prove("other", "other", &format!("event port={port}\nnew\n")).await;
    line.expect("ok").await;
    line.refused("port-taken").await;
    drop(control);
    freed(port).await;
    let line = secure.prove("other", "other", &format!("event port={port}\nnew\n")).await;
    line.expect("ok").await;
    line.refused("port-taken").await;
    let (_other, got) = secure.event("other", &format!(" wish={port}")).await;
    assert_ne!(got, port);
    let (_control, again) = secure.event("laptop", &format!(" wish={port}")).await;
    assert_eq!(again, port);
}

#[tokio::test]
async fn an_older_link_that_answers_keeps_its_port_and_a_silent_one_does_not() {
    let secure = Secure::start([laptop()]).await;
    // It reads nothing and answers no ping.
    let silent = secure.prove("laptop", "laptop", "multiplex\n").await;
    silent.expect("ok").await;
    let port: u16 = silent.line().await.parse().unwrap();
    let (control, again) = secure.event("laptop", &format!(" wish={port}")).await;
    assert_eq!(again, port);
    silent.ended().await;
    // The kernel of this one answers.
    let (_second, other) = secure.event("laptop", &format!(" wish={port}")).await;
    assert_ne!(other, port);
    let line = secure.prove("laptop", "laptop", &format!("event port={port}\nnew\n")).await;
    line.expect("ok").await;
    line.refused("port-taken").await;
    let mut user = user(port).await;
    secure.say(format!("event\n{}\n", control.line().await)).await.chat(&mut user).await;
}

#[tokio::test]
async fn a_service_that_is_started_anew_gets_its_port_back() {
    let secure = Secure::start([laptop()]).await;
    let (web, web_port) = secure.event("laptop", " service=web").await;
    let (ssh, ssh_port) = secure.event("laptop", " service=ssh").await;
    drop((web, ssh));
    freed(web_port).await;
    freed(ssh_port).await;
    let (_ssh, again) = secure.event("laptop", " service=ssh").await;
    assert_eq!(again, ssh_port);
    let (_other, other) = secure.event("laptop", "").await;
    assert!(other != web_port && other != ssh_port);
    let (_web, again) = secure.event("laptop", " service=web").await;
    assert_eq!(again, web_port);
}

#[tokio::test]
async fn an_identity_has_so_many_tunnels() {
    let secure = Secure::start([identity("laptop", Rights { max_tunnels: 2, ..Rights::default() })]).await;
    let (_first, _) = secure.event("laptop", "").await;
    let (_second, _) = secure.event("laptop", "").await;
    let line = secure.prove("laptop", "laptop", "event\nnew\n").await;
    line.expect("ok").await;
    line.refused("too-many-tunnels").await;
}

#[tokio::test]
async fn users_come_from_networks_that_are_let_in() {
    let rights = Rights { refuse: vec!["127.0.0.3/32".parse().unwrap()], ..Rights::default() };
    let secure = Secure::start([identity("laptop", rights)]).await;
    let (control, port) = secure.event("laptop", " allow=127.0.0.1 allow=127.0.0.3").await;
    for stranger in ["127.0.0.2", "127.0.0.3"] {
        is_reset(stranger, ([127, 0, 0, 1], port).into()).await;
    }
    let mut user = user(port).await;
    secure.say(format!("event\n{}\n", control.line().await)).await.chat(&mut user).await;
}

#[tokio::test]
async fn anonymous_clients_have_ports_that_no_identity_may_have() {
    let (first, last) = ports();
    let own = Rights { ports: Some((first, first + 3)), ..Rights::default() };
    let secure = Secure::configured([identity("laptop", own)], |config| {
        config.anonymous = Anonymous { everyone: true, ..Anonymous::default() };
        config.ports = relay::PortRange::FromTo(first, last);
    })
    .await;
    for line in [secure.say("event\nnew\n").await, secure.say_plainly("event\nnew\n").await] {
        let port: u16 = line.line().await.parse().unwrap();
        assert!((first + 4..=last).contains(&port));
    }
    let line = secure.say(format!("relay/1\nevent port={first}\nnew\n")).await;
    line.features().await;
    line.refused("port-not-allowed").await;
}

#[tokio::test]
async fn a_network_that_the_operator_lists_needs_no_identity() {
    let secure = Secure::configured([laptop()], |config| {
        config.anonymous.networks = vec!["127.0.0.9/32".parse().unwrap()];
    })
    .await;
    secure.say_plainly("event\nnew\n").await.gone().await;
    let mut old = crate::support::Peer::connect_from("127.0.0.9", secure.relay.control).await.unwrap();
    old.send("event\nnew\n").await;
    let _port: u16 = old.line().await.parse().unwrap();
}
