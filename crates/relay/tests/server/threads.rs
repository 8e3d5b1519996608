//! Tunnels spread over several threads: what a client and its users see is the same in each.

use relay::{Config, Limits};

use crate::support::{Peer, Relay, chat, freed, own_ports, user};

const THREADS: usize = 3;

async fn relay() -> Relay {
    let config = Config { ports: own_ports(), threads: THREADS, limits: Limits::default(), ..Config::default() };
    Relay::configured(config).await
}

/// A new tunnel of event: its control connection, and a user and a service that have talked.
async fn served_by_event(relay: &Relay) -> (Peer, Peer, Peer) {
    let (mut control, port) = relay.event().await;
    let mut user = user(port).await;
    let mut service = relay.say(format!("event\n{}\n", control.line().await)).await;
    chat(&mut user, &mut service).await;
    (control, user, service)
}

#[tokio::test]
async fn every_thread_serves_every_protocol() {
    let relay = relay().await;
    let mut kept = Vec::new();
    for _ in 0..THREADS {
        kept.push(served_by_event(&relay).await);
        // One more tunnel between, so that those of one protocol do not all come to the same thread.
        let (mut member, port, name) = relay.pool().await;
        let mut joined = relay.join(&name).await;
        for member in [&mut member, &mut joined] {
            let mut user_of_pool = user(port).await;
            chat(&mut user_of_pool, member).await;
        }
    }
    for (_, user, service) in &mut kept {
        chat(user, service).await;
    }
}

#[tokio::test]
async fn every_thread_opens_streams() {
    let relay = relay().await;
    let mut links = Vec::new();
    for _ in 0..THREADS {
        let mut link = relay.say("multiplex\n").await;
        let port = link.line().await.parse().unwrap();
        let _user = user(port).await;
        link.expect([0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]).await;
        links.push(link);
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_port_in_every_thread() {
    let relay = relay().await;
    for _ in 0..THREADS {
        let (control, port) = relay.event().await;
        drop(control);
        freed(port).await;
    }
}

#[tokio::test]
async fn dropping_the_server_resets_users_in_every_thread() {
    let relay = relay().await;
    let mut served = Vec::new();
    for _ in 0..THREADS {
        served.push(served_by_event(&relay).await);
    }
    relay.cut();
    for (_, mut user, mut service) in served {
        user.was_reset().await;
        service.was_reset().await;
    }
}

#[tokio::test]
async fn a_server_that_stops_waits_for_users_in_every_thread() {
    let mut relay = relay().await;
    let mut served = Vec::new();
    for _ in 0..THREADS {
        served.push(served_by_event(&relay).await);
    }
    relay.stop();
    for (_, mut user, mut service) in served {
        chat(&mut user, &mut service).await;
        user.finish().await;
        service.eof().await;
        service.finish().await;
        user.eof().await;
    }
    relay.ended().await;
}
