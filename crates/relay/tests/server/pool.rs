//! Pools.

use std::time::Instant;

use relay::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::support::{PATIENCE, Peer, Relay, SHORT, chat, freed, user, within};

#[tokio::test]
async fn each_member_is_for_one_user() {
    let relay = Relay::start(Limits::default()).await;
    let (mut first, port, name) = relay.pool().await;
    assert!(name.len() >= 32 && name.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_lowercase()));
    let mut second = relay.join(&name).await;
    second.quiet().await; // now it is surely a member
    for member in [&mut first, &mut second] {
        let mut user = user(port).await;
        chat(&mut user, member).await;
        user.finish().await;
        member.eof().await;
        member.send("the rest").await;
        member.finish().await;
        user.expect("the rest").await;
        user.eof().await;
    }
}

#[tokio::test]
async fn silent_users_use_up_no_member() {
    let relay = Relay::start(Limits::default()).await;
    let (mut member, port, _) = relay.pool().await;
    // To tokio a socket looks readable as soon as it was accepted; that is no byte.
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(user(port).await);
    }
    let mut eager = user(port).await;
    chat(&mut eager, &mut member).await;
    for user in &mut silent {
        user.quiet().await;
    }
}

#[tokio::test]
async fn a_user_who_finished_without_a_byte_gets_a_member_that_has_settled() {
    let relay = Relay::start(Limits { member_settled: SHORT, ..Limits::default() }).await;
    let start = Instant::now();
    let (mut member, port, _) = relay.pool().await;
    let mut user = user(port).await;
    user.finish().await;
    member.eof().await;
    assert!(start.elapsed() >= SHORT, "{:?}", start.elapsed());
    member.send("answer").await;
    member.finish().await;
    user.expect("answer").await;
    user.eof().await;
}

#[tokio::test]
async fn users_who_only_connect_and_close_end_no_fresh_member() {
    let limits = Limits { member_settled: PATIENCE, member_wait: SHORT, ..Limits::default() };
    let relay = Relay::start(limits).await;
    let (mut member, port, name) = relay.pool().await;
    let mut finished = user(port).await;
    finished.finish().await;
    for _ in 0..20 {
        drop(user(port).await);
    }
    member.quiet().await;
    let mut eager = user(port).await;
    chat(&mut eager, &mut member).await;
    // Nor one that comes while they wait; and they wait no longer than others do.
    let mut next = relay.join(&name).await;
    next.quiet().await;
    finished.was_reset().await;
    next.quiet().await;
    let mut eager = user(port).await;
    chat(&mut eager, &mut next).await;
}

#[tokio::test]
async fn a_silent_user_whose_member_was_dead_uses_up_no_other() {
    let relay = Relay::start(Limits { early_bytes: 1000, ..Limits::default() }).await;
    let (mut member, port, name) = relay.pool().await;
    // It has spoken, and its end stands behind more bytes than are read ahead.
    let mut dead = relay.join(&name).await;
    dead.send([b'x'; 2000]).await;
    dead.quiet().await;
    dead.finish().await;
    let mut silent = user(port).await;
    dead.gone().await;
    silent.quiet().await;
    let mut eager = user(port).await;
    chat(&mut eager, &mut member).await;
    let mut member = relay.join(&name).await;
    chat(&mut silent, &mut member).await;
}

#[tokio::test]
async fn an_end_behind_more_than_is_read_ahead_keeps_no_pool_alive() {
    let relay = Relay::start(Limits { early_bytes: 1000, pool_grace: SHORT, ..Limits::default() }).await;
    let (mut member, port, _) = relay.pool().await;
    member.send([b'x'; 2000]).await;
    member.quiet().await;
    member.finish().await;
    member.gone().await;
    freed(port).await;
}

#[tokio::test]
async fn silent_users_are_closed_in_the_end() {
    let relay = Relay::start(Limits { silent: SHORT, ..Limits::default() }).await;
    let (mut member, port, _) = relay.pool().await;
    user(port).await.eof().await;
    let mut eager = user(port).await;
    chat(&mut eager, &mut member).await;
    tokio::time::sleep(SHORT * 2).await;
    chat(&mut eager, &mut member).await;
}

#[tokio::test]
async fn users_beyond_the_bound_crowd_out_the_oldest() {
    let limits = Limits { waiting_users: 2, waiting_grace: SHORT, ..Limits::default() };
    let relay = Relay::start(limits).await;
    let (mut member, port, name) = relay.pool().await;
    let mut oldest = user(port).await;
    let mut older = user(port).await;
    let mut newest = user(port).await;
    oldest.was_reset().await;
    older.quiet().await;
    chat(&mut newest, &mut member).await;
    // Who waits for a member is one of them.
    older.send("?").await;
    older.quiet().await;
    let _silent = user(port).await;
    let mut newest = user(port).await;
    older.was_reset().await;
    let mut member = relay.join(&name).await;
    chat(&mut newest, &mut member).await;
}

#[tokio::test]
async fn a_burst_of_users_is_served_whatever_the_bound() {
    const USERS: u8 = 50;
    let relay = Relay::start(Limits { waiting_users: 2, waiting_grace: PATIENCE, ..Limits::default() }).await;
    let (mut member, port, name) = relay.pool().await;
    let mut users = Vec::new();
    for number in 0..USERS {
        let mut user = user(port).await;
        user.send([number]).await;
        users.push(user);
    }
    for _ in 0..USERS {
        let number = member.exactly(1).await[0];
        chat(&mut users[usize::from(number)], &mut member).await;
        member = relay.join(&name).await;
    }
}

#[tokio::test]
async fn a_service_that_speaks_first_is_heard_at_once() {
    let relay = Relay::start(Limits::default()).await;
    let (mut first, port, name) = relay.pool().await;
    // The user was there before the greeting,
    let mut early = user(port).await;
    early.quiet().await;
    first.send("greeting").await;
    early.expect("greeting").await;
    chat(&mut early, &mut first).await;
    // or comes after it; and the greeting may be longer than what is read ahead.
    let greeting = vec![b'g'; 50_000];
    let mut second = relay.say([format!("pool\n{name}\n").as_bytes(), &greeting].concat()).await;
    let mut late = user(port).await;
    late.expect(&greeting).await;
    chat(&mut late, &mut second).await;
}

#[tokio::test]
async fn dead_members_are_never_given_to_users() {
    let relay = Relay::start(Limits { early_bytes: 1000, ..Limits::default() }).await;
    let (finished, port, name) = relay.pool().await;
    let mut finished = finished;
    finished.finish().await;
    finished.gone().await;
    relay.join(&name).await.abort();
    // Its end stands behind more bytes than are read ahead.
    let mut hidden = relay.join(&name).await;
    hidden.send(vec![b'x'; 50_000]).await;
    hidden.quiet().await;
    hidden.finish().await;
    let mut user = user(port).await;
    user.send("hello").await;
    hidden.gone().await;
    user.quiet().await;
    let mut alive = relay.join(&name).await;
    alive.expect("hello").await;
    chat(&mut user, &mut alive).await;
}

#[tokio::test]
async fn an_empty_pool_makes_users_wait_in_order() {
    let relay = Relay::start(Limits::default()).await;
    let (mut member, port, name) = relay.pool().await;
    let mut served = user(port).await;
    chat(&mut served, &mut member).await;
    let mut waiting = Vec::new();
    for number in 0..5 {
        let mut user = user(port).await;
        user.send([number]).await;
        user.quiet().await; // now it surely waits
        waiting.push(user);
    }
    for (number, mut user) in waiting.into_iter().enumerate() {
        let mut member = relay.join(&name).await;
        assert_eq!(usize::from(member.exactly(1).await[0]), number);
        chat(&mut user, &mut member).await;
    }
}

#[tokio::test]
async fn a_user_waits_for_a_member_only_so_long() {
    let relay = Relay::start(Limits { member_wait: SHORT, ..Limits::default() }).await;
    let (mut member, port, name) = relay.pool().await;
    let mut served = user(port).await;
    chat(&mut served, &mut member).await;
    let mut waiting = user(port).await;
    waiting.send("?").await;
    waiting.was_reset().await;
    let mut next = relay.join(&name).await;
    let mut user = user(port).await;
    chat(&mut user, &mut next).await;
}

#[tokio::test]
async fn a_user_who_leaves_takes_no_member() {
    let relay = Relay::start(Limits::default()).await;
    let (mut member, port, name) = relay.pool().await;
    user(port).await.abort();
    let mut served = user(port).await;
    chat(&mut served, &mut member).await;
    let mut leaver = user(port).await;
    leaver.send("?").await;
    leaver.quiet().await;
    leaver.abort();
    let mut next = relay.join(&name).await;
    next.quiet().await;
    let mut user = user(port).await;
    chat(&mut user, &mut next).await;
}

#[tokio::test]
async fn a_busy_pool_is_alive() {
    let relay = Relay::start(Limits { pool_grace: SHORT, ..Limits::default() }).await;
    let (mut member, port, name) = relay.pool().await;
    let mut served = user(port).await;
    chat(&mut served, &mut member).await;
    tokio::time::sleep(SHORT * 3).await;
    chat(&mut served, &mut member).await;
    let mut next = relay.join(&name).await;
    let mut user = user(port).await;
    chat(&mut user, &mut next).await;
}

#[tokio::test]
async fn an_abandoned_pool_frees_its_port_after_the_grace() {
    let relay = Relay::start(Limits { pool_grace: SHORT, ..Limits::default() }).await;
    let (member, port, name) = relay.pool().await;
    drop(member);
    // Within the grace it can be saved,
    let saviour = relay.join(&name).await;
    tokio::time::sleep(SHORT * 2).await;
    let mut silent = user(port).await;
    silent.quiet().await;
    drop(saviour);
    // and then it is over.
    freed(port).await;
    silent.was_reset().await;
    relay.join(&name).await.gone().await;
    let (_member, again, another) = relay.pool().await;
    assert_eq!(again, port);
    assert_ne!(another, name);
}

#[tokio::test]
async fn a_client_ends_its_pool_and_live_users_stay() {
    let relay = Relay::start(Limits::default()).await;
    let (mut member, port, name) = relay.pool().await;
    let mut served = user(port).await;
    chat(&mut served, &mut member).await;
    let mut idle = relay.join(&name).await;
    idle.quiet().await;
    // Who does not know the pool ends nothing.
    relay.say("pool\nend 0123456789ABCDEF0123456789ABCDEF\n").await.gone().await;
    let mut silent = user(port).await;
    silent.quiet().await;
    relay.say(&format!("pool\nend {name}\n")).await.gone().await;
    freed(port).await;
    idle.gone().await;
    silent.was_reset().await;
    relay.join(&name).await.gone().await;
    chat(&mut served, &mut member).await;
}

#[tokio::test]
async fn idle_members_are_bounded() {
    let relay = Relay::start(Limits { idle_members: 2, ..Limits::default() }).await;
    let (mut first, port, name) = relay.pool().await;
    let mut second = relay.join(&name).await;
    second.quiet().await;
    relay.join(&name).await.gone().await;
    let mut user = user(port).await;
    chat(&mut user, &mut first).await;
    let mut third = relay.join(&name).await;
    third.quiet().await;
}

/// Members that die, users that leave, all at once and on several threads: nobody is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_stays_is_served_whoever_leaves() {
    const USERS: usize = 40;
    const ROUNDS: usize = 20;
    let relay = Relay::start(Limits::default()).await;
    let (keeper, port, name) = relay.pool().await;
    let (control, join) = (relay.control, format!("pool\n{name}\n"));
    let mut members = JoinSet::new();
    for place in 0..8_usize {
        let join = join.clone();
        members.spawn(async move {
            for round in place.. {
                let mut member = Peer::connect(control).await;
                member.send(&join).await;
                match round % 4 {
                    0 => member.abort(),
                    1 => drop(member),
                    _ => {
                        let mut byte = [0];
                        if let Ok(1) = member.0.read(&mut byte).await {
                            let _ = member.0.write_all(&byte).await;
                        }
                    }
                }
            }
        });
    }
    let mut users = JoinSet::new();
    for place in 0..USERS {
        users.spawn(async move {
            for round in place..place + ROUNDS {
                match round % 5 {
                    0 => {
                        let mut leaver = user(port).await;
                        leaver.send("?").await;
                        leaver.abort();
                    }
                    1 => drop(user(port).await),
                    _ => {}
                }
                // A member may die with its user; then the user comes again.
                within("a user is served", async {
                    loop {
                        let mut user = user(port).await;
                        let mut byte = [0];
                        let _ = user.0.write_all(b"!").await;
                        if let Ok(1) = user.0.read(&mut byte).await {
                            break assert_eq!(&byte, b"!");
                        }
                    }
                })
                .await;
            }
        });
    }
    drop(keeper);
    while let Some(done) = users.join_next().await {
        done.unwrap();
    }
}
