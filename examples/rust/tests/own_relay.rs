//! How a program tests itself through a relay of its own.

use relay::testing::Relay;
use relay_client::Listener;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn greets_whoever_comes() -> std::io::Result<()> {
    let relay = Relay::start()?;
    let mut listener = Listener::builder(&relay.url())?.bind().await?;

    let mut user = TcpStream::connect(listener.public_address().to_string()).await?;
    let mut greeted = listener.accept().await?;
    greeted.write_all(b"hello").await?;
    greeted.shutdown().await?;

    let mut heard = String::new();
    user.read_to_string(&mut heard).await?;
    assert_eq!(heard, "hello");
    Ok(())
}
