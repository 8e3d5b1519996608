//! The kernel pipes that bytes are spliced through are few; alone in its file, as they are the whole process's.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use relay_net::pipe::{End, HALF_CLOSED_IDLE, Manner, Moved, Party, pipe_in_manner};
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size, pipe};
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use socket2::SockRef;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(30);

/// Held by the one test that runs.
static ALONE: Mutex<()> = Mutex::const_new(());

/// The user's socket, the service's, and the pipe between them, which splices whenever it can.
async fn joined() -> (TcpStream, TcpStream, JoinHandle<End>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let user = TcpStream::connect(address).await.unwrap();
    let near_user = listener.accept().await.unwrap().0;
    let service = TcpStream::connect(address).await.unwrap();
    let near_service = listener.accept().await.unwrap().0;
    // Or the kernel would queue megabytes for a service that takes nothing.
    SockRef::from(&near_service).set_send_buffer_size(64 * 1024).unwrap();
    let pipe = tokio::spawn(async {
        let party = |socket: TcpStream| Party { socket: socket.into(), early: Vec::new() };
        let moved = Moved::default();
        pipe_in_manner(party(near_user), party(near_service), &moved, HALF_CLOSED_IDLE, None, Manner::Spliced).await
    });
    (user, service, pipe)
}

/// How many pipes of the kernel this process has, by their descriptors.
fn kernel_pipes() -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| entry.unwrap().path().read_link().ok());
    links.filter(|to| to.to_string_lossy().starts_with("pipe:")).count() / 2
}

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}

/// Bytes of which each pipe's are others.
fn body(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (((at ^ number) >> 8) ^ (31 * at) ^ (7 * number)).to_le_bytes()[0]).collect()
}

/// Sends to the service until it takes no more, and the rest when it does; then the end.
fn send(number: usize, mut user: TcpStream) -> JoinHandle<TcpStream> {
    tokio::spawn(async move {
        user.write_all(&body(number, LENGTH)).await.unwrap();
        user.shutdown().await.unwrap();
        user
    })
}

async fn receive(number: usize, mut service: TcpStream, user: JoinHandle<TcpStream>, pipe: JoinHandle<End>) {
    tokio::time::timeout(PATIENCE, async {
        let mut got = Vec::new();
        service.read_to_end(&mut got).await.unwrap();
        assert!(got == body(number, LENGTH), "pipe {number}: {} bytes of {LENGTH}", got.len());
        service.shutdown().await.unwrap();
        drop(user.await.unwrap());
        assert_eq!(pipe.await.unwrap(), End::Done);
    })
    .await
    .expect("bytes stopped moving");
}

/// What each user sends: more than any socket and a pipe of the kernel hold for a service that takes nothing.
const LENGTH: usize = 1024 * 1024;
/// So many descriptors the process may have, and with them so many pipes.
const DESCRIPTORS: u64 = 1600;
const MOST: usize = 100;
/// The number of a pipe beside those.
const LAST: usize = 9999;
/// Idle pipes that are kept.
const MOST_IDLE: usize = 32;

#[tokio::test]
async fn stalled_bulk_takes_its_part_of_the_descriptors_and_no_more() {
    let _alone = ALONE.lock().await;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), ..limit }).unwrap();
    let before = kernel_pipes();
    let in_use = || kernel_pipes() - before;
    let mut stalled = Vec::new();
    for number in 0..2 * MOST {
        let (user, service, pipe) = joined().await;
        stalled.push((number, service, send(number, user), pipe));
        assert!(in_use() <= MOST);
    }
    until("all pipes in use", || in_use() == MOST).await;
    // Others still come through, in bulk.
    let (user, service, pipe) = joined().await;
    receive(LAST, service, send(LAST, user), pipe).await;
    assert_eq!(in_use(), MOST);
    // What those that are aborted leave in their pipes must not come out anywhere; others have their places.
    for (_, service, user, pipe) in stalled.drain(..MOST / 4) {
        SockRef::from(&service).set_linger(Some(Duration::ZERO)).unwrap();
        drop(service);
        assert!(matches!(pipe.await.unwrap(), End::ServiceAborted(_)));
        user.abort();
    }
    for number in 0..MOST / 4 {
        let (user, service, pipe) = joined().await;
        stalled.push((number, service, send(number, user), pipe));
    }
    until("all pipes in use again", || in_use() == MOST).await;
    for (number, service, user, pipe) in stalled {
        receive(number, service, user, pipe).await;
    }
    // All are back, and few are kept.
    assert_eq!(in_use(), MOST_IDLE);
    let (user, service, pipe) = joined().await;
    receive(LAST, service, send(LAST, user), pipe).await;
    assert_eq!(in_use(), MOST_IDLE, "another, where there are idle ones");
}

/// Whom the kernel gives only small pipes, as it does to a user who has many.
#[tokio::test]
async fn a_user_whose_pipes_are_small_has_bytes_copied() {
    const CHILD: &str = "TEST_AS_NOBODY";
    const NOBODY: u32 = 65534;
    if std::env::var_os(CHILD).is_some() {
        return copies_until_pipes_are_to_be_had().await;
    }
    let limit = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").unwrap();
    let missing = match limit.trim() {
        "0" => "a limit on pipes (fs.pipe-user-pages-soft)",
        // Root's pipes are as large as it asks for.
        _ if !geteuid().is_root() => "root, to become nobody",
        _ => "",
    };
    if !missing.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "CI has no {missing}");
        // Written past the capture of the test's output, which hides what tests that pass have printed.
        let _ = writeln!(std::io::stderr(), "SKIPPED: needs {missing}");
        return;
    }
    let _alone = ALONE.lock().await;
    let this = ["--exact", "a_user_whose_pipes_are_small_has_bytes_copied", "--nocapture"];
    // By this name whoever may run it finds it, wherever it lies.
    let child = Command::new("/proc/self/exe").args(this).env(CHILD, "").uid(NOBODY).gid(NOBODY).output().unwrap();
    let output = [child.stdout, child.stderr].concat();
    let output = String::from_utf8_lossy(&output);
    assert!(child.status.success() && output.contains("1 passed"), "{output}");
}

async fn copies_until_pipes_are_to_be_had() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let first = kernel_pipes();
    let mut hoard = Vec::new();
    loop {
        let (read, write) = pipe().unwrap();
        // The fewer of them use the limit up.
        let _ = fcntl_setpipe_size(&write, 1024 * 1024);
        let size = fcntl_getpipe_size(&write).unwrap();
        hoard.push((read, write));
        if size < 64 * 1024 {
            break;
        }
    }
    let before = kernel_pipes();
    let (user, service, pipe) = joined().await;
    let user = send(1, user);
    service.readable().await.unwrap();
    assert_eq!(kernel_pipes(), before);
    receive(1, service, user, pipe).await;
    assert_eq!(kernel_pipes(), before, "a small pipe is kept");
    drop(hoard);
    // The kernel is not asked again at once.
    tokio::time::timeout(PATIENCE, async {
        while kernel_pipes() == first {
            let (user, service, pipe) = joined().await;
            receive(2, service, send(2, user), pipe).await;
        }
    })
    .await
    .expect("bytes are copied for ever");
}
