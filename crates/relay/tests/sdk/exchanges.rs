//! What users and programs say to each other.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::stage::{Stage, WAYS, accept, echo, is_echoed, user_of};
use crate::support::within;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_users_at_once_get_back_what_they_send() {
    let stage = Stage::start().await;
    for way in WAYS {
        let mut listener = stage.listen(way).await;
        let mut tasks = JoinSet::new();
        for number in 0..64 {
            let user = user_of(&listener).await;
            tasks.spawn(is_echoed(user, 200_000 + number, number));
        }
        for _ in 0..64 {
            tasks.spawn(echo(accept(&mut listener).await));
        }
        within("all of them", tasks.join_all()).await;
        within("nobody is left", listener.handle().finish()).await;
    }
}

#[tokio::test]
async fn either_side_may_finish_first() {
    let stage = Stage::start().await;
    for way in WAYS {
        let mut listener = stage.listen(way).await;
        let mut user = user_of(&listener).await;
        user.send("question").await;
        user.finish().await;
        let mut connection = accept(&mut listener).await;
        let mut question = String::new();
        within("the question", connection.read_to_string(&mut question)).await.unwrap();
        assert_eq!(question, "question");
        connection.write_all(b"answer").await.unwrap();
        within("the end", connection.shutdown()).await.unwrap();
        drop(connection);
        user.expect("answer").await;
        user.eof().await;

        let mut user = user_of(&listener).await;
        user.send("hello").await;
        let mut connection = accept(&mut listener).await;
        connection.write_all(b"no more").await.unwrap();
        within("the end", connection.shutdown()).await.unwrap();
        user.expect("no more").await;
        user.eof().await;
        user.send(", goodbye").await;
        user.finish().await;
        let mut said = String::new();
        within("the rest", connection.read_to_string(&mut said)).await.unwrap();
        assert_eq!(said, "hello, goodbye");
        drop(connection);
        within("nobody is left", listener.handle().finish()).await;
    }
}

#[tokio::test]
async fn an_abort_is_carried_each_way() {
    let stage = Stage::start().await;
    for way in WAYS {
        let mut listener = stage.listen(way).await;
        let mut user = user_of(&listener).await;
        user.send("x").await;
        let mut connection = accept(&mut listener).await;
        assert_eq!(within("a byte", connection.read_u8()).await.unwrap(), b'x');
        user.abort();
        within("its abort", connection.ended()).await;
        for _ in 0..2 {
            assert_eq!(connection.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        connection.write_all(b"late").await.unwrap_err();

        let mut user = user_of(&listener).await;
        user.send("x").await;
        drop(accept(&mut listener).await);
        user.was_reset().await;
    }
}

/// With bytes of the user's unread, more of them to come, and the user slow to read: each of these ends in a reset
/// when a socket is simply closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_before_the_end_arrives_although_the_program_is_gone() {
    const SENT: usize = 4_000_000;
    let stage = Stage::start().await;
    for way in WAYS {
        let mut listener = stage.listen(way).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8192).unwrap();
        let public = ([127, 0, 0, 1], listener.public_address().port()).into();
        let (mut from, mut to) = within("a connection", socket.connect(public)).await.unwrap().into_split();
        to.write_all(&[b'?'; 10_000]).await.unwrap();
        let mut connection = accept(&mut listener).await;
        let (gone, is_gone) = oneshot::channel();
        let program = tokio::spawn(async move {
            connection.read_exact(&mut [0; 5]).await.unwrap();
            connection.write_all(&vec![b'!'; SENT]).await.unwrap();
            connection.shutdown().await.unwrap();
            drop(connection);
            gone.send(()).unwrap();
        });
        let talks = async {
            loop {
                to.write_all(b"?").await.unwrap();
                sleep(Duration::from_millis(1)).await;
            }
        };
        let reads = async {
            // The system and the relay hold the rest.
            let mut got = vec![0; SENT - 100_000];
            from.read_exact(&mut got).await.unwrap();
            is_gone.await.unwrap();
            sleep(Duration::from_millis(200)).await;
            let mut rest = Vec::new();
            from.read_to_end(&mut rest).await.unwrap();
            got.len() + rest.len()
        };
        let got = async {
            tokio::select! {
                got = reads => got,
                () = talks => 0,
            }
        };
        assert_eq!(within("the rest", got).await, SENT, "{way:?}");
        program.await.unwrap();
        drop(from);
        to.forget();
        within("nobody is left", listener.handle().finish()).await;
    }
}
