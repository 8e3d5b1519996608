//! What happens on the control port before a tunnel stands, and what must not.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use relay::{Config, Limits, PortRange};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::support::{Peer, Relay, SHORT, chat, freed, own_ports, user, within};

#[tokio::test]
async fn bad_requests_end_only_themselves() {
    let relay = Relay::start(Limits::default()).await;
    let (mut control, port) = relay.event().await;
    let mut served = user(port).await;
    let mut service = relay.say(format!("event\n{}\n", control.line().await)).await;
    let bad: [&[u8]; 14] = [
        b"\n",
        b"\r\n",
        b"bogus\n",
        b"MULTIPLEX\n",
        b"multiplex port=80\n",
        b"GET / HTTP/1.1\r\n",
        b"\0\n",
        b"event\0\nnew\n",
        "größe\n".as_bytes(),
        b"\xff\xfe\n",
        b"pool\n\n",
        b"event\nnot there\n",
        b"pool\n0123456789ABCDEF0123456789ABCDEF\n",
        b"event\n0123456789\n",
    ];
    for request in bad {
        relay.say(request).await.gone().await;
        chat(&mut served, &mut service).await;
    }
    control.quiet().await;
    relay.serves().await;
}

#[tokio::test]
async fn connect_and_close_harms_nobody() {
    let relay = Relay::start(Limits::default()).await;
    for _ in 0..100 {
        drop(relay.connect().await);
        relay.connect().await.abort();
        let mut half = relay.say("mult").await;
        half.finish().await;
        half.gone().await;
    }
    relay.serves().await;
}

#[tokio::test]
async fn a_line_without_an_end_is_cut_off() {
    let relay = Relay::start(Limits::default()).await;
    let mut peer = relay.connect().await;
    // The relay closes long before all is written.
    let megabyte = vec![b'x'; 1 << 20];
    let _ = within("the peer writes or is cut off", peer.0.write_all(&megabyte)).await;
    peer.gone().await;
    relay.serves().await;
}

#[tokio::test]
async fn a_handshake_has_a_deadline_however_slowly_it_goes() {
    let relay = Relay::start(Limits { handshake: SHORT, ..Limits::default() }).await;
    for mut peer in [relay.connect().await, relay.say("event").await, relay.say("event\nne").await] {
        peer.gone().await;
    }
    let start = Instant::now();
    let (read, mut write) = relay.connect().await.0.into_split();
    let trickle = tokio::spawn(async move {
        while write.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut nothing = [0];
    within("the deadline", read.readable()).await.unwrap();
    assert!(read.try_read(&mut nothing).unwrap_or(0) == 0);
    assert!(start.elapsed() >= SHORT, "{:?}", start.elapsed());
    within("the trickle ends", trickle).await.unwrap();
    relay.serves().await;
}

#[tokio::test]
async fn a_handshake_may_come_in_pieces() {
    let relay = Relay::start(Limits::default()).await;
    let mut control = relay.connect().await;
    for byte in b"\tevent \r\nnew\r\n" {
        control.send([*byte]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let port = control.line().await.parse().unwrap();
    let _user = user(port).await;
    control.line().await;
}

#[tokio::test]
async fn a_flood_from_one_place_keeps_nobody_out() {
    let limits = Limits { pending_handshakes: 8, crowding_grace: Duration::from_millis(20), ..Limits::default() };
    let relay = Relay::start(limits).await;
    let Ok(mut honest) = Peer::connect_from("127.0.0.2", relay.control).await else {
        // Only Linux has all of 127/8.
        return;
    };
    let mut flood = Vec::new();
    for _ in 0..40 {
        flood.push(relay.connect().await);
    }
    for crowded_out in &mut flood[..30] {
        crowded_out.gone().await;
    }
    honest.send("event\nnew\n").await;
    honest.line().await;
    let mut late = Peer::connect_from("127.0.0.3", relay.control).await.unwrap();
    late.send("event\nnew\n").await;
    late.line().await;
    // Not even the flooder's own requests are refused, if they come with the connection.
    relay.serves().await;
}

#[tokio::test]
async fn a_burst_of_dial_backs_is_never_refused() {
    const USERS: usize = 300;
    let relay = Relay::start(Limits { pending_handshakes: 4, ..Limits::default() }).await;
    let (mut control, port) = relay.event().await;
    let mut users = Vec::new();
    for _ in 0..USERS {
        users.push(user(port).await);
    }
    let mut services = Vec::new();
    for _ in 0..USERS {
        let claim = format!("event\n{}\nhello", control.line().await);
        let control = relay.control;
        services.push(tokio::spawn(async move {
            let mut service = Peer::connect(control).await;
            service.send(claim).await;
            service
        }));
    }
    for user in &mut users {
        user.expect("hello").await;
    }
    for service in services {
        drop(service.await.unwrap());
    }
}

#[tokio::test]
async fn tunnels_get_the_first_free_port_above_the_control_port() {
    // Not `own_ports`: the rule is about all ports above.
    let relay = Relay::configured(Config::default()).await;
    let mut tunnels = Vec::new();
    let mut last = relay.control.port();
    for _ in 0..5 {
        let (control, port) = relay.event().await;
        assert!(port > last, "{port} is not above {last}");
        last = port;
        tunnels.push((control, port));
    }
}

#[tokio::test]
async fn the_lowest_port_of_a_range_is_given_and_given_again() {
    let ports = own_ports();
    let PortRange::FromTo(first, _) = ports else { unreachable!() };
    let ports = PortRange::FromTo(first, first + 3);
    let relay = Relay::configured(Config { ports, ..Config::default() }).await;
    // Another program has the second.
    let _other = TcpListener::bind(("0.0.0.0", first + 1)).await.unwrap();
    let (a, port) = relay.event().await;
    assert_eq!(port, first);
    let (_b, port, _) = relay.pool().await;
    assert_eq!(port, first + 2);
    let (_c, port) = relay.event().await;
    assert_eq!(port, first + 3);
    relay.say("event\nnew\n").await.gone().await;
    drop(a);
    freed(first).await;
    let (_a, port) = relay.event().await;
    assert_eq!(port, first);
}

#[tokio::test]
async fn public_ports_are_open_to_ipv4_and_ipv6() {
    let relay = Relay::start(Limits::default()).await;
    let (mut control, port) = relay.event().await;
    let _four = user(port).await;
    control.line().await;
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        let _six = Peer::connect(SocketAddr::new("::1".parse().unwrap(), port)).await;
        control.line().await;
    }
}
