//! Where users are: what the relay says to clients that ask, and what it takes from load balancers.

use std::net::SocketAddr;

use relay::identity::Rights;
use relay::server::Anonymous;
use relay::{Config, Limits};
use relay_client::{Invite, Listener, Protocol};
use relay_proto::auth::Binding;

use crate::multiplex::{ACK, DATA, FIN, Forwarder, RST, WINDOW, frame};
use crate::secure::{Line, Secure, identity, token};
use crate::support::{PATIENCE, Peer, Relay, SHORT, chat, is_reset, own_ports, user, within};

/// What a client is told about a user who connected by itself.
fn line_of(user: &Peer) -> String {
    let (near, far) = (user.0.local_addr().unwrap(), user.0.peer_addr().unwrap());
    let family = if near.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} {} {} {}\r\n", near.ip(), far.ip(), near.port(), far.port())
}

/// A client's tunnel of any protocol, whose users come as connections.
struct Tunnel {
    control: Peer,
    port: u16,
    /// Of a pool.
    pool: Option<String>,
}

impl Tunnel {
    async fn open(relay: &Relay, protocol: &str) -> Self {
        let mut control = relay.say("relay/1\n").await;
        assert_eq!(control.line().await, "relay/1 auth port wish service allow proxy end");
        let new = if protocol == "multiplex" { "" } else { "new\n" };
        control.send(format!("{protocol} proxy=v1\n{new}")).await;
        let port = control.line().await.parse().unwrap();
        let pool = if protocol == "pool" { Some(control.line().await) } else { None };
        Self { control, port, pool }
    }

    /// The connection of the next user of an event tunnel.
    async fn claim(&mut self, relay: &Relay) -> Peer {
        let ticket = self.control.line().await;
        relay.say(format!("event\n{ticket}\n")).await
    }

    fn forwarder(self) -> Forwarder {
        Forwarder { link: self.control, port: self.port }
    }
}

/// Users over IPv4, which comes to a socket of both families as IPv4-mapped or to one of its own, and over IPv6.
async fn each_family() -> Vec<(Relay, SocketAddr)> {
    let config = || Config { ports: own_ports(), ..Config::default() };
    let v4 = Config { public_address: "127.0.0.1".parse().unwrap(), ..config() };
    let mut all =
        vec![(Relay::configured(config()).await, "127.0.0.1:0"), (Relay::configured(v4).await, "127.0.0.1:0")];
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        all.push((Relay::configured(config()).await, "[::1]:0"));
    }
    all.into_iter().map(|(relay, address)| (relay, address.parse().unwrap())).collect()
}

#[tokio::test]
async fn multiplex_says_it_as_the_first_data_of_the_stream() {
    for (relay, mut at) in each_family().await {
        let mut forwarder = Tunnel::open(&relay, "multiplex").await.forwarder();
        at.set_port(forwarder.port);
        let mut user = Peer::connect(at).await;
        // Although the user is silent and the stream lacks an ACK.
        let stream = forwarder.next().await.stream;
        let line = line_of(&user);
        let told = forwarder.next().await;
        assert_eq!((told.kind, told.stream, told.length as usize), (DATA, stream, line.len()));
        assert_eq!(told.body, line.as_bytes());
        user.send("question").await;
        user.finish().await;
        assert_eq!(forwarder.next().await.body, b"question");
        assert_eq!(forwarder.next().await.flags, FIN);
        forwarder
            .link
            .send([frame(DATA, 0, stream, 6), b"answer".into(), frame(WINDOW, FIN, stream, 0)].concat())
            .await;
        user.expect("answer").await;
        user.eof().await;
    }
}

#[tokio::test]
async fn event_says_it_on_the_connection_that_claims() {
    for (relay, mut at) in each_family().await {
        let mut tunnel = Tunnel::open(&relay, "event").await;
        at.set_port(tunnel.port);
        let mut user = Peer::connect(at).await;
        let mut service = tunnel.claim(&relay).await;
        service.expect(line_of(&user)).await;
        service.quiet().await;
        chat(&mut user, &mut service).await;
        user.finish().await;
        service.eof().await;
    }
}

#[tokio::test]
async fn pool_says_it_to_a_member_that_is_given_to_a_user() {
    for (relay, mut at) in each_family().await {
        let Tunnel { control: mut first, port, pool } = Tunnel::open(&relay, "pool").await;
        at.set_port(port);
        let mut second = relay.join(&pool.unwrap()).await;
        first.quiet().await;
        // A user who says nothing gets one at once, and the service speaks first.
        let mut silent = Peer::connect(at).await;
        first.expect(line_of(&silent)).await;
        first.send("220 ready").await;
        silent.expect("220 ready").await;
        second.quiet().await;
        // So does one that only finishes.
        let mut finished = Peer::connect(at).await;
        finished.finish().await;
        second.expect(line_of(&finished)).await;
        second.eof().await;
        second.send("bye").await;
        finished.expect("bye").await;
    }
}

#[tokio::test]
async fn a_user_who_waits_is_told_of_to_the_member_that_comes() {
    let relay = Relay::start(Limits::default()).await;
    let Tunnel { control: mut first, port, pool } = Tunnel::open(&relay, "pool").await;
    let taker = user(port).await;
    first.expect(line_of(&taker)).await;
    let mut waits = user(port).await;
    let mut second = relay.join(&pool.unwrap()).await;
    second.expect(line_of(&waits)).await;
    chat(&mut waits, &mut second).await;
}

#[tokio::test]
async fn who_left_or_waited_in_vain_is_told_of_to_nobody() {
    let relay = Relay::start(Limits { member_wait: SHORT, ..Limits::default() }).await;
    let Tunnel { control: mut first, port, pool } = Tunnel::open(&relay, "pool").await;
    let taker = user(port).await;
    first.expect(line_of(&taker)).await;
    user(port).await.abort();
    user(port).await.was_reset().await;
    relay.join(&pool.unwrap()).await.quiet().await;
}

#[tokio::test]
async fn a_user_whose_member_has_died_is_told_of_to_the_next() {
    let relay = Relay::start(Limits::default()).await;
    let Tunnel { control: first, port, pool } = Tunnel::open(&relay, "pool").await;
    let mut second = relay.join(&pool.unwrap()).await;
    first.abort();
    let mut user = user(port).await;
    second.expect(line_of(&user)).await;
    chat(&mut user, &mut second).await;
}

#[tokio::test]
async fn who_resets_at_once_is_told_of_in_full_or_not_at_all() {
    let relay = Relay::start(Limits::default()).await;
    let mut forwarder = Tunnel::open(&relay, "multiplex").await.forwarder();
    for _ in 0..20 {
        let leaver = user(forwarder.port).await;
        let left = line_of(&leaver);
        leaver.abort();
        let stays = user(forwarder.port).await;
        let line = line_of(&stays);
        loop {
            let frame = forwarder.next().await;
            match str::from_utf8(&frame.body).unwrap() {
                body if frame.kind == DATA && body == line => break,
                body => assert!(frame.kind != DATA || body == left, "{body}"),
            }
        }
    }
}

#[tokio::test]
async fn a_thousand_users_are_told_of() {
    const USERS: usize = 1000;
    let relay = Relay::start(Limits { waiting_users: USERS, ..Limits::default() }).await;
    let mut forwarder = Tunnel::open(&relay, "multiplex").await.forwarder();
    let mut lines = std::collections::BTreeSet::new();
    let mut users = Vec::new();
    for _ in 0..USERS {
        let user = user(forwarder.port).await;
        lines.insert(line_of(&user));
        users.push(user);
    }
    while !lines.is_empty() {
        let frame = forwarder.next().await;
        match frame.kind {
            DATA => assert!(lines.remove(str::from_utf8(&frame.body).unwrap()), "told once"),
            _ => forwarder.send(WINDOW, ACK, frame.stream, 0).await,
        }
    }
}

#[tokio::test]
async fn who_does_not_ask_sees_nothing_of_it() {
    let relay = Relay::start(Limits::default()).await;
    let mut event = relay.event().await;
    let mut one = user(event.1).await;
    let ticket = event.0.line().await;
    let mut service = relay.say(format!("event\n{ticket}\n")).await;
    service.quiet().await;
    chat(&mut one, &mut service).await;

    let (mut member, port, _) = relay.pool().await;
    let mut other = user(port).await;
    member.quiet().await;
    chat(&mut other, &mut member).await;

    let mut forwarder = Forwarder::start(&relay).await;
    let mut third = user(forwarder.port).await;
    forwarder.accept().await;
    third.send("x").await;
    assert_eq!(forwarder.next().await.body, b"x");
}

#[tokio::test]
async fn another_form_is_refused() {
    let relay = Relay::start(Limits::default()).await;
    for request in ["multiplex proxy=v2", "event proxy", "pool proxy=v1 proxy=v1"] {
        let mut client = relay.say(format!("relay/1\n{request}\n")).await;
        client.line().await;
        assert!(client.line().await.starts_with("error bad-request "), "{request}");
        client.eof().await;
    }
}

#[tokio::test]
async fn our_client_knows_where_its_users_are() {
    let secure = Secure::start([identity("laptop", Rights::default())]).await;
    let Binding::Certificate(pin) = secure.binding() else { panic!("not over TLS") };
    let relay = secure.relay.control.to_string().parse().unwrap();
    let invite = relay_client::Relay::Invite(Invite {
        name: "laptop".parse().unwrap(),
        token: token("laptop"),
        relay,
        pin: Some(pin),
    });
    for protocol in [Protocol::Multiplex, Protocol::Pool, Protocol::Event] {
        let builder = Listener::to(invite.clone()).protocol(protocol);
        let mut listener = within("a tunnel", builder.bind()).await.unwrap();
        let user = user(listener.public_address().port()).await;
        let served = within("a user", listener.accept()).await.unwrap();
        assert_eq!(served.user_addr(), Some(user.0.local_addr().unwrap()));
        assert_eq!(served.public_addr(), Some(user.0.peer_addr().unwrap()));
    }
}

/// A relay that takes 127.0.0.2 for a load balancer.
async fn behind(limits: Limits) -> Relay {
    let balancers = vec!["127.0.0.2/32".parse().unwrap()];
    Relay::configured(Config { ports: own_ports(), balancers, limits, ..Config::default() }).await
}

/// A connection by the balancer, which has sent that.
async fn balanced(to: SocketAddr, bytes: impl AsRef<[u8]>) -> Peer {
    let mut peer = Peer::connect_from("127.0.0.2", to).await.unwrap();
    peer.send(bytes).await;
    peer
}

fn public(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Version 2 of the same as `V1`.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x07\xc6\x33\x64\x01\x9c\xb0\x01\xbb";
const V1: &str = "PROXY TCP4 203.0.113.7 198.51.100.1 40112 443\r\n";

#[tokio::test]
async fn what_a_balancer_says_of_a_user_reaches_the_client() {
    let relay = behind(Limits::default()).await;
    let mut tunnel = Tunnel::open(&relay, "event").await;
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x03\x04\x00\x00".as_slice();
    let v6 = "PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n";
    for (header, line) in [
        (V1.as_bytes(), V1),
        (V2, V1),
        (v6.as_bytes(), v6),
        (b"PROXY UNKNOWN\r\n", "PROXY UNKNOWN\r\n"),
        (local, "PROXY UNKNOWN\r\n"),
    ] {
        for step in [1, header.len() + 8] {
            let mut user = balanced(public(tunnel.port), "").await;
            let bytes = [header, b"question"].concat();
            for piece in bytes.chunks(step) {
                user.send(piece).await;
                tokio::task::yield_now().await;
            }
            let mut service = tunnel.claim(&relay).await;
            service.expect(line).await;
            service.expect("question").await;
            service.send("answer").await;
            user.expect("answer").await;
        }
    }
    // Those who come by themselves are told of as ever.
    let other = user(tunnel.port).await;
    tunnel.claim(&relay).await.expect(line_of(&other)).await;
}

#[tokio::test]
async fn a_balanced_user_of_each_protocol_is_served_without_a_line_too() {
    let relay = behind(Limits::default()).await;
    let mut forwarder = Forwarder::start(&relay).await;
    let mut user = balanced(public(forwarder.port), V1).await;
    forwarder.accept().await;
    // A second header is the user's own.
    user.send(V1).await;
    assert_eq!(forwarder.next().await.body, V1.as_bytes());

    let (mut member, port, _) = relay.pool().await;
    let mut user = balanced(public(port), V2).await;
    member.quiet().await;
    chat(&mut user, &mut member).await;
}

#[tokio::test]
async fn what_is_no_header_is_reset_at_both_ports() {
    let relay = behind(Limits { handshake: SHORT, proxy_header: SHORT, ..Limits::default() }).await;
    let (_control, port) = relay.event().await;
    let long = format!("PROXY UNKNOWN {}", "x".repeat(100));
    let binary = |rest: &[u8]| [&V2[..12], rest].concat();
    let bad = [
        b"event\nnew\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01".to_vec(),
        b"Proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
        b"PROXY tcp4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n".to_vec(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n".to_vec(),
        b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n".to_vec(),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n".to_vec(),
        long.into(),
        binary(&[0x11, 0x11, 0, 12]),
        binary(&[0x22, 0x11, 0, 12]),
        binary(&[0x21, 0x41, 0, 12]),
        binary(&[0x21, 0x11, 0, 11]),
        binary(&[0x21, 0x11, 0xff, 0xff]),
        // Not in time.
        b"PROXY TCP4 ".to_vec(),
        Vec::new(),
    ];
    for bytes in &bad {
        for to in [relay.control, public(port)] {
            balanced(to, bytes).await.was_reset().await;
        }
    }
    // It closes early: a health check.
    balanced(relay.control, "PROXY").await.finish().await;
    balanced(public(port), "").await.finish().await;
    relay.serves().await;
}

#[tokio::test]
async fn a_header_from_elsewhere_is_refused() {
    let relay = behind(Limits::default()).await;
    for header in [V1.as_bytes(), V2] {
        let mut client = relay.say([header, b"event\nnew\n"].concat()).await;
        client.gone().await;

        let mut tunnel = Tunnel::open(&relay, "event").await;
        let mut user = user(tunnel.port).await;
        user.send(header).await;
        let mut service = tunnel.claim(&relay).await;
        service.expect(line_of(&user)).await;
        service.was_reset().await;
        user.was_reset().await;

        let mut forwarder = Forwarder::start(&relay).await;
        let mut user = crate::support::user(forwarder.port).await;
        user.send(header).await;
        forwarder.accept().await;
        assert_eq!(forwarder.next().await.flags, RST);
        user.was_reset().await;
    }
    // Without balancers it is a matter between user and service.
    let relay = Relay::start(Limits::default()).await;
    let (mut control, port) = relay.event().await;
    let mut user = user(port).await;
    user.send(V1).await;
    let mut service = relay.say(format!("event\n{}\n", control.line().await)).await;
    service.expect(V1).await;
}

#[tokio::test]
async fn limits_and_lists_go_by_whom_the_balancer_brings() {
    let limits = Limits { users_per_source: 1, exempt: Vec::new(), ..Limits::default() };
    let relay = behind(limits).await;
    let mut client = relay.say("relay/1\nevent allow=203.0.113.0/24\nnew\n").await;
    client.line().await;
    let port = client.line().await.parse().unwrap();
    let from = |address: &str| V1.replace("203.0.113.7", address);
    let _one = balanced(public(port), from("203.0.113.7")).await;
    client.line().await;
    let _two = balanced(public(port), from("203.0.113.8")).await;
    client.line().await;
    balanced(public(port), from("203.0.113.7")).await.was_reset().await;
    balanced(public(port), from("192.0.2.7")).await.was_reset().await;
    // One that the balancer does not know comes from the balancer itself.
    balanced(public(port), "PROXY UNKNOWN\r\n").await.was_reset().await;
    is_reset("127.0.0.1", public(port)).await;
}

#[tokio::test]
async fn clients_behind_a_balancer_count_by_their_own_address() {
    let limits = Limits { handshakes_per_source: 1, ..Limits::default() };
    let anonymous = Anonymous { networks: vec!["203.0.113.0/24".parse().unwrap()], ..Anonymous::default() };
    let balancers = vec!["127.0.0.2/32".parse().unwrap()];
    let relay =
        Relay::configured(Config { ports: own_ports(), balancers, anonymous, limits, ..Config::default() }).await;
    // It is heard as one of that network, which the balancer is not.
    let mut client = balanced(relay.control, format!("{}event\nnew\n", V1.replace("203.0.113.7", "203.0.113.9"))).await;
    client.line().await;
    let mut other = balanced(relay.control, format!("{}event\nnew\n", V1.replace("203.0.113.7", "192.0.2.7"))).await;
    other.gone().await;
    let mut unknown = balanced(relay.control, "PROXY UNKNOWN\r\nevent\nnew\n").await;
    unknown.gone().await;
    // One handshake of each may be pending.
    let mut first = balanced(relay.control, format!("{V1}relay/1\n")).await;
    first.line().await;
    balanced(relay.control, V1).await.was_reset().await;
    let mut another = balanced(relay.control, format!("{}relay/1\n", V1.replace("203.0.113.7", "203.0.113.8"))).await;
    another.line().await;
}

#[tokio::test]
async fn connections_without_a_header_do_not_pile_up() {
    let limits = Limits { waiting_users: 2, waiting_grace: SHORT, proxy_header: 2 * PATIENCE, ..Limits::default() };
    let relay = behind(limits).await;
    let (mut control, port) = relay.event().await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(balanced(public(port), "").await);
    }
    silent[0].was_reset().await;
    let _user = user(port).await;
    within("a ticket", control.line()).await;
    silent[1].was_reset().await;
}

#[tokio::test]
async fn who_is_introduced_when_the_tunnel_ends_is_reset() {
    let relay = behind(Limits::default()).await;
    let (control, port) = relay.event().await;
    let mut half = balanced(public(port), "PROXY ").await;
    let mut waits = balanced(public(port), V1).await;
    drop(control);
    waits.was_reset().await;
    half.was_reset().await;
}

#[tokio::test]
async fn tls_may_follow_a_header() {
    let balancers = vec!["127.0.0.2/32".parse().unwrap()];
    let secure = Secure::configured([identity("laptop", Rights::default())], |config| {
        config.balancers = balancers;
    })
    .await;
    for header in [V1.as_bytes(), V2] {
        let peer = balanced(secure.relay.control, header).await;
        let client = Line(secure.over(peer.0, &secure.client).await.into());
        client.send("relay/1\n").await;
        client.features().await;
    }
}
