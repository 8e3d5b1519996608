//! A tunnel, and the users whom the kit sends through it.

use std::collections::VecDeque;

use relay_client::Protocol;
use relay_proto::yamux::Flags;

use super::link::Link;
use super::subject::Client;
use super::user::User;
use crate::conformance::Verdict;
use crate::conformance::peer::Peer;

/// What the relay says of a user, where the client wants to know. The addresses are such as no network has.
pub(super) const ADDRESS: &str = "PROXY TCP4 203.0.113.7 198.51.100.1 40112 1235\r\n";

/// A tunnel that the client has asked for and been given. Dropping it closes what the client holds it by.
pub(super) struct Tunnel<'a> {
    client: &'a Client,
    /// Whether each user begins with a line that says who he is.
    tells_addresses: bool,
    kind: Kind,
}

enum Kind {
    Multiplex(Link),
    Pool { name: String, idle: VecDeque<Peer> },
    Event(Peer),
}

impl<'a> Tunnel<'a> {
    /// The tunnel that a connection has been given; `id` is the pool's.
    pub(super) fn new(client: &'a Client, peer: Peer, id: String, tells_addresses: bool) -> Self {
        let kind = match client.protocol {
            Protocol::Multiplex => {
                let (socket, ahead) = peer.into_parts();
                Kind::Multiplex(Link::start(socket, ahead))
            }
            Protocol::Pool => Kind::Pool { name: id, idle: VecDeque::from([peer]) },
            _ => Kind::Event(peer),
        };
        Self { client, tells_addresses, kind }
    }

    /// What each user begins with.
    pub(super) fn address(&self) -> &'static str {
        if self.tells_addresses { ADDRESS } else { "" }
    }

    /// A user has come.
    pub(super) async fn user(&mut self) -> Verdict<User> {
        self.user_from(self.address()).await
    }

    /// A user has come of whom the relay says that, if anything.
    pub(super) async fn user_from(&mut self, address: &str) -> Verdict<User> {
        if let Kind::Multiplex(link) = &self.kind {
            return Ok(User::Stream(link.open(address.as_bytes())));
        }
        let carrier = match &self.kind {
            Kind::Event(control) => {
                let ticket = self.client.id();
                control.send(format!("{ticket}\n")).await?;
                self.claim(&ticket).await?
            }
            _ => self.member().await?,
        };
        carrier.send(address).await?;
        let (socket, ahead) = carrier.into_parts();
        Ok(User::on(socket, ahead))
    }

    /// A user whose first bytes stand in one segment with the lines that open the tunnel.
    pub(super) async fn user_behind(&mut self, lines: &str, first: &[u8]) -> Verdict<User> {
        let address = self.address();
        let ticket = self.client.id();
        let carrier = match &mut self.kind {
            Kind::Multiplex(link) => {
                let stream = link.next_stream();
                let said = [address.as_bytes(), first].concat();
                link.raw([lines.as_bytes(), &stream.control(Flags::SYN, 0), &stream.data(&said)].concat());
                return Ok(User::Stream(stream));
            }
            Kind::Pool { idle, .. } => {
                let member = idle.pop_front().ok_or("the kit has no first member")?;
                member.send([lines.as_bytes(), address.as_bytes(), first].concat()).await?;
                member
            }
            Kind::Event(control) => {
                control.send(format!("{lines}{ticket}\n")).await?;
                let claim = self.claim(&ticket).await?;
                claim.send([address.as_bytes(), first].concat()).await?;
                claim
            }
        };
        let (socket, ahead) = carrier.into_parts();
        Ok(User::on(socket, ahead))
    }

    /// The connection that claims this ticket. Others that come are closed, as a relay would.
    pub(super) async fn claim(&self, ticket: &str) -> Verdict<Peer> {
        loop {
            let (peer, id) = self.client.dials_back().await?;
            if id == ticket {
                return Ok(peer);
            }
        }
    }

    /// An idle member of the pool.
    pub(super) async fn member(&mut self) -> Verdict<Peer> {
        let Kind::Pool { name, idle } = &mut self.kind else { return Err("the kit has no pool".into()) };
        if let Some(member) = idle.pop_front() {
            return Ok(member);
        }
        loop {
            let (peer, id) = self.client.dials_back().await?;
            if id == *name {
                return Ok(peer);
            }
        }
    }

    /// The link, of a multiplexed tunnel.
    pub(super) fn link(&self) -> Verdict<&Link> {
        match &self.kind {
            Kind::Multiplex(link) => Ok(link),
            _ => Err("the kit has no link".into()),
        }
    }

    /// The connection on which tickets are sent.
    pub(super) fn control(&self) -> Verdict<&Peer> {
        match &self.kind {
            Kind::Event(control) => Ok(control),
            _ => Err("the kit has no control connection".into()),
        }
    }
}
