//! Tunnels of the relay under trial, and users in them.

use std::net::SocketAddr;

use relay_proto::yamux::{Flags, Kind};

use super::Relay;
use crate::conformance::peer::{End, Peer};
use crate::conformance::session::{Frame, Session};
use crate::conformance::{Seen, Verdict};

pub(super) use relay_client::Protocol;

/// In the order of docs/PROTOCOL.md.
pub(super) const PROTOCOLS: [Protocol; 3] = [Protocol::Multiplex, Protocol::Pool, Protocol::Event];

/// A user, and what serves it through a tunnel of its own.
pub(super) struct Pair {
    pub(super) user: Peer,
    pub(super) service: Service,
    pub(super) port: u16,
}

/// A user's connection at the client.
pub(super) enum Service {
    /// As a stream of the link.
    Stream(Session, u32),
    /// As a connection, beside that which keeps the tunnel, if there is one.
    Connection(Peer, Option<Peer>),
}

impl Relay {
    /// A tunnel of multiplex, and its port. Options begin with a blank.
    pub(super) async fn multiplex(&self, options: &str) -> Verdict<(Session, u16)> {
        let (link, port) = self.ask("the link", format!("multiplex{options}\n")).await?;
        Ok((Session::new(link), port))
    }

    /// A tunnel of pool: its first member, its port and its name.
    pub(super) async fn pool(&self, options: &str) -> Verdict<(Peer, u16, String)> {
        let (mut member, port) = self.ask("the first member", format!("pool{options}\nnew\n")).await?;
        let name = member.line().await?;
        Ok((member, port, name))
    }

    /// A tunnel of event: its control connection and its port.
    pub(super) async fn event(&self, options: &str) -> Verdict<(Peer, u16)> {
        self.ask("the control connection", format!("event{options}\nnew\n")).await
    }

    /// Asks for a tunnel by such bytes, which may go on behind the lines, and gives the port.
    pub(super) async fn ask(&self, who: &'static str, request: impl AsRef<[u8]>) -> Verdict<(Peer, u16)> {
        self.ask_cut(who, request, 0).await
    }

    /// The same in two pieces, cut at that place.
    pub(super) async fn ask_cut(
        &self,
        who: &'static str,
        request: impl AsRef<[u8]>,
        place: usize,
    ) -> Verdict<(Peer, u16)> {
        let request = request.as_ref();
        let mut peer = if request.contains(&b'=') { self.greeted(who).await? } else { self.entered(who).await? };
        peer.send_cut(request, place).await?;
        let line = peer.line().await?;
        let port = line.parse().map_err(|_| peer.seen(format_args!("{line:?} instead of a port")))?;
        Ok((peer, port))
    }

    /// One more member of a pool.
    pub(super) async fn join(&self, pool: &str) -> Verdict<Peer> {
        let member = self.dial("a member").await?;
        member.send(format!("pool\n{pool}\n")).await?;
        Ok(member)
    }

    /// The connection that claims a user.
    pub(super) async fn claim(&self, ticket: &str) -> Verdict<Peer> {
        let claim = self.dial("the claim").await?;
        claim.send(format!("event\n{ticket}\n")).await?;
        Ok(claim)
    }

    /// A user of a public port.
    pub(super) async fn user(&self, port: u16) -> Verdict<Peer> {
        Peer::connect("the user", SocketAddr::new(self.at.ip(), port)).await
    }

    /// A new tunnel with a user who has spoken with the service.
    pub(super) async fn pair(&self, protocol: Protocol) -> Verdict<Pair> {
        let mut pair = match protocol {
            Protocol::Multiplex => {
                let (mut session, port) = self.multiplex("").await?;
                let user = self.user(port).await?;
                let stream = accept(&mut session).await?;
                Pair { user, service: Service::Stream(session, stream), port }
            }
            Protocol::Pool => {
                let (member, port, _) = self.pool("").await?;
                Pair { user: self.user(port).await?, service: Service::Connection(member, None), port }
            }
            _ => {
                let (mut control, port) = self.event("").await?;
                let user = self.user(port).await?;
                let claim = self.claim(&control.line().await?).await?;
                Pair { user, service: Service::Connection(claim, Some(control)), port }
            }
        };
        pair.chat().await?;
        Ok(pair)
    }
}

/// The stream of the next user, acknowledged.
pub(super) async fn accept(session: &mut Session) -> Verdict<u32> {
    let Frame { header, .. } = session.next().await?;
    if !header.flags.has(Flags::SYN) || !matches!(header.kind, Kind::Data | Kind::WindowUpdate) {
        return Err(session.peer.seen(format_args!("{header:?} instead of a SYN")));
    }
    session.send(Kind::WindowUpdate, Flags::ACK, header.stream, 0).await?;
    Ok(header.stream)
}

impl Pair {
    /// Both say something that the other one hears.
    pub(super) async fn chat(&mut self) -> Verdict {
        self.user.send("question").await?;
        self.service.expect("question").await?;
        self.service.send("answer").await?;
        self.user.expect("answer").await
    }
}

impl Service {
    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> Verdict {
        match self {
            Self::Stream(session, stream) => session.data_within_window(*stream, bytes.as_ref()).await,
            Self::Connection(peer, _) => peer.send(bytes).await,
        }
    }

    /// These bytes come next; credit for them is renewed.
    pub(super) async fn expect(&mut self, bytes: impl AsRef<[u8]>) -> Verdict {
        match self {
            Self::Stream(session, stream) => session.expect(*stream, bytes).await,
            Self::Connection(peer, _) => peer.expect(bytes).await,
        }
    }

    /// Sends end-of-file.
    pub(super) async fn finish(&mut self) -> Verdict {
        match self {
            Self::Stream(session, stream) => session.send(Kind::WindowUpdate, Flags::FIN, *stream, 0).await,
            Self::Connection(peer, _) => peer.finish().await,
        }
    }

    /// Resets the user's connection, and nothing else.
    pub(super) async fn abort(self) -> Verdict<Option<Session>> {
        match self {
            Self::Stream(session, stream) => {
                session.send(Kind::WindowUpdate, Flags::RST, stream, 0).await?;
                Ok(Some(session))
            }
            Self::Connection(peer, _) => {
                peer.abort();
                Ok(None)
            }
        }
    }

    /// The user has ended in that manner, without another byte.
    pub(super) async fn ends(&mut self, how: End) -> Verdict {
        match self {
            Self::Stream(session, stream) => {
                let flag = if how == End::Clean { Flags::FIN } else { Flags::RST };
                session.flag(*stream, flag).await
            }
            Self::Connection(peer, _) => peer.ends(how).await,
        }
    }
}

/// What is said of a protocol.
pub(super) fn of(protocol: Protocol) -> impl Fn(Seen) -> Seen {
    move |seen| seen.at(protocol)
}
