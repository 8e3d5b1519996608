//! Lets a program behind NAT be reached: it asks a relay for a public port and takes the users who
//! connect there, without a port of its own.
//!
//! ```no_run
//! use relay_client::{Listener, Protocol};
//!
//! # async fn serve(_: relay_client::Connection) {}
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let invite = std::env::var("RELAY_INVITE")?.parse()?;
//! let mut listener = Listener::invited(&invite)?.protocol(Protocol::Multiplex).bind().await?;
//! println!("reachable at {}", listener.public_address());
//! loop {
//!     tokio::spawn(serve(listener.accept().await?));
//! }
//! # }
//! ```
//!
//! The listener keeps its tunnel up: a relay that restarts or a network that fails is met with
//! [`Backoff`], for ever, and told in [`Event`]s. Only an answer that no later try can change, such as a
//! revoked identity or another certificate than the pinned one, ends it.
//!
//! ```text
//!  listener.rs    Listener: bind, accept, reconnect, close
//!  tunnel.rs      a tunnel, and its three kinds:
//!  multiplex.rs     users come as streams of one link
//!  event.rs         users are announced, and each is claimed by dialling back
//!  pool.rs          users take spare connections,
//!  stock.rs           so many as demand asks for
//!  origin.rs        where each user is, said ahead of its first byte
//!  connection.rs  Connection: one user
//!  reach.rs       connections to the relay, in plain text or over TLS
//!  tls.rs           Tls: which relay is trusted, and who we are
//!  exchange.rs    the lines that open a tunnel
//! ```

mod backoff;
mod connection;
mod dial;
mod error;
mod event;
mod exchange;
mod listener;
mod multiplex;
mod origin;
mod pool;
mod reach;
mod stock;
mod tls;
mod tunnel;

pub use backoff::Backoff;
pub use connection::Connection;
pub use dial::{DIAL_WAIT, DialError, dial, dial_addr};
pub use error::{Demand, Error, Lost};
pub use event::MAX_DIAL_BACKS;
pub use exchange::RELAY_1_WAIT;
pub use ipnet::IpNet;
pub use listener::{Builder, Event, Events, Listener};
pub use origin::ADDRESS_WAIT;
pub use pool::{MAX_REFUSED, REFUSED_WITHIN};
pub use relay_proto::address::{AddressError, DEFAULT_PORT, RelayAddr};
pub use relay_proto::handshake::{Code, Protocol};
pub use relay_proto::identity::{Name, Token};
pub use relay_proto::invite::{Invite, InviteError};
pub use stock::{DEFAULT_MEMBERS, MAX_MEMBERS};
pub use tls::{ALPN, ClientCertificate, Tls, TlsSetupError, Trust};
pub use tunnel::ANSWER_WAIT;
