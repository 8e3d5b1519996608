//! One stream through both hops of a multiplexed link, user → relay → forwarder → service, on loopback:
//! with this project's link, and with the `yamux` crate and tokio's copy in the same place.
//!
//! All in one process, without sockets of other programs: it shows what the multiplexer itself costs.

use std::future::poll_fn;
use std::io;
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use relay_net::mux::{Config, Link, Role, Side};
use relay_net::pipe::{HALF_CLOSED_IDLE, Moved};
use relay_net::socket::Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use crate::stats::Summary;

async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
    let (near, far) = (near?, far?.0);
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// A user and a service, and what joins them.
type Ends = (TcpStream, TcpStream);

async fn through_our_link() -> io::Result<Ends> {
    let (relay, forwarder) = pair().await?;
    let (user, at_relay) = pair().await?;
    let (service, at_forwarder) = pair().await?;
    let relay = Link::start(Role::Relay, relay, vec![], Config::default());
    let forwarder = Link::start(Role::Forwarder, forwarder, vec![], Config::default());
    tokio::spawn(async move {
        let stream = relay.open().await.map_err(io::Error::other)?;
        stream.pipe(Socket::from(at_relay), Side::User, &Moved::default(), HALF_CLOSED_IDLE).await;
        relay.finish();
        io::Result::Ok(())
    });
    tokio::spawn(async move {
        if let Some(stream) = forwarder.accept().await {
            stream.pipe(Socket::from(at_forwarder), Side::Service, &Moved::default(), HALF_CLOSED_IDLE).await;
        }
    });
    Ok((user, service))
}

async fn through_the_yamux_crate() -> io::Result<Ends> {
    let (relay, forwarder) = pair().await?;
    let (user, mut at_relay) = pair().await?;
    let (service, mut at_forwarder) = pair().await?;
    tokio::spawn(async move {
        let mut session = yamux::Connection::new(relay.compat(), yamux::Config::default(), yamux::Mode::Client);
        let stream = poll_fn(|cx| session.poll_new_outbound(cx)).await.map_err(io::Error::other)?;
        let mut stream = stream.compat();
        let copy = std::pin::pin!(copy_bidirectional(&mut at_relay, &mut stream));
        let drive = std::pin::pin!(async { while poll_fn(|cx| session.poll_next_inbound(cx)).await.is_some() {} });
        if let Either::Left((_, drive)) = select(copy, drive).await {
            drive.await;
        }
        io::Result::Ok(())
    });
    tokio::spawn(async move {
        let mut session = yamux::Connection::new(forwarder.compat(), yamux::Config::default(), yamux::Mode::Server);
        let Some(Ok(stream)) = poll_fn(|cx| session.poll_next_inbound(cx)).await else { return };
        let mut stream = stream.compat();
        let copy = std::pin::pin!(copy_bidirectional(&mut stream, &mut at_forwarder));
        let drive = std::pin::pin!(async { while poll_fn(|cx| session.poll_next_inbound(cx)).await.is_some() {} });
        if let Either::Left((_, drive)) = select(copy, drive).await {
            drive.await;
        }
    });
    Ok((user, service))
}

/// Moves `bytes` one way; gives Gbit/s from the first byte sent to the end-of-file received.
async fn throughput(ends: Ends, bytes: usize, upload: bool) -> io::Result<f64> {
    let (user, service) = ends;
    let (mut from, mut to) = if upload { (user, service) } else { (service, user) };
    // The crate opens a stream with its first byte: without one, the service would never be reached.
    if !upload {
        to.write_all(b"!").await?;
        from.read_exact(&mut [0]).await?;
    }
    let start = Instant::now();
    let sender = tokio::spawn(async move {
        let chunk = vec![0; 256 * 1024];
        for _ in 0..bytes / chunk.len() {
            from.write_all(&chunk).await?;
        }
        from.shutdown().await?;
        io::Result::Ok(from)
    });
    let mut chunk = vec![0; 256 * 1024];
    let mut got = 0;
    loop {
        let read = tokio::time::timeout(Duration::from_secs(30), to.read(&mut chunk)).await??;
        if read == 0 {
            break;
        }
        got += read;
    }
    let seconds = start.elapsed().as_secs_f64();
    sender.await??;
    let wanted = bytes / (256 * 1024) * (256 * 1024);
    if got != wanted {
        return Err(io::Error::other(format!("{got} of {wanted} bytes arrived")));
    }
    Ok(got as f64 * 8.0 / seconds / 1e9)
}

/// How often, and how much.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How often each is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How much moves at a time
    #[arg(long, default_value_t = 512)]
    megabytes: usize,
}

/// Takes the two in turn, each way, and prints medians and their ratio.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(compare(options))
}

async fn compare(options: &Options) -> io::Result<()> {
    let bytes = options.megabytes * 1024 * 1024;
    for upload in [true, false] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            ours.push(throughput(through_our_link().await?, bytes, upload).await?);
            theirs.push(throughput(through_the_yamux_crate().await?, bytes, upload).await?);
        }
        let (Some(ours), Some(theirs)) = (Summary::of(ours), Summary::of(theirs)) else {
            return Err(io::Error::other("no round, no figures"));
        };
        let (ours, theirs) = (ours.median, theirs.median);
        let way = if upload { "up" } else { "down" };
        println!("{way}: this link {ours:.2} Gbit/s, yamux crate {theirs:.2} Gbit/s, ratio {:.2}", ours / theirs);
    }
    Ok(())
}
