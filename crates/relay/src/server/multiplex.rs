//! Multiplex: every user is a stream of the one link.

use std::net::SocketAddr;
use std::sync::Arc;

use relay_net::mux::{Link, Role, Side};
use relay_net::socket::{self, Socket};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use super::pending::Place;
use super::tunnel::{PublicPort, Tunnel};
use super::{aborted, reset};

/// Serves a multiplex tunnel until its link ends; after the client's word that it takes no new
/// streams, or when the server stops, only until its last user is gone.
pub(super) async fn serve(tunnel: Arc<Tunnel>, public: PublicPort, socket: TcpStream, early: Vec<u8>) {
    let (public, socket) = match (public.brought(&tunnel.home), tunnel.home.bring(socket)) {
        (Ok(public), Ok(socket)) => (public, socket),
        (Err(error), _) | (_, Err(error)) => return tunnel.end(&error),
    };
    let _ = socket::watch_always_reading(&socket);
    let link = Link::start(Role::Relay, socket, early, tunnel.limits().link.clone());
    loop {
        tokio::select! {
            (user, address, place) = public.accept() => {
                tunnel.relay.tasks.spawn(serve_user(tunnel.clone(), link.clone(), user, address, place));
            }
            _ = link.refusing() => break,
            () = tunnel.over.cancelled() => break,
        }
    }
    drop(public);
    let stopping = tunnel.relay.draining.is_cancelled();
    tunnel.over.cancel();
    link.finish();
    let ended = tokio::select! {
        ended = link.ended() => ended,
        () = tunnel.relay.reset.cancelled() => {
            link.abort();
            link.ended().await
        }
    };
    if stopping { tunnel.end(&"the relay stops") } else { tunnel.end(&ended) }
}

/// Takes a user from the accept to the end of its stream.
async fn serve_user(tunnel: Arc<Tunnel>, link: Link, user: TcpStream, address: SocketAddr, mut place: Place) {
    let opened = tokio::select! {
        biased;
        opened = timeout(tunnel.limits().stream_wait, link.open()) => opened,
        () = aborted(&user) => return debug!(user = %address, port = tunnel.port, "user left while it waited"),
        () = place.pushed_out() => return tunnel.crowded_out(user, address),
        () = tunnel.over.cancelled() => return reset(user),
    };
    drop(place);
    let stream = match opened {
        Ok(Ok(stream)) => stream,
        Ok(Err(ended)) => {
            debug!(user = %address, port = tunnel.port, "no stream: {ended}");
            return reset(user);
        }
        Err(_) => return tunnel.refused(user, address, "the client took no new stream in time"),
    };
    let idle = tunnel.limits().half_closed_idle;
    let pipe = stream.pipe(Socket::from(user), Side::User, &tunnel.moved, idle);
    tunnel.carry(address, pipe).await;
}
