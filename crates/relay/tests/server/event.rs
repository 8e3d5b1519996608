//! Event tunnels.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use relay::Limits;

use crate::support::{PATIENCE, Peer, Relay, SHORT, chat, freed, user};

#[tokio::test]
async fn a_user_is_announced_and_claimed() {
    let relay = Relay::start(Limits::default()).await;
    let (mut control, port) = relay.event().await;
    let mut user = user(port).await;
    let ticket = control.line().await;
    assert!(ticket.len() >= 32 && ticket.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_lowercase()));
    let mut service = relay.say(format!("event\n{ticket}\n")).await;
    chat(&mut user, &mut service).await;
    user.finish().await;
    service.eof().await;
    service.send("the rest").await;
    service.finish().await;
    user.expect("the rest").await;
    user.eof().await;
}

#[tokio::test]
async fn payload_behind_the_ticket_is_kept() {
    let relay = Relay::start(Limits::default()).await;
    let (mut control, port) = relay.event().await;
    let mut user = user(port).await;
    let greeting = vec![b'g'; 100_000];
    let mut claim = format!("event\r\n {}\t\r\n", control.line().await).into_bytes();
    claim.extend_from_slice(&greeting);
    let mut service = relay.say(claim).await;
    user.expect(greeting).await;
    chat(&mut user, &mut service).await;
}

#[tokio::test]
async fn every_user_has_its_own_ticket() {
    const USERS: usize = 100;
    let relay = Relay::start(Limits::default()).await;
    let (mut control, port) = relay.event().await;
    let mut users = Vec::new();
    for number in 0..USERS {
        let mut user = user(port).await;
        user.send([u8::try_from(number).unwrap()]).await;
        users.push(user);
    }
    let mut tickets = HashSet::new();
    for _ in 0..USERS {
        tickets.insert(control.line().await);
    }
    assert_eq!(tickets.len(), USERS);
    for ticket in tickets {
        let mut service = relay.say(format!("event\n{ticket}\n")).await;
        let number = service.exactly(1).await[0];
        chat(&mut users[usize::from(number)], &mut service).await;
    }
}

#[tokio::test]
async fn a_ticket_is_used_once() {
    let relay = Relay::start(Limits::default()).await;
    let (mut control, port) = relay.event().await;
    let mut user = user(port).await;
    let ticket = control.line().await;
    let mut service = relay.say(format!("event\n{ticket}\n")).await;
    chat(&mut user, &mut service).await;
    relay.say(format!("event\n{ticket}\n")).await.gone().await;
    chat(&mut user, &mut service).await;
}

#[tokio::test]
async fn a_ticket_expires() {
    let relay = Relay::start(Limits { ticket: SHORT, ..Limits::default() }).await;
    let (mut control, port) = relay.event().await;
    let mut user = user(port).await;
    let ticket = control.line().await;
    user.was_reset().await;
    relay.say(format!("event\n{ticket}\n")).await.gone().await;
    control.quiet().await;
}

#[tokio::test]
async fn a_user_who_leaves_frees_its_ticket() {
    let relay = Relay::start(Limits { waiting_users: 1, waiting_grace: PATIENCE, ..Limits::default() }).await;
    let (mut control, port) = relay.event().await;
    let first = user(port).await;
    let left = control.line().await;
    let _second = user(port).await;
    control.line().await;
    // One too many wait; within the grace a third waits in the kernel.
    let mut third = user(port).await;
    control.quiet().await;
    first.abort();
    let ticket = control.line().await;
    relay.say(format!("event\n{left}\n")).await.gone().await;
    let mut service = relay.say(format!("event\n{ticket}\n")).await;
    chat(&mut third, &mut service).await;
}

#[tokio::test]
async fn a_flood_of_users_from_one_place_keeps_nobody_out() {
    const FLOOD: usize = 20;
    const WAITING: usize = 4;
    let limits = Limits { waiting_users: WAITING, waiting_grace: Duration::from_millis(20), ..Limits::default() };
    let relay = Relay::start(limits).await;
    let (mut control, port) = relay.event().await;
    let public = SocketAddr::from(([127, 0, 0, 1], port));
    let Ok(mut honest) = Peer::connect_from("127.0.0.2", public).await else {
        // Only Linux has all of 127/8.
        return;
    };
    let ticket = control.line().await;
    let mut flood = Vec::new();
    for _ in 0..FLOOD {
        flood.push(user(port).await);
        control.line().await;
    }
    for crowded_out in &mut flood[..FLOOD - WAITING] {
        crowded_out.was_reset().await;
    }
    let mut service = relay.say(format!("event\n{ticket}\n")).await;
    chat(&mut honest, &mut service).await;
    let mut late = Peer::connect_from("127.0.0.3", public).await.unwrap();
    let mut service = relay.say(format!("event\n{}\n", control.line().await)).await;
    chat(&mut late, &mut service).await;
}

#[tokio::test]
async fn a_burst_of_users_is_served_whatever_the_bound() {
    const USERS: u8 = 50;
    let relay = Relay::start(Limits { waiting_users: 2, waiting_grace: PATIENCE, ..Limits::default() }).await;
    let (mut control, port) = relay.event().await;
    let mut users = Vec::new();
    for number in 0..USERS {
        let mut user = user(port).await;
        user.send([number]).await;
        users.push(user);
    }
    for _ in 0..USERS {
        let mut service = relay.say(format!("event\n{}\n", control.line().await)).await;
        let number = service.exactly(1).await[0];
        chat(&mut users[usize::from(number)], &mut service).await;
    }
}

#[tokio::test]
async fn a_user_who_said_all_it_had_to_say_still_waits() {
    let relay = Relay::start(Limits::default()).await;
    let (mut control, port) = relay.event().await;
    let mut user = user(port).await;
    user.send("all").await;
    user.finish().await;
    let ticket = control.line().await;
    control.quiet().await;
    let mut service = relay.say(format!("event\n{ticket}\n")).await;
    service.expect("all").await;
    service.eof().await;
    service.send("answer").await;
    service.finish().await;
    user.expect("answer").await;
    user.eof().await;
}

#[tokio::test]
async fn a_lost_client_takes_the_waiting_with_it_but_not_the_served() {
    let relay = Relay::start(Limits::default()).await;
    for abort in [false, true] {
        let (mut control, port) = relay.event().await;
        let mut served = user(port).await;
        let mut service = relay.say(format!("event\n{}\n", control.line().await)).await;
        chat(&mut served, &mut service).await;
        let mut waiting = user(port).await;
        let ticket = control.line().await;
        if abort {
            control.abort();
        } else {
            drop(control);
        }
        waiting.was_reset().await;
        freed(port).await;
        relay.say(format!("event\n{ticket}\n")).await.gone().await;
        chat(&mut served, &mut service).await;
        let (_control, again) = relay.event().await;
        assert_eq!(again, port, "the lowest free port is given");
    }
}

#[tokio::test]
async fn what_a_client_says_on_its_control_connection_is_discarded() {
    let relay = Relay::start(Limits::default()).await;
    let mut control = relay.say("event\nnew\nnonsense").await;
    let port = control.line().await.parse().unwrap();
    control.send(vec![b'\n'; 1 << 20]).await;
    let mut user = user(port).await;
    let ticket = control.line().await;
    control.send("event\nnew\n").await;
    let mut service = relay.say(format!("event\n{ticket}\n")).await;
    chat(&mut user, &mut service).await;
}

#[tokio::test]
async fn an_abort_on_one_side_is_a_reset_on_the_other() {
    let relay = Relay::start(Limits::default()).await;
    let (mut control, port) = relay.event().await;
    for service_aborts in [true, false] {
        let mut user = user(port).await;
        let mut service = relay.say(format!("event\n{}\n", control.line().await)).await;
        chat(&mut user, &mut service).await;
        let (aborted, mut other) = if service_aborts { (service, user) } else { (user, service) };
        aborted.abort();
        other.was_reset().await;
    }
}
