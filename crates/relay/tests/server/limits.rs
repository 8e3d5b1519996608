//! What one source, one tunnel and the process may have, reached over real connections. Of all systems only Linux has
//! all of 127/8 for these sources.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use relay::Limits;
use relay_client::{Connection, Listener};
use relay_net::pipe::Moved;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{PATIENCE, Peer, Relay, chat, is_reset, user, within};

const FLOODER: &str = "127.0.0.2";

fn public(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn from(source: &str, port: u16) -> Peer {
    Peer::connect_from(source, public(port)).await.unwrap()
}

/// The next user of an event tunnel is served.
async fn is_served(relay: &Relay, control: &mut Peer, user: &mut Peer) -> Peer {
    let mut service = relay.say(format!("event\n{}\n", control.line().await)).await;
    chat(user, &mut service).await;
    service
}

#[tokio::test]
async fn users_of_one_source_are_bounded_and_others_are_served() {
    const MOST: usize = 3;
    let relay = Relay::start(Limits { users_per_source: MOST, exempt: Vec::new(), ..Limits::default() }).await;
    let (mut control, port) = relay.event().await;
    let mut served = Vec::new();
    for _ in 0..MOST {
        let mut user = from(FLOODER, port).await;
        let service = is_served(&relay, &mut control, &mut user).await;
        served.push((user, service));
    }
    for _ in 0..10 {
        is_reset(FLOODER, public(port)).await;
    }
    // Of all its tunnels together.
    let (_other, other) = relay.event().await;
    is_reset(FLOODER, public(other)).await;
    let mut honest = user(port).await;
    is_served(&relay, &mut control, &mut honest).await;
    for (user, service) in &mut served {
        chat(user, service).await;
    }
}

/// A forwarder with an echo, and its public port.
async fn echo(relay: &Relay) -> u16 {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = service.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut user, _)) = service.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = user.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    let builder = Listener::builder(&relay.control.to_string()).unwrap();
    let mut listener = within("a tunnel", builder.bind()).await.unwrap();
    let port = listener.public_address().port();
    tokio::spawn(async move {
        while let Ok(user) = listener.accept().await {
            tokio::spawn(serve(user, address));
        }
    });
    port
}

async fn serve(user: Connection, service: SocketAddr) {
    let service = TcpStream::connect(service).await.unwrap();
    user.pipe(service.into(), &Moved::default(), PATIENCE).await;
}

/// Whether a user is served, who otherwise is reset.
async fn has_echo(user: &mut Peer) -> bool {
    // Who was reset may learn it here.
    let _ = user.0.write_all(b"x").await;
    within("an echo or a reset", user.0.read(&mut [0])).await.is_ok_and(|read| read == 1)
}

#[tokio::test]
async fn a_flood_of_users_from_one_source_harms_only_that_source() {
    const A_SECOND: usize = 20;
    let limits =
        Limits { users_per_source: 50, new_users_per_source: A_SECOND, exempt: Vec::new(), ..Limits::default() };
    let relay = Relay::start(limits).await;
    let port = echo(&relay).await;
    let over = Arc::new(AtomicBool::new(false));
    let flood = tokio::spawn({
        let over = over.clone();
        async move {
            let (mut tried, mut served) = (0, Vec::new());
            let begun = Instant::now();
            while !over.load(Ordering::Relaxed) || tried < 20 * A_SECOND {
                tried += 1;
                if let Ok(mut user) = Peer::connect_from(FLOODER, public(port)).await
                    && has_echo(&mut user).await
                {
                    served.push(user);
                }
            }
            (tried, served.len(), begun.elapsed())
        }
    });
    // As fast as it may, from another source.
    for _ in 0..2 * A_SECOND {
        assert!(has_echo(&mut user(port).await).await, "an honest user was reset");
        tokio::time::sleep(Duration::from_secs(1) / u32::try_from(A_SECOND).unwrap()).await;
    }
    over.store(true, Ordering::Relaxed);
    let (tried, served, took) = within("the flood ends", flood).await.unwrap();
    // One second's worth at the start, and then so many a second.
    let allowed = A_SECOND as u64 * (1 + took.as_secs() + 1);
    assert!(served as u64 <= allowed && served <= 50 && tried > served, "{served} of {tried} in {took:?}");
    eprintln!("{served} of {tried} users of the flood were let in within {took:?}");
}

#[tokio::test]
async fn users_of_one_tunnel_are_bounded() {
    let relay = Relay::start(Limits { users_per_tunnel: 2, ..Limits::default() }).await;
    let port = echo(&relay).await;
    let mut users = [user(port).await, user(port).await];
    for user in &mut users {
        assert!(has_echo(user).await);
    }
    is_reset("127.0.0.1", public(port)).await;
    relay.serves().await;
    drop(users);
    within("room again", async {
        // Until there is, the connection may fail.
        loop {
            let user = Peer::connect_from("127.0.0.1", public(port)).await;
            if let Ok(mut user) = user
                && has_echo(&mut user).await
            {
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_last_descriptors_are_for_clients() {
    let relay = Relay::start(Limits { descriptors: Some(0), ..Limits::default() }).await;
    let (_control, port) = relay.event().await;
    is_reset("127.0.0.1", public(port)).await;
    let (_control, _port) = relay.event().await;
}

#[tokio::test]
async fn a_source_has_more_handshakes_as_users_wait_for_its_tunnels() {
    const EACH: usize = 2;
    const WAITING: usize = 3;
    let relay = Relay::start(Limits { handshakes_per_source: EACH, ..Limits::default() }).await;
    let (mut control, port) = relay.event().await;
    let mut waiting = Vec::new();
    for _ in 0..WAITING {
        waiting.push(user(port).await);
        control.line().await;
    }
    // Those of another source are nobody's reason.
    for (source, room) in [("127.0.0.1", EACH + WAITING), (FLOODER, EACH)] {
        let mut silent = Vec::new();
        for _ in 0..room {
            silent.push(Peer::connect_from(source, relay.control).await.unwrap());
        }
        is_reset(source, relay.control).await;
        for peer in &mut silent {
            peer.send("event\nnew\n").await;
            peer.line().await;
        }
    }
}
