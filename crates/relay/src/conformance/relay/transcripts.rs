//! What docs/PROTOCOL.md shows is what happens: its transcripts, played from the client's side.

use relay_proto::yamux::{Flags, Kind};

use super::Relay;
use super::extensions::free_port;
use crate::conformance::peer::{End, Peer};
use crate::conformance::session::Session;
use crate::conformance::transcript::{self, Step, What, Words};
use crate::conformance::{Seen, Verdict};

/// The proofs of the transcripts, over TLS and in plain text.
const WRITTEN_PROOFS: [&str; 2] =
    ["7q5Z0qOFtaRlIcYzeBCvpU6e3oxiB8vpWOzxnbY3t2Y", "7rxcBvGNZF-S-_hoIwlydupbDUFTivceqAV0R9p3ZTM"];

/// The seal of the transcripts, with the count 1.
const WRITTEN_SEAL: &str = "cDsvKxjJl7GDPHjcQ7_x5ox1QhgTSz8HKOBC7zj6p4M";

pub(super) async fn multiplex(relay: &Relay) -> Verdict {
    play(relay, transcript::MULTIPLEX, 0, Words::default()).await
}

pub(super) async fn pool(relay: &Relay) -> Verdict {
    play(relay, transcript::POOL, 0, Words::default()).await
}

pub(super) async fn event(relay: &Relay) -> Verdict {
    play(relay, transcript::EVENT, 0, Words::default()).await
}

pub(super) async fn pool_port(relay: &Relay) -> Verdict {
    play(relay, transcript::POOL_PORT, 0, demanding(relay).await?).await
}

pub(super) async fn unsupported(relay: &Relay) -> Verdict {
    play(relay, transcript::ERRORS, 0, Words::default()).await
}

pub(super) async fn stranger(relay: &Relay) -> Verdict {
    play(relay, transcript::ERRORS, 1, Words::default()).await
}

pub(super) async fn wrong_proof(relay: &Relay) -> Verdict {
    play(relay, transcript::ERRORS, 2, Words::default()).await
}

pub(super) async fn forbidden_port(relay: &Relay) -> Verdict {
    let mut words = Words::default();
    // No client may have that one.
    words.bind("22", relay.at.port().to_string());
    play(relay, transcript::ERRORS, 3, words).await
}

pub(super) async fn identity(relay: &Relay) -> Verdict {
    play(relay, transcript::IDENTITY, 0, demanding(relay).await?).await
}

pub(super) async fn event_identity(relay: &Relay) -> Verdict {
    play(relay, transcript::EVENT_IDENTITY, 0, Words::default()).await
}

pub(super) async fn event_sealed(relay: &Relay) -> Verdict {
    let relay = relay.in_plain_text();
    play(&relay, transcript::EVENT_SEALED, 0, Words::default()).await
}

/// For the port that transcripts demand one that can be had.
async fn demanding(relay: &Relay) -> Verdict<Words> {
    let mut words = Words::default();
    words.bind("16379", free_port(relay).await?.to_string());
    Ok(words)
}

/// Plays one conversation of a transcript. What asks for a tunnel without proving an identity is played behind the
/// proof, if there is an invite.
async fn play(relay: &Relay, text: &str, conversation: usize, mut words: Words) -> Verdict {
    let steps = transcript::conversations(text).nth(conversation).unwrap_or_default();
    let says =
        |wanted: &str| steps.iter().any(|step| matches!(step.what, What::Client(line) if line.starts_with(wanted)));
    let is_refused = steps.iter().any(|step| matches!(step.what, What::Relay(line) if line.starts_with("error ")));
    let enters = relay.identity.is_some() && !says("auth ") && !is_refused;
    let greeted = usize::from(enters && says("relay/1")) * 2;
    let first = if enters { relay.entered("the client").await? } else { relay.dial("the client").await? };
    if let Some((name, _)) = &relay.identity {
        words.bind("laptop", name.to_string());
    }
    let first = Session::new(first);
    let mut play = Play { relay, words, first, carries: Carries::Lines, nonce: None, second: None, user: None };
    for step in &steps[greeted..] {
        play.step(*step).await?;
    }
    Ok(())
}

/// A transcript under way.
struct Play<'a> {
    relay: &'a Relay,
    words: Words,
    /// The first connection, which its lines may make a link, and what it carries at the time.
    first: Session,
    carries: Carries,
    /// What the relay asked for a proof with.
    nonce: Option<String>,
    second: Option<Peer>,
    user: Option<Peer>,
}

enum Carries {
    Lines,
    Frames,
    /// A member's bytes.
    Bytes,
}

impl Play<'_> {
    async fn step(&mut self, step: Step<'_>) -> Verdict {
        match (step.what, step.connection) {
            (What::Remark(remark), _) => self.remark(remark).await,
            (What::Client(line), 0) => self.says(line).await,
            (What::Relay(line), 0) => self.hears(line).await,
            (What::Client(line), _) => {
                if self.second.is_none() {
                    self.second = Some(self.relay.dial("the second connection").await?);
                }
                second(&mut self.second)?.send(self.words.line(line) + "\n").await
            }
            (What::Relay(line), _) => {
                let heard = second(&mut self.second)?.line().await?;
                self.words.take(line, &heard)
            }
            (What::Piped, _) => {
                let (user, service) = (user(&mut self.user)?, second(&mut self.second)?);
                user.send("question").await?;
                service.expect("question").await?;
                service.send("answer").await?;
                user.expect("answer").await
            }
        }
    }

    async fn remark(&mut self, remark: &str) -> Verdict {
        if remark.starts_with("(yamux") {
            self.carries = Carries::Frames;
        } else if let Some(arrival) = remark.strip_prefix("a user connects to port ") {
            let (port, sends) = arrival.split_once(" and sends ").unwrap_or((arrival, ""));
            self.arrives(port).await?;
            if !sends.is_empty() {
                user(&mut self.user)?.send(sends.trim_matches('"')).await?;
                self.carries = Carries::Bytes;
            }
        } else if remark == "the user closes" {
            user(&mut self.user)?.finish().await?;
            return self.first.peer.ends(End::Clean).await;
        } else if remark == "(closes)" {
            return self.first.peer.ends(End::Clean).await;
        } else {
            return Err(format!("the kit does not know how to play {remark:?}").into());
        }
        Ok(())
    }

    async fn arrives(&mut self, port: &str) -> Verdict {
        let port = self.words.actual(port);
        let port = port.parse().map_err(|_| Seen::from(format!("{port:?} instead of a port")))?;
        self.user = Some(self.relay.user(port).await?);
        Ok(())
    }

    async fn says(&mut self, line: &str) -> Verdict {
        match self.carries {
            Carries::Lines => self.first.peer.send(self.words.line(line) + "\n").await,
            Carries::Bytes => {
                self.first.peer.send(line).await?;
                user(&mut self.user)?.expect(line).await
            }
            Carries::Frames => {
                let (header, payload) = transcript::frame(line)?;
                let user = user(&mut self.user)?;
                if header.kind == Kind::Data {
                    self.first.data(header.stream, payload).await?;
                    return user.expect(payload).await;
                }
                self.first.send(header.kind, header.flags, header.stream, 0).await?;
                if header.flags.has(Flags::FIN) { user.ends(End::Clean).await } else { Ok(()) }
            }
        }
    }

    async fn hears(&mut self, line: &str) -> Verdict {
        let peer = &mut self.first.peer;
        match self.carries {
            Carries::Frames => self.hears_frame(line).await,
            Carries::Bytes => peer.expect(line).await,
            Carries::Lines => {
                let heard = peer.line().await?;
                self.words.take(line, &heard).map_err(|seen| peer.seen(seen))?;
                if transcript::is_nonce(line) {
                    let proof = self.relay.proof(peer, &heard)?;
                    for written in WRITTEN_PROOFS {
                        self.words.bind(written, &proof);
                    }
                    self.nonce = Some(heard);
                } else if let Some(nonce) = self.nonce.as_ref().filter(|_| transcript::is_id(line)) {
                    self.words.bind(WRITTEN_SEAL, self.relay.seal(nonce, &heard, 1)?);
                }
                Ok(())
            }
        }
    }

    async fn hears_frame(&mut self, line: &str) -> Verdict {
        let (header, payload) = transcript::frame(line)?;
        if header.flags.has(Flags::SYN) {
            let (_, port) = line.rsplit_once(' ').unwrap_or_default();
            self.arrives(port).await?;
        }
        let (session, user) = (&mut self.first, user(&mut self.user)?);
        if header.kind == Kind::Data {
            user.send(payload).await?;
            return session.expect(header.stream, payload).await;
        }
        if header.flags.has(Flags::FIN) {
            user.finish().await?;
        }
        session.flag(header.stream, header.flags).await
    }
}

fn second(connection: &mut Option<Peer>) -> Verdict<&mut Peer> {
    connection.as_mut().ok_or_else(|| "the transcript has no second connection yet".into())
}

fn user(user: &mut Option<Peer>) -> Verdict<&mut Peer> {
    user.as_mut().ok_or_else(|| "the transcript has no user yet".into())
}
