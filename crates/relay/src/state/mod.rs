//! What a relay keeps between its runs, in one directory, and how it is changed while the relay runs.
//!
//! ```text
//! certificate.toml   the self-signed certificate and its key: made once, since invites are pinned to it
//! identities.toml    who was invited, and who was revoked
//! ports.toml         which public ports are reserved, and for whom
//! relay.toml         what the server was last started with, as far as invites need it
//! lock               held by the server while it runs, and by a command while it writes
//! control.sock       where the running server takes changes
//! ```
//!
//! Whoever writes holds the [`Locked`] directory. A file is replaced as a whole, so a reader, or a crash, meets the
//! old one or the new.

mod access;
mod certificate;
pub mod commands;
mod control;
mod directory;
mod error;
mod facts;
mod file;
mod host;
mod identities;
mod ports;
mod record;
#[cfg(test)]
mod rig;

pub use certificate::Certificate;
pub use control::{Control, Cut, Handler};
pub use directory::{Directory, Locked};
pub use error::StateError;
pub use facts::{Facts, certificate_names};
pub use host::Host;
pub use identities::{ChangeError, Identities, Listed, Source, Standing, Usage};
pub use ports::{Reservation, Reservations};
