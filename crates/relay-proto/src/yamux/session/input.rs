//! What the link brought: bytes in, events out.

use std::time::Instant;

use super::super::frame::{Flags, HEADER_LEN, Header, Kind, StreamId};
use super::super::stream::{INITIAL_WINDOW, Opening, Stream};
use super::{GO_AWAY_NORMAL, MAX_PENDING_PONGS, MAX_REFUSED_SYNS, Received, Role, Session, SessionError, StreamEnd};

/// Where in a frame the next byte of input belongs.
#[derive(Debug)]
pub(super) enum Input {
    Header {
        bytes: [u8; HEADER_LEN],
        have: usize,
    },
    /// The header is read; what it says happens step by step, so that each step can be given to the driver.
    Frame {
        header: Header,
        id: StreamId,
        step: Step,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Syn,
    Ack,
    Body,
    Payload { left: u32, discard: bool },
    End,
}

impl Input {
    pub(super) const START: Self = Self::Header { bytes: [0; HEADER_LEN], have: 0 };
}

impl Session {
    /// Takes what the link brought, up to the next thing that concerns the driver; call it again until it
    /// gives `None`, which it does once `input` is empty.
    ///
    /// # Errors
    /// The session is over: write what [`poll_transmit`](Self::poll_transmit) still gives (a `GoAway`, if the
    /// peer is to be told), close, and reset all users.
    pub fn receive<'a>(&mut self, input: &mut &'a [u8], now: Instant) -> Result<Option<Received<'a>>, SessionError> {
        if !input.is_empty() {
            self.last_received = now;
        }
        let received = self.receive_step(input, now);
        if let Err(error) = &received {
            self.end(!matches!(error, SessionError::GoneAway(_)));
        }
        received
    }

    /// The stream and the length of the payload that comes next on the link, when a frame has been begun.
    /// A driver that moves these bytes past [`receive`](Self::receive) says so with
    /// [`received_elsewhere`](Self::received_elsewhere).
    pub fn payload_ahead(&self) -> Option<(StreamId, u32)> {
        match self.input {
            Input::Frame { id, step: Step::Payload { left, discard: false }, .. } if self.streams.contains_key(&id) => {
                Some((id, left))
            }
            _ => None,
        }
    }

    /// `bytes` of what [`payload_ahead`](Self::payload_ahead) announced arrived without passing through
    /// [`receive`](Self::receive). More than announced counts as what was announced.
    pub fn received_elsewhere(&mut self, bytes: u32, now: Instant) {
        self.last_received = now;
        if let Input::Frame { step: Step::Payload { left, .. }, .. } = &mut self.input {
            *left = left.saturating_sub(bytes);
        }
    }

    fn receive_step<'a>(&mut self, input: &mut &'a [u8], now: Instant) -> Result<Option<Received<'a>>, SessionError> {
        if self.over {
            *input = &[];
            return Ok(None);
        }
        loop {
            match self.input {
                Input::Header { ref mut bytes, ref mut have } => {
                    let (taken, rest) = input.split_at(input.len().min(HEADER_LEN - *have));
                    bytes[*have..*have + taken.len()].copy_from_slice(taken);
                    *have += taken.len();
                    *input = rest;
                    if *have < HEADER_LEN {
                        return Ok(None);
                    }
                    let header = Header::decode(*bytes)?;
                    self.input = Input::START;
                    if let Some(received) = self.handle_header(header, now)? {
                        return Ok(Some(received));
                    }
                }
                Input::Frame { header, id, step } => {
                    let (next, received) = match step {
                        Step::Syn => self.handle_syn(header, id, now)?,
                        Step::Ack => (Step::Body, self.handle_ack(header, id)),
                        Step::Body => self.handle_body(header, id)?,
                        Step::Payload { left: 0, .. } => (Step::End, None),
                        Step::Payload { left, discard } => {
                            if input.is_empty() {
                                return Ok(None);
                            }
                            let take = u32::try_from(input.len()).map_or(left, |have| have.min(left));
                            let (payload, rest) = input.split_at(take as usize);
                            *input = rest;
                            let step = Step::Payload { left: left - take, discard };
                            let wanted = !discard && self.streams.contains_key(&id);
                            (step, wanted.then_some(Received::Payload(id, payload)))
                        }
                        Step::End => {
                            self.input = Input::START;
                            if let Some(received) = self.handle_end(header, id) {
                                return Ok(Some(received));
                            }
                            continue;
                        }
                    };
                    self.input = Input::Frame { header, id, step: next };
                    if received.is_some() {
                        return Ok(received);
                    }
                }
            }
        }
    }

    fn handle_header(&mut self, header: Header, now: Instant) -> Result<Option<Received<'static>>, SessionError> {
        match header.kind {
            Kind::Data | Kind::WindowUpdate => {
                let id = StreamId::new(header.stream).ok_or(SessionError::StreamZero)?;
                self.input = Input::Frame { header, id, step: Step::Syn };
            }
            // A ping that nobody can answer in time is not worth memory: beyond the bound it is dropped.
            Kind::Ping if header.flags.has(Flags::SYN) => {
                if self.pongs.len() < MAX_PENDING_PONGS {
                    self.pongs.push_back(header.length);
                }
            }
            Kind::Ping => {
                if let Some((_, sent)) = self.ping.sent.take_if(|(value, _)| *value == header.length) {
                    let sample = now.saturating_duration_since(sent);
                    self.ping.round_trip = Some(self.ping.round_trip.map_or(sample, |shortest| shortest.min(sample)));
                    self.ping.measured = Some(now);
                }
            }
            Kind::GoAway if header.length == GO_AWAY_NORMAL => {
                self.may_open = false;
                return Ok(Some(Received::Refusing));
            }
            Kind::GoAway => return Err(SessionError::GoneAway(header.length)),
        }
        Ok(None)
    }

    fn handle_syn(
        &mut self,
        header: Header,
        id: StreamId,
        now: Instant,
    ) -> Result<(Step, Option<Received<'static>>), SessionError> {
        if !header.flags.has(Flags::SYN) {
            return Ok((Step::Ack, None));
        }
        if self.streams.contains_key(&id) {
            return Err(SessionError::DuplicateSyn(id));
        }
        let granted = if header.kind == Kind::WindowUpdate { header.length } else { 0 };
        // Opened and reset at once: it never was.
        if header.flags.has(Flags::RST) {
            return Ok((Self::discard(header, INITIAL_WINDOW, id)?, None));
        }
        let credit = INITIAL_WINDOW.checked_add(granted);
        let takes = self.may_accept && self.living() < self.config.max_streams;
        let (true, Some(send_credit)) = (takes, credit) else {
            if self.role == Role::Relay {
                self.refused_syns += 1;
                if self.refused_syns > MAX_REFUSED_SYNS {
                    return Err(SessionError::UnexpectedSyn);
                }
            }
            self.owe_reset(id)?;
            return Ok((Self::discard(header, INITIAL_WINDOW, id)?, None));
        };
        self.remembered.remove(&id);
        self.streams.insert(id, Stream::new(Opening::Ack, send_credit, now));
        self.want_control(id);
        // The credit is counted; what is left of the frame is its data, or nothing.
        let next = if header.kind == Kind::Data { Step::Body } else { Step::End };
        Ok((next, Some(Received::Opened(id))))
    }

    fn handle_ack(&mut self, header: Header, id: StreamId) -> Option<Received<'static>> {
        let stream = self.streams.get_mut(&id).filter(|_| header.flags.has(Flags::ACK))?;
        let first = std::mem::take(&mut stream.unacknowledged);
        if first {
            self.unacknowledged -= 1;
        }
        first.then_some(Received::Acknowledged(id))
    }

    fn handle_body(&mut self, header: Header, id: StreamId) -> Result<(Step, Option<Received<'static>>), SessionError> {
        let Some(stream) = self.streams.get_mut(&id) else {
            let allowed = self.remembered.get_mut(&id);
            // One that was forgotten may have had the largest window.
            let most = allowed.as_deref().copied().unwrap_or(self.config.max_window.max(INITIAL_WINDOW));
            let step = Self::discard(header, most, id)?;
            if let (Some(allowed), Kind::Data) = (allowed, header.kind) {
                *allowed -= header.length;
            }
            return Ok((step, None));
        };
        match header.kind {
            Kind::Data if header.length == 0 => Ok((Step::End, None)),
            Kind::Data if stream.peer_finished => {
                let step = Self::discard(header, stream.receive.size, id)?;
                Ok((step, Some(self.break_off(id, StreamEnd::DataAfterFin))))
            }
            Kind::Data => {
                stream.receive.credit =
                    stream.receive.credit.checked_sub(header.length).ok_or(SessionError::WindowOverdrawn(id))?;
                Ok((Step::Payload { left: header.length, discard: false }, None))
            }
            _ => match stream.send_credit.checked_add(header.length) {
                Some(credit) => {
                    stream.send_credit = credit;
                    self.want_turn(id);
                    Ok((Step::End, None))
                }
                None => Ok((Step::End, Some(self.break_off(id, StreamEnd::CreditOverflow)))),
            },
        }
    }

    fn handle_end(&mut self, header: Header, id: StreamId) -> Option<Received<'static>> {
        if header.flags.has(Flags::RST) {
            self.remove(id)?;
            return Some(Received::Ended(id, StreamEnd::PeerReset));
        }
        let stream =
            self.streams.get_mut(&id).filter(|stream| header.flags.has(Flags::FIN) && !stream.peer_finished)?;
        stream.peer_finished = true;
        if std::mem::take(&mut stream.unacknowledged) {
            self.unacknowledged -= 1;
        }
        self.remove_if_gone(id);
        Some(Received::Finished(id))
    }

    /// The step that passes over the payload of a frame, if any, for a stream that may have `most` bytes
    /// on their way.
    fn discard(header: Header, most: u32, id: StreamId) -> Result<Step, SessionError> {
        match header.kind {
            Kind::Data if header.length > most => Err(SessionError::StrayData(id.get())),
            Kind::Data => Ok(Step::Payload { left: header.length, discard: true }),
            _ => Ok(Step::End),
        }
    }
}
