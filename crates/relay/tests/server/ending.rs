//! How the server ends, and what its log says.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use relay::Limits;
use tokio::net::TcpStream;

use crate::multiplex::Forwarder;
use crate::support::{Relay, SHORT, chat, freed, user};

#[tokio::test]
async fn with_nobody_to_serve_it_ends_at_once() {
    let mut relay = Relay::start(Limits::default()).await;
    let (mut control, event) = relay.event().await;
    let mut waiting = user(event).await;
    control.line().await;
    let (mut member, pool, _) = relay.pool().await;
    let mut silent = user(pool).await;
    let mut link = Forwarder::start(&relay).await;
    let mut pending = relay.say("mult").await;
    pending.quiet().await;

    let start = Instant::now();
    relay.stop();
    for peer in [&mut waiting, &mut silent] {
        peer.was_reset().await;
    }
    for peer in [&mut control, &mut member, &mut pending] {
        peer.gone().await;
    }
    link.ended().await;
    relay.ended().await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn live_users_may_finish() {
    let mut relay = Relay::start(Limits::default()).await;
    let (mut control, event) = relay.event().await;
    let mut user_a = user(event).await;
    let mut service = relay.say(format!("event\n{}\n", control.line().await)).await;
    chat(&mut user_a, &mut service).await;
    let (mut member, pool, _) = relay.pool().await;
    let mut user_b = user(pool).await;
    chat(&mut user_b, &mut member).await;
    let mut link = Forwarder::start(&relay).await;
    let mut user_c = user(link.port).await;
    let mut stream = link.accept().await;
    stream.chat(&mut link, &mut user_c).await;

    relay.stop();
    for port in [relay.control.port(), event, pool, link.port] {
        freed(port).await;
    }
    for (mut user, mut service) in [(user_a, service), (user_b, member)] {
        chat(&mut user, &mut service).await;
        user.finish().await;
        service.eof().await;
        service.finish().await;
        user.eof().await;
    }
    stream.chat(&mut link, &mut user_c).await;
    user_c.abort();
    link.ended().await;
    relay.ended().await;
}

#[tokio::test]
async fn who_does_not_finish_in_time_is_reset() {
    let mut relay = Relay::start(Limits { drain: SHORT, ..Limits::default() }).await;
    let (mut control, port) = relay.event().await;
    let mut user_a = user(port).await;
    let mut service = relay.say(format!("event\n{}\n", control.line().await)).await;
    chat(&mut user_a, &mut service).await;
    let mut link = Forwarder::start(&relay).await;
    let mut user_b = user(link.port).await;
    let mut stream = link.accept().await;
    stream.chat(&mut link, &mut user_b).await;

    let start = Instant::now();
    relay.stop();
    user_a.was_reset().await;
    service.was_reset().await;
    user_b.was_reset().await;
    assert!(start.elapsed() >= SHORT);
    relay.ended().await;
}

#[tokio::test]
async fn dropping_the_server_resets_everybody() {
    let relay = Relay::start(Limits::default()).await;
    let (mut control, port) = relay.event().await;
    let mut served = user(port).await;
    let mut service = relay.say(format!("event\n{}\n", control.line().await)).await;
    chat(&mut served, &mut service).await;
    let mut waiting = user(port).await;
    control.line().await;
    let address = relay.control;
    relay.cut();
    served.was_reset().await;
    service.was_reset().await;
    waiting.was_reset().await;
    control.gone().await;
    assert!(TcpStream::connect(address).await.is_err());
}

/// A log in memory.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The log of all servers in this process: what a server says may come from any thread.
    pub(crate) fn of_all() -> Self {
        static LOG: OnceLock<Log> = OnceLock::new();
        let start = || {
            let log = Log::default();
            let writer = log.clone();
            let lines = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
            tracing::subscriber::set_global_default(lines.finish()).unwrap();
            log
        };
        LOG.get_or_init(start).clone()
    }

    pub(crate) fn lines_with(&self, what: &str, peer: SocketAddr) -> Vec<String> {
        let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let peer = format!("peer={peer}");
        log.lines().filter(|line| line.contains(what) && line.contains(&peer)).map(ToOwned::to_owned).collect()
    }
}

#[tokio::test]
async fn the_log_tells_of_each_tunnel_and_of_troubles_once() {
    let log = Log::of_all();
    let mut relay = Relay::start(Limits::default()).await;
    let (mut control, port) = relay.event().await;
    let mut served = user(port).await;
    let mut service = relay.say(format!("event\n{}\n", control.line().await)).await;
    chat(&mut served, &mut service).await;
    let mut bad = Vec::new();
    for _ in 0..50 {
        let mut peer = relay.say("\x1b[31mred\n").await;
        bad.push(peer.0.local_addr().unwrap());
        peer.gone().await;
    }
    let client = control.0.local_addr().unwrap();
    drop(control);
    freed(port).await;
    drop(served);
    service.eof().await;
    drop(service);
    relay.stop();
    relay.ended().await;

    let opened = log.lines_with("tunnel opened", client);
    let [opened] = opened.as_slice() else { panic!("{opened:?}") };
    let closed = log.lines_with("tunnel closed", client);
    let [closed] = closed.as_slice() else { panic!("{closed:?}") };
    for line in [opened, closed] {
        for field in ["protocol=event", &format!("port={port}")] {
            assert!(line.contains(field), "{line} lacks {field}");
        }
    }
    for field in ["users=1", "bytes_up=8", "bytes_down=6", "reason=\"the client closed its control connection\""] {
        assert!(closed.contains(field), "{closed} lacks {field}");
    }
    let refused: Vec<_> = bad.iter().flat_map(|&peer| log.lines_with("client refused", peer)).collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].contains(r"\u{1b}[31mred"), "{refused:?}");
}
