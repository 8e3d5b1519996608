//! Connecting to a name.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use relay_net::socket::{connect, connect_to_speak};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How long a dial may take in all: resolving the name and every address it has.
pub const DIAL_WAIT: Duration = Duration::from_secs(10);

/// How long one address is tried alone before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to the first address of `host` that answers, within [`DIAL_WAIT`] in all.
///
/// `localhost` is this machine, IPv4 and IPv6, without asking a resolver. Of another name's addresses, one
/// that refuses or stays silent for a quarter of a second does not hold up the next one.
/// `TCP_NODELAY` is set. Cancel safe: dropping the future drops the attempts.
///
/// # Errors
/// The name does not resolve, or none of its addresses can be reached.
pub async fn dial(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let fail = |problem| DialError { host: host.into(), port, problem };
    let attempt = async {
        if host.eq_ignore_ascii_case("localhost") {
            // Each answers or refuses at once.
            return match connect((Ipv4Addr::LOCALHOST, port).into()).await {
                Ok(socket) => Ok(socket),
                Err(_) => connect((Ipv6Addr::LOCALHOST, port).into()).await.map_err(unreachable),
            };
        }
        let addresses: Vec<_> = lookup_host((host, port)).await.map_err(unresolved)?.collect();
        if addresses.is_empty() {
            return Err(unresolved(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
        }
        first_of(addresses).await.map_err(unreachable)
    };
    match timeout(DIAL_WAIT, attempt).await {
        Ok(result) => result.map_err(fail),
        Err(_) => Err(fail(Problem::TimedOut)),
    }
}

/// Connects to one known address, to say something there at once, within [`DIAL_WAIT`]. Otherwise as [`dial`].
///
/// # Errors
/// The address cannot be reached.
pub async fn dial_addr(address: SocketAddr) -> Result<TcpStream, DialError> {
    let problem = match timeout(DIAL_WAIT, connect_to_speak(address)).await {
        Ok(Ok(socket)) => return Ok(socket),
        Ok(Err(error)) => unreachable(error),
        Err(_) => Problem::TimedOut,
    };
    Err(DialError { host: address.ip().to_string().into(), port: address.port(), problem })
}

/// The first of `addresses` that answers, else the error of the last that failed.
async fn first_of(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    if let [only] = addresses[..] {
        return connect(only).await;
    }
    let mut addresses = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    loop {
        match addresses.next() {
            Some(address) => drop(attempts.spawn(connect(address))),
            None if attempts.is_empty() => return Err(failure),
            None => {}
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended.map_err(io::Error::other).flatten() {
                Ok(socket) => return Ok(socket),
                Err(error) => failure = error,
            },
            () = sleep(HEAD_START), if addresses.len() > 0 => {}
        }
    }
}

/// Why a dial failed. Nobody's fault, as far as can be told; a later try may work.
#[derive(Clone, Debug)]
pub struct DialError {
    host: Box<str>,
    port: u16,
    problem: Problem,
}

#[derive(Clone, Debug)]
enum Problem {
    Unresolved(Arc<io::Error>),
    Unreachable(Arc<io::Error>),
    TimedOut,
}

fn unresolved(error: io::Error) -> Problem {
    Problem::Unresolved(Arc::new(error))
}

fn unreachable(error: io::Error) -> Problem {
    Problem::Unreachable(Arc::new(error))
}

impl DialError {
    /// The kind of the failure.
    pub fn kind(&self) -> io::ErrorKind {
        match &self.problem {
            Problem::Unresolved(error) | Problem::Unreachable(error) => error.kind(),
            Problem::TimedOut => io::ErrorKind::TimedOut,
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, problem } = self;
        let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
        match problem {
            Problem::Unresolved(error) => write!(f, "{host} does not resolve: {error}"),
            Problem::Unreachable(error) => write!(f, "cannot connect to {open}{host}{close}:{port}: {error}"),
            Problem::TimedOut => {
                write!(f, "cannot connect to {open}{host}{close}:{port}: no answer in {} s", DIAL_WAIT.as_secs())
            }
        }
    }
}

impl std::error::Error for DialError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.problem {
            Problem::Unresolved(error) | Problem::Unreachable(error) => Some(error),
            Problem::TimedOut => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn addresses_that_refuse_do_not_hide_the_one_that_answers() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let good = listener.local_addr().unwrap();
        // 127.0.0.2 on that port refuses, as does ::1 (or it is unreachable where IPv6 is off).
        let refusing = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), good.port()));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, good.port()));
        let socket = first_of(vec![refusing, v6, good]).await.unwrap();
        assert_eq!(socket.peer_addr().unwrap(), good);
        assert!(socket.nodelay().unwrap());
        let error = first_of(vec![refusing, v6]).await.unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn localhost_is_both_families() {
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = v4.local_addr().unwrap().port();
        assert_eq!(dial("localhost", port).await.unwrap().peer_addr().unwrap().port(), port);
        let Ok(v6) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await else { return };
        let port = v6.local_addr().unwrap().port();
        assert_eq!(dial("LocalHost", port).await.unwrap().peer_addr().unwrap(), v6.local_addr().unwrap());
    }

    #[tokio::test]
    async fn errors_say_what_was_tried() {
        let error = dial("no-such-host.invalid", 80).await.unwrap_err();
        assert!(error.to_string().starts_with("no-such-host.invalid does not resolve: "), "{error}");
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
        let error = dial("127.0.0.1", closed.port()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(error.to_string().starts_with(&format!("cannot connect to {closed}: ")), "{error}");
        assert_eq!(dial_addr(closed).await.unwrap_err().to_string(), error.to_string());
    }
}
