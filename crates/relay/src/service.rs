//! The service behind a forwarder: how its owner names it, and how it is reached.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use relay_client::{DIAL_WAIT, RelayAddr, dial};
use relay_net::socket::Socket;

/// Where a service listens. Parsed from a port (of this machine), `HOST:PORT`, or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// A TCP port; `localhost` when only a port was given.
    Tcp(RelayAddr),
    /// A Unix domain socket.
    Unix(PathBuf),
}

impl Service {
    /// A service of this machine.
    ///
    /// # Errors
    /// The port is 0.
    pub fn local(port: u16) -> Result<Self, ServiceError> {
        let address = RelayAddr::new("localhost", port);
        address.map(Self::Tcp).map_err(|_| ServiceError(port.to_string()))
    }

    /// Connects to it, within [`DIAL_WAIT`] in all. Cancel safe.
    ///
    /// # Errors
    /// A sentence that says what was tried and what went wrong.
    pub async fn dial(&self) -> Result<Socket, DialError> {
        match self {
            Self::Tcp(address) => {
                let socket =
                    dial(address.host(), address.port()).await.map_err(|error| DialError(error.to_string()))?;
                Ok(socket.into())
            }
            Self::Unix(path) => {
                let dialled = tokio::time::timeout(DIAL_WAIT, dial_unix(path)).await;
                dialled
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                    .map_err(|error| DialError(format!("cannot connect to {self}: {error}")))
            }
        }
    }
}

#[cfg(unix)]
async fn dial_unix(path: &std::path::Path) -> io::Result<Socket> {
    loop {
        match tokio::net::UnixStream::connect(path).await {
            // A service that is behind with accepting: the kernel does not wait for us here.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(UNIX_RETRY).await,
            dialled => return dialled.map(Socket::from),
        }
    }
}

/// How long a service that is behind with accepting is left alone.
#[cfg(unix)]
const UNIX_RETRY: std::time::Duration = std::time::Duration::from_millis(20);

#[cfg(not(unix))]
async fn dial_unix(_: &std::path::Path) -> io::Result<Socket> {
    Err(io::ErrorKind::Unsupported.into())
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Service {
    type Err = ServiceError;

    fn from_str(text: &str) -> Result<Self, ServiceError> {
        let error = || ServiceError(text.into());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(error()) } else { Ok(Self::Unix(path.into())) };
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("localhost", text));
        // Without brackets, where an IPv6 address ends and the port begins is anybody's guess.
        let is_bare_v6 = host.contains(':') && !host.starts_with('[');
        if is_bare_v6 || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(error());
        }
        let port = port.parse().map_err(|_| error())?;
        RelayAddr::new(host, port).map(Self::Tcp).map_err(|_| error())
    }
}

/// How a service is named.
pub(crate) const FORMS: &str = "give a port, host:port (an IPv6 host in brackets) or unix:PATH";

/// A text that names no service. The caller's fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceError(String);

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no service: {FORMS}", self.0)
    }
}

impl std::error::Error for ServiceError {}

/// The service could not be reached; a later try may work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialError(String);

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DialError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_understood() {
        for (typed, shown) in [
            ("8080", "localhost:8080"),
            ("web.lan:80", "web.lan:80"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("unix:/run/web.sock", "unix:/run/web.sock"),
            ("unix:a:b", "unix:a:b"),
        ] {
            assert_eq!(typed.parse::<Service>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_service_is_refused() {
        for typed in ["", "web", "0", "65536", "-1", "+80", "web:", ":80", "web:0", "::1:80", "unix:", "http://web:80"]
        {
            let error = typed.parse::<Service>().unwrap_err().to_string();
            assert!(error.contains("is no service"), "{typed:?}: {error}");
        }
    }
}
