//! A web server on hyper alone that is reached through a relay.

use std::convert::Infallible;

use hyper::{Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use relay_client::Listener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let url = std::env::args().nth(1).expect("usage: hyper RELAY");
    let mut listener = Listener::builder(&url)?.bind().await?;
    println!("reachable at {}", listener.public_address());
    loop {
        let user = listener.accept().await?;
        let hello = format!("hello, {:?}\n", user.user_addr());
        let service = service_fn(move |_| {
            let response = Response::new(hello.clone());
            async { Ok::<_, Infallible>(response) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(user), service));
    }
}
