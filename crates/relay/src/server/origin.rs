//! Where a connection really comes from. A load balancer says so in a PROXY header, ahead of all else.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use relay_net::pipe::Refuses;
use relay_net::socket;
use relay_proto::proxy::{self, Header, ProxyError, Reader};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};

use super::pending::Place;
use super::reset;

/// What is looked at of a header at once, in bytes: all that the specification lets a sender send.
const LOOK: usize = 536;

/// The networks of load balancers. Whoever connects from there begins with a header, and nobody else may.
#[derive(Debug)]
pub(super) struct Balancers(pub(super) Vec<IpNet>);

impl Balancers {
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }

    /// What users from elsewhere may not begin with: a header is that of a balancer which is not listed. Where there is
    /// none, a service may speak PROXY with its users.
    pub(super) fn refuses(&self) -> Option<Refuses> {
        (!self.0.is_empty()).then_some(proxy::begins)
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// What logs, limits and lists go by: the balancer's own where it does not say another.
    pub(super) address: SocketAddr,
    /// What a balancer has said.
    said: Option<Header>,
}

impl Origin {
    pub(super) fn direct(address: SocketAddr) -> Self {
        Self { address, said: None }
    }

    fn behind(balancer: SocketAddr, header: Header) -> Self {
        let address = match header {
            Header::Proxied { user, .. } => user,
            Header::Unknown => balancer,
        };
        Self { address, said: Some(header) }
    }

    pub(super) fn is_direct(&self) -> bool {
        self.said.is_none()
    }

    /// What a client is told about a user. The address of a balancer is never one of a user.
    pub(super) fn header(&self, stream: &TcpStream) -> Header {
        self.said.unwrap_or_else(|| match stream.local_addr() {
            Ok(public) => Header::Proxied { user: self.address, public: socket::canonical(public) },
            Err(_) => Header::Unknown,
        })
    }
}

/// Why a balancer's connection has no header.
#[derive(Debug)]
pub(super) enum NoHeader {
    /// It closed, or was lost: a health check that says nothing.
    Closed,
    Lost(io::Error),
    Late,
    Bad(ProxyError),
}

impl NoHeader {
    /// The kind, by which repetitions are counted.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Closed | Self::Lost(_) => "balancer left",
            Self::Late => "balancer late",
            Self::Bad(error) => error.kind(),
        }
    }
}

impl fmt::Display for NoHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("it closed before its PROXY header was complete"),
            Self::Lost(error) => write!(f, "it was lost before its PROXY header was complete: {error}"),
            Self::Late => f.write_str("it did not complete its PROXY header in time"),
            Self::Bad(error) => write!(f, "it {error}, as all do that connect from a network in `proxy_protocol`"),
        }
    }
}

/// Reads the header of a balancer's connection; what follows it stays in the kernel. Not cancel safe.
pub(super) async fn read(stream: &TcpStream, balancer: SocketAddr) -> Result<Origin, NoHeader> {
    let mut reader = Reader::default();
    let mut piece = vec![0; LOOK];
    loop {
        let seen = stream.peek(&mut piece).await.map_err(NoHeader::Lost)?;
        if seen == 0 {
            return Err(NoHeader::Closed);
        }
        let mut input = &piece[..seen];
        let header = reader.read(&mut input).map_err(NoHeader::Bad)?;
        let mut used = seen - input.len();
        while used > 0 {
            stream.readable().await.map_err(NoHeader::Lost)?;
            match stream.try_read(&mut piece[..used]) {
                Ok(read) => used -= read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(NoHeader::Lost(error)),
            }
        }
        if let Some(header) = header {
            return Ok(Origin::behind(balancer, header));
        }
    }
}

/// A connection with its header read, among those who wait until it is looked at again.
pub(super) type Introduced = (TcpStream, Origin, Place);

/// The users of a public port whom balancers have introduced. Whoever is left when it is dropped is reset.
#[derive(Debug)]
pub(super) struct Introductions {
    /// No longer than the crowd in which each has its place.
    sender: mpsc::UnboundedSender<Introduced>,
    receiver: Mutex<mpsc::UnboundedReceiver<Introduced>>,
}

impl Introductions {
    pub(super) fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { sender, receiver: Mutex::new(receiver) }
    }

    pub(super) fn sender(&self) -> mpsc::UnboundedSender<Introduced> {
        self.sender.clone()
    }

    /// The next one. Cancel safe.
    pub(super) async fn next(&self) -> Introduced {
        match self.receiver.lock().await.recv().await {
            Some(introduced) => introduced,
            // There is always a sender.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Introductions {
    fn drop(&mut self) {
        let receiver = self.receiver.get_mut();
        receiver.close();
        while let Ok((stream, ..)) = receiver.try_recv() {
            reset(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::super::pending::Pending;
    use super::*;

    #[tokio::test]
    async fn who_was_introduced_to_nobody_is_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut user = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, address) = listener.accept().await.unwrap();
        let introductions = Introductions::new();
        let place = Pending::new(1, Duration::ZERO).enter(address.ip());
        introductions.sender().send((stream, Origin::direct(address), place)).unwrap();
        drop(introductions);
        assert_eq!(user.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
