//! A relay, programs with a tunnel there, and their users.

use relay::identity::Rights;
use relay_client::{Connection, Invite, Listener, Protocol, Relay, RelayAddr};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, split};

use crate::secure::{Secure, identity, token};
use crate::support::{Peer, user, within};

/// Every way to be reached: the protocol, and whether it is over TLS.
pub(crate) const WAYS: [(Protocol, bool); 6] = [
    (Protocol::Multiplex, false),
    (Protocol::Pool, false),
    (Protocol::Event, false),
    (Protocol::Multiplex, true),
    (Protocol::Pool, true),
    (Protocol::Event, true),
];

/// A relay that is open to everyone in plain text, and to one identity over TLS.
pub(crate) struct Stage(Secure);

impl Stage {
    pub(crate) async fn start() -> Self {
        let identities = [identity("laptop", Rights::default())];
        Self(Secure::configured(identities, |config| config.anonymous.everyone = true).await)
    }

    pub(crate) async fn listen(&self, (protocol, secure): (Protocol, bool)) -> Listener {
        let relay: RelayAddr = self.0.relay.control.to_string().parse().unwrap();
        let relay = if secure {
            let pin = Some(Sha256::digest(&self.0.der).into());
            Relay::Invite(Invite { name: "laptop".parse().unwrap(), token: token("laptop"), relay, pin })
        } else {
            Relay::Plain(relay)
        };
        let builder = Listener::to(relay).protocol(protocol);
        within("a tunnel", builder.bind()).await.unwrap()
    }
}

pub(crate) async fn user_of(listener: &Listener) -> Peer {
    user(listener.public_address().port()).await
}

/// The next user.
pub(crate) async fn accept(listener: &mut Listener) -> Connection {
    within("a user", listener.accept()).await.unwrap()
}

/// Gives a user back what it sends, to its end.
pub(crate) async fn echo(connection: Connection) {
    let (mut from, mut to) = split(connection);
    copy(&mut from, &mut to).await.unwrap();
    to.shutdown().await.unwrap();
}

/// Sends bytes to an echo, ends, and compares what comes back to the end.
pub(crate) async fn is_echoed(mut user: Peer, len: usize, seed: usize) {
    let bytes: Vec<u8> = (0..len).map(|at| ((at * 31) ^ (at >> 8) ^ seed).to_le_bytes()[0]).collect();
    let (mut from, mut to) = user.0.split();
    let mut got = Vec::new();
    let exchange = async {
        tokio::join!(
            async {
                to.write_all(&bytes).await.unwrap();
                to.shutdown().await.unwrap();
            },
            async { from.read_to_end(&mut got).await.unwrap() },
        )
    };
    within("the echo", exchange).await;
    assert!(got == bytes, "{} bytes of {len}", got.len());
}
