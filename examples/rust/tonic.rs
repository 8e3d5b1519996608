//! A gRPC server that is reached through a relay: that of gRPC's health checks.

use relay_client::Listener;
use tonic::service::InterceptorLayer;
use tonic::{Request, transport::Server};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).expect("usage: tonic RELAY");
    let (_, health) = tonic_health::server::health_reporter();
    let listener = Listener::builder(&url)?.bind().await?;
    println!("reachable at {}", listener.public_address());
    let watch = InterceptorLayer::new(|request: Request<()>| {
        println!("user {:?}", request.remote_addr());
        Ok(request)
    });
    Ok(Server::builder().layer(watch).add_service(health).serve_with_incoming(listener).await?)
}
