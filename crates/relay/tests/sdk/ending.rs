//! Programs that do not care for their users.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::stage::{Stage, WAYS, accept, echo, is_echoed, user_of};
use crate::support::{Peer, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connections_that_are_abandoned_leave_nothing_behind() {
    const AT_ONCE: usize = 50;
    let stage = Stage::start().await;
    for way in &WAYS[..4] {
        let mut listener = stage.listen(*way).await;
        for _ in 0..1000 / AT_ONCE {
            let mut users = JoinSet::new();
            for _ in 0..AT_ONCE {
                let mut user = user_of(&listener).await;
                user.send("never read").await;
                users.spawn(async move { user.was_reset().await });
            }
            for _ in 0..AT_ONCE {
                drop(accept(&mut listener).await);
            }
            within("all of them", users.join_all()).await;
        }
        let user = user_of(&listener).await;
        let served = tokio::spawn(is_echoed(user, 100_000, 1));
        echo(accept(&mut listener).await).await;
        served.await.unwrap();
        within("nobody is left", listener.handle().finish()).await;
    }
}

/// Those whom it accepted are served to their end, others never, and the public port is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_is_dropped_amid_accepts_lives_on_in_those_it_accepted() {
    const ACCEPTED: usize = 10;
    let stage = Stage::start().await;
    for way in WAYS {
        let mut listener = stage.listen(way).await;
        let port = listener.public_address().port();
        let mut tasks = JoinSet::new();
        let mut go = Vec::new();
        for number in 0..ACCEPTED {
            let mut user = user_of(&listener).await;
            user.send("x").await;
            let (tell, told) = oneshot::channel();
            go.push(tell);
            tasks.spawn(echo(accept(&mut listener).await));
            tasks.spawn(async move {
                user.expect("x").await;
                told.await.unwrap();
                is_echoed(user, 100_000, number).await;
            });
        }
        // They come as fast as they can, until nobody listens.
        let others = tokio::spawn(async move {
            while let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await {
                tokio::spawn(async move {
                    let mut user = Peer(stream);
                    let _ = user.0.write_all(b"too late").await;
                    user.gone().await;
                });
            }
        });
        // Some of them are in the middle of it.
        let abandoned = accept(&mut listener).await;
        drop(listener);
        drop(abandoned);
        within("the port is freed", others).await.unwrap();
        for tell in go {
            tell.send(()).unwrap();
        }
        within("all of them", tasks.join_all()).await;
    }
}
