//! A tunnel whose users come as streams of one link.

use relay_net::mux::{Config, Ended, Link, Role};
use relay_net::socket::Socket;

use crate::tunnel::Users;
use crate::{Connection, Lost};

pub(crate) struct MultiplexTunnel {
    link: Link,
}

impl MultiplexTunnel {
    pub(crate) fn new(socket: Socket, early: Vec<u8>, bbr: bool) -> Self {
        let config = Config { bbr, ..Config::default() };
        Self { link: Link::start(Role::Forwarder, socket, early, config) }
    }

    pub(crate) async fn serve(self, users: &Users) -> Option<Lost> {
        let link = self.link;
        let cause = loop {
            tokio::select! {
                biased;
                () = users.closed() => {
                    link.go_away();
                    break None;
                }
                stream = link.accept() => match stream {
                    Some(stream) => users.deliver(Connection::from_stream(stream, None, users.live.token())).await,
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
