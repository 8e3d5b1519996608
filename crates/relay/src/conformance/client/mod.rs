//! The checks of a client.
//!
//! The kit plays a relay: it takes what the client dials, gives it a tunnel, and comes as its users. Behind the client
//! is a service that sends back what it gets, the client's own or the one that the kit offers.
//!
//! ```text
//!  start.rs       how a client comes: by hand, as a program, as a task
//!  subject.rs     Client: its connections, and what it asks for on them
//!  tunnel.rs      a tunnel that was given, and the users who come through it
//!  user.rs          one user: what is sent, and what comes back
//!  link.rs          the relay's end of a multiplexed link
//!  service.rs     the service that the kit offers
//!  exchange.rs    checks of the lines,
//!  users.rs         of what all users need,
//!  multiplex.rs     of yamux,
//!  pool.rs          of members,
//!  event.rs         of tickets
//! ```

mod event;
mod exchange;
mod link;
mod multiplex;
mod pool;
mod service;
mod start;
mod subject;
mod tunnel;
mod user;
mod users;

use std::io;

use relay_client::Protocol;

pub use start::{Place, Play, Start};
pub use subject::Client;

use super::{Check, Report, Row};

/// All checks of a client that takes its users in that manner.
pub fn checks(protocol: Protocol) -> impl Iterator<Item = &'static Check<Client>> {
    let own = match protocol {
        Protocol::Multiplex => multiplex::CHECKS,
        Protocol::Pool => pool::CHECKS,
        _ => event::CHECKS,
    };
    [exchange::CHECKS, users::CHECKS, own, exchange::OLD_RELAYS].into_iter().flatten()
}

/// Tries a client.
///
/// # Errors
/// That of `tell`, which ends it.
pub async fn run(client: &Client, tell: impl FnMut(&Row) -> io::Result<()>) -> io::Result<Report> {
    client.meet().await;
    super::run(client, checks(client.protocol), tell).await
}
