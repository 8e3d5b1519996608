//! The checks of a client.

use std::io;
use std::net::SocketAddr;

use relay_client::Protocol;
use tokio::net::TcpListener;

use super::{Check, Report, Row, Subject};

/// A client under trial.
pub struct Client {}

impl Subject for Client {
    fn offers(&self, _: &str) -> bool {
        false
    }

    async fn is_alive(&self) -> bool {
        true
    }
}

/// All checks of a client.
pub const CHECKS: &[Check<Client>] = &[];

/// Waits at `listen` for a client of that protocol, and tries it.
///
/// # Errors
/// The address cannot be had, or nobody reads what `tell` tells.
pub async fn run(_: Protocol, listen: SocketAddr, tell: impl FnMut(&Row) -> io::Result<()>) -> Result<Report, String> {
    TcpListener::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    super::run(&Client {}, CHECKS, tell).await.map_err(|error| format!("the table cannot be printed: {error}"))
}
