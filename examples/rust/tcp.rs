//! An echo that is reached through a relay.

use relay_client::Listener;
use tokio::io::{AsyncWriteExt, copy, split};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let url = std::env::args().nth(1).expect("usage: tcp RELAY");
    let mut listener = Listener::builder(&url)?.bind().await?;
    println!("reachable at {}", listener.public_address());
    loop {
        let user = listener.accept().await?;
        println!("user {:?}", user.user_addr());
        tokio::spawn(async move {
            let (mut from, mut to) = split(user);
            copy(&mut from, &mut to).await?;
            to.shutdown().await
        });
    }
}
