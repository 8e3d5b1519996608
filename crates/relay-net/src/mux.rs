//! Stub of the driver (the lead replaces it).
use crate::{pipe::{End, Moved}, socket::Socket};
use std::time::Duration;
use tokio::net::TcpStream;

/// Which end of the link we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role { /// Opens a stream for each user.
    Relay, /// Takes streams.
    Forwarder }
/// Limits of a link.
#[derive(Clone, Debug, Default)]
pub struct Config {}
/// Why a link ended. (Display)
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Ended { /// After its last stream, as asked by either side.
    Finished }
impl std::fmt::Display for Ended { fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { todo!() } }
/// Which party the socket given to a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side { /// The relay's side.
    User, /// The forwarder's side.
    Service }
/// A link; cheap to clone. Dropping all clones does not end it.
#[derive(Clone)]
pub struct Link {}
impl Link {
    /// Starts the link's tasks on the current runtime. `early` was read from the socket already.
    pub fn start(_role: Role, _socket: TcpStream, _early: Vec<u8>, _config: Config) -> Self { todo!() }
    /// Opens a stream (SYN leaves at once). Waits while 256 streams lack an ACK. Cancel safe.
    pub async fn open(&self) -> Result<Stream, Ended> { todo!() }
    /// The next stream that the peer opened (ACKed already); `None` once the link has ended. Cancel safe.
    pub async fn accept(&self) -> Option<Stream> { todo!() }
    /// Waits for the end of the link. Cancel safe.
    pub async fn ended(&self) -> Ended { todo!() }
    /// Waits until the peer takes no new streams (GoAway 0) or the link has ended. Cancel safe.
    pub async fn refusing(&self) { todo!() }
    /// Announces that we take no new streams (forwarder draining: GoAway 0).
    pub fn go_away(&self) { todo!() }
    /// Ends the link after its last stream (GoAway 0, then a clean close); no stream can be opened any more.
    pub fn finish(&self) { todo!() }
    /// Ends the link and resets its streams at once.
    pub fn abort(&self) { todo!() }
    /// How many streams live now.
    pub fn streams(&self) -> usize { todo!() }
}
/// One user's stream. Dropping it resets it.
pub struct Stream {}
impl Stream {
    /// Pipes between the socket and the stream until both directions ended. `early` was read from the socket already. Dropping the future resets both.
    pub async fn pipe(self, _socket: Socket, _early: Vec<u8>, _side: Side, _moved: &Moved, _idle: Duration) -> End { todo!() }
    /// Resets the stream: the far party sees RST.
    pub fn reset(self) { todo!() }
    /// Waits until the peer resets the stream or the link ends. Cancel safe.
    pub async fn was_reset(&self) { todo!() }
}
