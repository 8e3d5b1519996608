//! A tunnel whose users come as streams of one link.

use std::sync::Arc;

use relay_net::mux::{Config, Ended, Link, Role};
use relay_net::socket::Socket;
use tokio::sync::Semaphore;

use crate::tunnel::Users;
use crate::{Connection, Lost};

/// Of how many users at once it is waited for where they are; beyond, streams wait in the link. As many as event has
/// under way.
const MAX_INTRODUCTIONS: usize = 1024;

pub(crate) struct MultiplexTunnel {
    link: Link,
    /// The relay says where users are.
    tells: bool,
}

impl MultiplexTunnel {
    pub(crate) fn new(socket: Socket, early: Vec<u8>, bbr: bool, tells: bool) -> Self {
        let config = Config { bbr, ..Config::default() };
        Self { link: Link::start(Role::Forwarder, socket, early, config), tells }
    }

    pub(crate) async fn serve(self, users: &Users) -> Option<Lost> {
        let link = self.link;
        let introductions = Arc::new(Semaphore::new(MAX_INTRODUCTIONS));
        let cause = loop {
            tokio::select! {
                biased;
                () = users.closed() => {
                    link.go_away();
                    break None;
                }
                stream = link.accept() => match stream {
                    Some(stream) if self.tells => {
                        let user = Connection::from_stream(stream, users.live.token());
                        // Fails only when the semaphore is closed, which nobody does.
                        let permit = introductions.clone().acquire_owned().await;
                        let users = users.clone();
                        tokio::spawn(async move {
                            tokio::select! {
                                () = users.bring(user, true) => {}
                                () = users.closed() => {}
                            }
                            drop(permit);
                        });
                    }
                    Some(stream) => users.deliver(Connection::from_stream(stream, users.live.token())).await,
                    None => return Some(lost(&link.ended().await)),
                },
                // Looked at last: what the relay had opened before it said so has been accepted.
                ended = link.refusing() => match ended {
                    Some(ended) => return Some(lost(&ended)),
                    None => break Some(Lost::GoAway),
                },
            }
        };
        // Nobody new will come. The link lives on for those who are there, and a listener that closes
        // waits until their last bytes have left.
        link.finish();
        let live = users.live.token();
        tokio::spawn(async move {
            link.ended().await;
            drop(live);
        });
        cause
    }
}

fn lost(ended: &Ended) -> Lost {
    match ended {
        Ended::PeerClosed => Lost::Closed,
        ended => Lost::Link(ended.to_string().into()),
    }
}
