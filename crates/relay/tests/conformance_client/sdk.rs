//! A forwarder that is a program's own, on the crate `relay-client`: unlike ours it always asks where users are.

use relay::conformance::client::{Place, Play};
use relay_client::{Connection, Error, Listener, Protocol};
use relay_net::pipe::{HALF_CLOSED_IDLE, Moved};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

pub(crate) fn play(protocol: Protocol) -> Play {
    Box::new(move |place| {
        Box::pin(async move {
            // Why it ends is the kit's to find out.
            let _ = forward(protocol, place).await;
        })
    })
}

async fn forward(protocol: Protocol, place: Place) -> Result<(), Error> {
    let builder = Listener::builder(&place.relay.to_string())?.protocol(protocol).retry_first(true);
    let mut listener = builder.bind().await?;
    let mut users = JoinSet::new();
    loop {
        users.spawn(serve(listener.accept().await?, place));
        while users.try_join_next().is_some() {}
    }
}

async fn serve(user: Connection, place: Place) {
    // Whom nothing is done for is reset.
    if let Ok(service) = TcpStream::connect(place.echo).await {
        user.pipe(service.into(), &Moved::default(), HALF_CLOSED_IDLE).await;
    }
}
