//! The exchange that opens a tunnel.
//!
//! In plain text, while nothing more is wanted, it is that of the original and nothing else: an old relay would end
//! itself on more. Otherwise it begins with `relay/1`, to which an old relay does not answer. If more was wanted and
//! not demanded, it is then asked anew, as the original asks.

use std::fmt::Write;
use std::io;
use std::time::Duration;

use ipnet::IpNet;
use relay_net::socket::Socket;
use relay_net::tls::TlsStream;
use relay_proto::auth::{Binding, Nonce, Proof};
use relay_proto::handshake::{
    AnswerError, AnswerReader, Code, Established, Features, Options, Protocol, Request, Said,
};
use tokio::time::timeout;

use crate::reach::{Reach, next_bytes};
use crate::tls::{Identity, Tls};
use crate::{Demand, Error};

/// How long a relay may take to answer `relay/1` in plain text, before it is taken for an old one, which ignores it.
pub const RELAY_1_WAIT: Duration = Duration::from_secs(2);

/// What a relay is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) protocol: Protocol,
    /// The public port that it must be; any, if none.
    pub(crate) port: Option<u16>,
    /// Where users may come from; anywhere, if there are none.
    pub(crate) allow: Vec<IpNet>,
    /// A word for the service, by which the relay knows it again.
    pub(crate) service: Option<Box<str>>,
    /// Where users are is to be said, if the relay can do that.
    pub(crate) addresses: bool,
    /// The port of the tunnel that stood before.
    pub(crate) had: Option<u16>,
    /// The relay has shown to be an old one.
    pub(crate) is_old: bool,
}

impl Asked {
    /// What a relay must be able to do to be used at all, and its word for that.
    fn demands(&self) -> impl Iterator<Item = (Demand, &'static str)> {
        let allow = (!self.allow.is_empty()).then_some((Demand::Allow, Features::ALLOW));
        allow.into_iter().chain(self.port.map(|_| (Demand::Port, Features::PORT)))
    }

    fn options(&self, features: &Features) -> Options {
        let wish = self.had.filter(|_| self.port.is_none() && features.contains(Features::WISH));
        let service = self.service.clone().filter(|_| features.contains(Features::SERVICE));
        let proxy = self.addresses && features.contains(Features::PROXY);
        Options { port: self.port, wish, service, allow: self.allow.clone(), proxy }
    }
}

/// What a relay has answered.
pub(crate) struct Answered {
    pub(crate) established: Established,
    /// What it sent next.
    pub(crate) early: Vec<u8>,
    /// It says where users are.
    pub(crate) tells: bool,
    /// It can be told that a pool ends.
    pub(crate) ends: bool,
}

/// Asks a relay for a tunnel. `None` if it seems to be an old one, of which too much was wanted, but nothing demanded.
pub(crate) async fn ask(socket: &Socket, reach: &Reach, asked: &Asked) -> Result<Option<Answered>, Error> {
    let identity = reach.tls.as_ref().and_then(Tls::proves);
    let demand = asked.demands().next().map(|(demand, _)| demand);
    let mut exchange = Exchange { socket, reach, asked, answers: AnswerReader::default(), unread: Vec::new() };
    let mut saying = String::new();
    let mut ends = false;
    let options = if reach.tls.is_some() || demand.is_some() || asked.addresses && !asked.is_old {
        let Some(features) = exchange.greet(identity).await? else {
            let too_old = demand.map(|demand| Error::TooOld { relay: reach.relay.clone(), demand });
            return too_old.map_or(Ok(None), Err);
        };
        if let Some((demand, _)) = asked.demands().find(|(_, word)| !features.contains(word)) {
            return Err(Error::TooOld { relay: reach.relay.clone(), demand });
        }
        ends = features.contains(Features::END);
        asked.options(&features)
    } else {
        Options::default()
    };
    if let Some(identity) = identity {
        let nonce = exchange.hear(AnswerReader::nonce).await?;
        say(&mut saying, &Said::Proof(identity.proves(&nonce, socket)));
    }
    let tells = options.proxy;
    say(&mut saying, &Said::Request(Request::new(asked.protocol), options));
    exchange.send(&saying).await;
    if identity.is_some() {
        exchange.hear(AnswerReader::ok).await?;
    }
    let established = exchange.hear(|answers, input| answers.established(asked.protocol, input)).await?;
    Ok(Some(Answered { established, early: exchange.unread, tells, ends }))
}

impl Identity {
    /// Bound to the certificate that the relay showed, so that nobody can pass the proof on to the relay as his own.
    fn proves(&self, nonce: &Nonce, socket: &Socket) -> Proof {
        let certificates = socket.tls().map(TlsStream::peer_certificates).unwrap_or_default();
        let binding = certificates.first().map_or(Binding::None, |leaf| Binding::to_certificate(leaf));
        self.token.prove(&self.name, nonce, &binding)
    }
}

fn say(saying: &mut String, said: &Said) {
    // Writing to a string does not fail.
    let _ = write!(saying, "{said}");
}

/// The lines to and fro.
struct Exchange<'a> {
    socket: &'a Socket,
    reach: &'a Reach,
    asked: &'a Asked,
    answers: AnswerReader,
    /// What has arrived and belongs to the next answer, or is none.
    unread: Vec<u8>,
}

impl Exchange<'_> {
    /// Says that more will come than an old relay understands, and who we are. `None` if it seems to be such: it does not
    /// answer in plain text, and no tunnel has stood there before.
    async fn greet(&mut self, identity: Option<&Identity>) -> Result<Option<Features>, Error> {
        let mut saying = String::new();
        say(&mut saying, &Said::Hello);
        if let Some(identity) = identity {
            say(&mut saying, &Said::Auth(identity.name.clone()));
        }
        self.send(&saying).await;
        if self.reach.tls.is_some() {
            return self.hear(AnswerReader::features).await.map(Some);
        }
        match timeout(RELAY_1_WAIT, self.hear(AnswerReader::features)).await {
            Err(_) | Ok(Err(Error::Unanswered { .. })) if self.asked.had.is_none() => Ok(None),
            Err(_) => Err(Error::Silent { relay: self.reach.relay.clone(), waited: RELAY_1_WAIT }),
            Ok(features) => features.map(Some),
        }
    }

    /// A relay that has closed may have said why before: that shows when the answer is read, and so does a failure.
    async fn send(&self, saying: &str) {
        let _ = self.socket.write_all(saying.as_bytes()).await;
    }

    async fn hear<T>(
        &mut self,
        mut take: impl FnMut(&mut AnswerReader, &mut &[u8]) -> Result<Option<T>, AnswerError>,
    ) -> Result<T, Error> {
        loop {
            let mut input = &self.unread[..];
            let answer = take(&mut self.answers, &mut input).map_err(|error| self.no(error))?;
            self.unread = input.to_vec();
            if let Some(answer) = answer {
                return Ok(answer);
            }
            let bytes = next_bytes(self.socket).await.map_err(|error| self.failed(error))?;
            if bytes.is_empty() {
                return Err(self.failed(io::ErrorKind::UnexpectedEof.into()));
            }
            self.unread.extend_from_slice(&bytes);
        }
    }

    fn no(&self, error: AnswerError) -> Error {
        let relay = self.reach.relay.clone();
        match error {
            AnswerError::Refused(refusal) => match (refusal.code(), self.asked) {
                (Code::PortTaken, &Asked { port: Some(port), had: None, .. }) => Error::PortTaken { relay, port },
                (code, _) => Error::Refused { relay, code: code.clone(), words: refusal.words().into() },
            },
            AnswerError::Misbehaved(source) => Error::Misbehaved { relay, source },
        }
    }

    /// A relay that closes with our request unread resets the connection: still a close without an answer.
    fn failed(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
                if self.reach.tls.is_none() =>
            {
                Error::Unanswered { relay: self.reach.relay.clone() }
            }
            _ => self.reach.failed(error),
        }
    }
}
