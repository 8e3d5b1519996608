//! What the server lets through, and holds for those who do not take it.

use std::time::{Duration, Instant};

use relay::Limits;
use relay::identity::Rights;
use relay_net::mux::{Config, Link, Role, Side};
use relay_net::pipe::{End, HALF_CLOSED_IDLE, Moved};
use relay_net::socket::Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::ending::Log;
use crate::multiplex::{Forwarder, WINDOW};
use crate::secure::{Secure, identity};
use crate::support::{PATIENCE, Peer, Relay, user, within};

const MEGABYTE: usize = 1_000_000;

/// Moves half a megabyte each way; gives how long that took.
async fn exchange(mut one: Peer, mut other: Peer) -> Duration {
    let start = Instant::now();
    let bytes = vec![b'x'; MEGABYTE / 2];
    let (mut one_in, mut one_out) = one.0.split();
    let (mut other_in, mut other_out) = other.0.split();
    let (mut at_one, mut at_other) = (vec![0; bytes.len()], vec![0; bytes.len()]);
    let all = async {
        tokio::try_join!(
            one_out.write_all(&bytes),
            other_out.write_all(&bytes),
            one_in.read_exact(&mut at_one),
            other_in.read_exact(&mut at_other),
        )
    };
    within("the exchange", all).await.unwrap();
    start.elapsed()
}

#[tokio::test]
async fn a_tunnel_of_any_protocol_keeps_to_its_bandwidth_and_the_log_says_so_once() {
    let log = Log::of_all();
    let relay = Relay::start(Limits { bandwidth: Some(MEGABYTE as u64), ..Limits::default() }).await;

    let (mut control, port) = relay.event().await;
    let event_user = user(port).await;
    let claim = relay.say(format!("event\n{}\n", control.line().await)).await;

    let (member, port, _) = relay.pool().await;
    let mut pool_user = user(port).await;
    let mut member = Peer(member.0);
    pool_user.send("x").await;
    member.expect("x").await;

    let mut forwarder = Forwarder::start(&relay).await;
    let client = forwarder.link.0.local_addr().unwrap();
    let mut link_user = user(forwarder.port).await;
    let stream = forwarder.accept().await;
    forwarder.send(WINDOW, 0, stream.id, 1 << 20).await;
    let upload = async {
        let start = Instant::now();
        let sender = link_user.send(vec![b'x'; MEGABYTE]);
        let receiver = async {
            let mut got = 0;
            while got < MEGABYTE {
                got += forwarder.next().await.length as usize;
            }
        };
        tokio::join!(sender, receiver);
        start.elapsed()
    };

    let times: [Duration; 3] = tokio::join!(exchange(event_user, claim), exchange(pool_user, member), upload).into();
    let expected = Duration::from_millis(600)..Duration::from_secs(3);
    assert!(times.iter().all(|time| expected.contains(time)), "{times:?}");
    assert_eq!(log.lines_with("limit bandwidth", client).len(), 1);
}

#[tokio::test]
async fn the_bandwidth_of_an_identity_goes_before_that_of_all() {
    let fast = identity("fast", Rights { bandwidth: Some(u64::MAX), ..Rights::default() });
    let secure = Secure::configured([fast], |config| config.limits.bandwidth = Some(1)).await;
    let (control, port) = secure.event("fast", "").await;
    let mut user = user(port).await;
    let service = secure.say(format!("event\n{}\n", control.line().await)).await;
    let bytes = vec![b'x'; 100_000];
    service.send(&bytes).await;
    user.expect(&bytes).await;
}

/// Two tunnels, each with a user who never reads.
#[tokio::test]
async fn what_all_links_hold_is_bounded_and_the_log_says_who_was_reset() {
    let log = Log::of_all();
    let relay = Relay::start(Limits { memory: 100_000, ..Limits::default() }).await;
    let mut floods = JoinSet::new();
    let mut users = Vec::new();
    for _ in 0..2 {
        let mut control = relay.say("multiplex\n").await;
        let port = control.line().await.parse().unwrap();
        let link = Link::start(Role::Forwarder, control.0, Vec::new(), Config::default());
        let stalled = user(port).await;
        let address = stalled.0.local_addr().unwrap();
        users.push(stalled);
        let stream = within("a stream", link.accept()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut service = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let near = Socket::from(listener.accept().await.unwrap().0);
        floods.spawn(async move {
            let moved = Moved::default();
            let flood = async {
                let chunk = vec![7; 65536];
                while service.write_all(&chunk).await.is_ok() {}
            };
            let pipe = stream.pipe(near, Side::Service, &moved, HALF_CLOSED_IDLE);
            let (end, ()) = tokio::join!(pipe, flood);
            drop(link);
            (end, address)
        });
    }
    let reset = tokio::time::timeout(PATIENCE, floods.join_next()).await.expect("nobody was reset");
    let (end, address) = reset.unwrap().unwrap();
    assert!(matches!(end, End::UserAborted(_)), "{end:?}");
    within("the line in the log", async {
        while log.lines_with("limit memory", address).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    relay.serves().await;
    floods.shutdown().await;
}
