//! A web server that is reached through a relay.

use axum::{Router, routing::get};
use relay_client::Listener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let url = std::env::args().nth(1).expect("usage: axum RELAY");
    let app = Router::new().route("/", get(async || "hello\n"));
    let listener = Listener::builder(&url)?.bind().await?;
    println!("reachable at {}", listener.public_address());
    axum::serve(listener, app).await
}
