//! Lets a program behind NAT be reached: it asks a relay for a public port and takes the users who
//! connect there, without a port of its own.
//!
//! ```
//! use relay_client::{Listener, Protocol};
//! use tokio::io::AsyncWriteExt;
//!
//! # async fn relay() -> std::io::Result<String> {
//! #     let control = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! #     let address = control.local_addr()?.to_string();
//! #     tokio::spawn(async move {
//! #         let (mut client, _) = control.accept().await.unwrap();
//! #         client.write_all(b"relay/1\n7001\nTICKET\n").await.unwrap();
//! #         let _user = control.accept().await.unwrap();
//! #         std::future::pending::<()>().await
//! #     });
//! #     Ok(address)
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! # let url = relay().await?;
//! // An invite, tls://HOST[:PORT], or HOST[:PORT] of an open relay.
//! let mut listener = Listener::builder(&url)?
//!     .protocol(Protocol::Event) // or Pool, or Multiplex, which it is by default
//!     .bind()
//!     .await?;
//! println!("reachable at {}", listener.public_address());
//!
//! let mut user = listener.accept().await?;
//! println!("user {:?}", user.user_addr());
//! user.write_all(b"hello").await?;
//! user.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! The listener keeps its tunnel up: after a relay that restarts or a network that fails it tries again, for ever,
//! with random waits that grow up to 15 s, and tells of it in [`Event`]s. Only an answer that no later try can change, such as a
//! revoked identity or another certificate than the pinned one, ends it.
//!
//! # Features
//! None is on by default. Each is named with the version that it serves, and stays when there is a newer one.
//!
//! - `axum-08`: `axum::serve(listener, app)`; `ConnectInfo<UserAddr>`, or `ConnectInfo<SocketAddr>` by
//!   `listener.into_axum()`.
//! - `tonic-014`: `Server::builder().serve_with_incoming(listener)`, and `request.remote_addr()`.
//!
//! Hyper needs none: `TokioIo::new(connection)`. docs/EMBEDDING.md has an example of each.
//!
//! ```text
//!  relay.rs       Relay: which relay is meant
//!  builder.rs     Builder: what a listener is to be; bind
//!  listener.rs    Listener: accept; Handle: close
//!  report.rs      Event: what is told
//!  keeper.rs      opens the tunnel, again and again
//!  axum_08.rs, tonic_014.rs  as servers take it
//!  tunnel.rs      a tunnel, and its three kinds:
//!  multiplex.rs     users come as streams of one link
//!  event.rs         users are announced, and each is claimed by dialling back
//!  pool.rs          users take spare connections,
//!  stock.rs           so many as demand asks for
//!  origin.rs        where each user is, said ahead of its first byte
//!  connection.rs  Connection: one user, on a stream of a link
//!  dialled.rs       or on a connection of its own,
//!  linger.rs        and when it is dropped
//!  reach.rs       connections to the relay, in plain text or over TLS
//!  tls.rs           Tls: which relay is trusted, and who we are
//!  exchange.rs    the lines that open a tunnel
//! ```

#[cfg(feature = "axum-08")]
mod axum_08;
mod backoff;
mod builder;
mod connection;
mod dial;
mod dialled;
mod error;
mod event;
mod exchange;
mod keeper;
mod linger;
mod listener;
mod multiplex;
mod origin;
mod pool;
mod reach;
mod relay;
mod report;
mod stock;
mod tls;
#[cfg(feature = "tonic-014")]
mod tonic_014;
mod tunnel;

#[cfg(feature = "axum-08")]
pub use axum_08::UserAddr;
pub use builder::Builder;
pub use connection::Connection;
pub use dial::{DIAL_WAIT, DialError, dial, dial_addr};
pub use error::{Demand, Error, Lost};
pub use event::MAX_DIAL_BACKS;
pub use exchange::RELAY_1_WAIT;
pub use ipnet::IpNet;
pub use listener::{Handle, Listener};
pub use origin::ADDRESS_WAIT;
pub use pool::{MAX_REFUSED, REFUSED_WITHIN};
pub use relay::{Relay, RelayError};
pub use relay_proto::address::{AddressError, DEFAULT_PORT, Problem as AddressProblem, RelayAddr};
pub use relay_proto::handshake::{Code, HandshakeError, Protocol};
pub use relay_proto::identity::{Name, Token};
pub use relay_proto::invite::{Invite, InviteError};
pub use report::{Event, Events};
pub use stock::{DEFAULT_MEMBERS, MAX_MEMBERS};
pub use tls::{ALPN, ClientCertificate, Tls, TlsSetupError, Trust};
pub use tunnel::ANSWER_WAIT;
