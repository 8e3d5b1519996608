//! An echo on the `yamux` crate of libp2p.

use std::io;

use relay::conformance::client::{Place, Play};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, Mode, Stream};

pub(crate) fn play() -> Play {
    Box::new(|place| {
        Box::pin(async move {
            // How the session ends is the kit's to say.
            let _ = serve(place).await;
        })
    })
}

async fn serve(place: Place) -> io::Result<()> {
    let link = TcpStream::connect(place.relay).await?;
    link.set_nodelay(true)?;
    let mut link = BufReader::new(link);
    link.write_all(b"multiplex\n").await?;
    link.read_line(&mut String::new()).await?;
    let mut session = Connection::new(link.compat(), Config::default(), Mode::Server);
    let mut users = JoinSet::new();
    while let Some(Ok(stream)) = std::future::poll_fn(|context| session.poll_next_inbound(context)).await {
        users.spawn(echo(stream));
    }
    Ok(())
}

async fn echo(stream: Stream) -> io::Result<()> {
    let mut stream = stream.compat();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return stream.shutdown().await,
            read => stream.write_all(&buffer[..read]).await?,
        }
        stream.flush().await?;
    }
}
