//! Multiplex: every user is a stream of the one link.

use std::sync::Arc;
use std::time::Duration;

use relay_net::mux::{Link, Role, Side};
use relay_net::socket::Socket;
use tokio::time::timeout;
use tracing::debug;

use super::ports::Standing;
use super::tunnel::{PublicPort, Tunnel, User};
use super::{aborted, reset};

/// How long a link may be silent before a newer one of the same identity takes its port.
const SILENT: Duration = Duration::from_secs(2);

/// Serves a multiplex tunnel until its link ends; after the client's word that it takes no new
/// streams, or when the server stops, only until its last user is gone.
pub(super) async fn serve(tunnel: Arc<Tunnel>, public: PublicPort, socket: Socket, early: Vec<u8>) {
    let (public, socket) = match (public.brought(&tunnel.home), tunnel.home.bring(socket)) {
        (Ok(public), Ok(socket)) => (public, socket),
        (Err(error), _) | (_, Err(error)) => return tunnel.end(&error),
    };
    let _ = socket.watch_always_reading();
    let link = Link::start(Role::Relay, socket, early, tunnel.link_config());
    loop {
        tokio::select! {
            user = public.accept(&tunnel) => {
                tunnel.relay.tasks.spawn(serve_user(tunnel.clone(), link.clone(), user));
            }
            _ = link.refusing() => break,
            reason = tunnel.ending() => {
                tunnel.end(&reason);
                break;
            }
            () = public.contested() => {
                tunnel.relay.tasks.spawn(end_if_silent(link.clone(), public.standing().clone()));
            }
        }
    }
    drop(public);
    tunnel.over.cancel();
    link.finish();
    let ended = tokio::select! {
        ended = link.ended() => ended,
        () = tunnel.reset() => {
            link.abort();
            link.ended().await
        }
    };
    tunnel.end(&ended);
}

/// A newer client wants the port: ends a link of which nobody is left.
async fn end_if_silent(link: Link, standing: Arc<Standing>) {
    if link.answers(SILENT).await {
        standing.lives();
    } else {
        link.abort();
    }
}

/// Takes a user from the accept to the end of its stream.
async fn serve_user(tunnel: Arc<Tunnel>, link: Link, user: User) {
    let User { stream: user, address, beginning, mut place, stay } = user;
    let opened = tokio::select! {
        biased;
        opened = timeout(tunnel.limits().stream_wait, link.open_with(beginning)) => opened,
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
    drop(stay);
}
