//! The same, which knows its users, finishes what it has begun when it is told to end, and ends when the relay is of no
//! use any more.

use std::time::Duration;

use axum::{Router, extract::ConnectInfo, routing::get};
use relay_client::{Listener, UserAddr};
use tokio::time::timeout;

async fn hello(ConnectInfo(UserAddr(user)): ConnectInfo<UserAddr>) -> String {
    match user {
        Some(address) => format!("hello, {address}\n"),
        None => "hello, whoever you are\n".into(),
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let url = std::env::args().nth(1).expect("usage: axum_users RELAY");
    let app = Router::new().route("/", get(hello));
    let listener = Listener::builder(&url)?.bind().await?;
    println!("reachable at {}", listener.public_address());

    let (handle, closed) = (listener.handle(), listener.handle());
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            handle.close().await;
        }
    });
    let handle = closed.clone();
    axum::serve(listener, app.into_make_service_with_connect_info::<UserAddr>())
        .with_graceful_shutdown(async move { drop(closed.closed().await) })
        .await?;
    // All requests are answered, and the last answers are still on their way.
    let _ = timeout(Duration::from_secs(30), handle.finish()).await;
    // Why that was the end, if nobody wanted it:
    Ok(handle.closed().await?)
}
