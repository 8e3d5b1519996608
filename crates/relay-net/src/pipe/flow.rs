//! One direction of a pipe.
//!
//! ```text
//!            taken in part               end-of-file
//! Reading ------------------> Holding   (Reading) ---------> Ended
//!         <------------------            passed on
//!             all taken
//! ```
//!
//! Small reads are copied. After a large one the next is spliced, as long as they stay large, and `Holding` then
//! is `Piped`: what was not taken waits in the kernel's pipe. Nothing is spliced to or from TLS, and nothing read for a
//! side while ciphertext waits there.

use super::Refuses;
use crate::socket::Socket;
use crate::splice::{BULK, KernelPipe};
use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one read takes at most.
const BUFFER: usize = 64 * 1024;
/// What one turn moves at most before the other direction and other tasks have theirs.
const TURN: usize = 512 * 1024;

thread_local! {
    /// Where bytes are between a read and the write right after it: nothing stays here.
    static PASSING: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// Moves bytes one way. Never waits: the pipe waits for what [`reads`](Self::reads) and
/// [`holds`](Self::holds) ask for.
#[derive(Debug)]
pub(super) struct Flow<'a> {
    state: State,
    /// The last read was so large that the next is to be spliced.
    bulk: bool,
    /// From how many bytes at once on it is.
    splice_from: usize,
    /// Asked about the first read, which is never spliced unless for tests.
    refuses: Option<Refuses>,
    moved: &'a AtomicU64,
}

/// How bytes are moved.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As suits what the traffic does.
    Suited,
    /// Always copied.
    Copied,
    /// Always spliced, where the system can.
    Spliced,
}

#[derive(Debug)]
enum State {
    Reading,
    /// Read but not taken by the other side yet; nothing more is read until it is.
    Holding {
        bytes: Vec<u8>,
        taken: usize,
    },
    /// The same, in a pipe of the kernel.
    Piped(KernelPipe),
    /// The end-of-file was passed on.
    Ended,
}

/// What a turn came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Bytes that the receiving side took.
    pub(super) moved: usize,
    /// It ended for the sake of others: another can be had at once.
    pub(super) more: bool,
}

/// Which socket failed, or that the sender may not begin as it did.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    From(io::ErrorKind),
    To(io::ErrorKind),
    Refused,
}

/// What came of one attempt to move bytes.
enum Step {
    Moved(usize),
    EndOfFile,
    /// One of the sockets has to become ready first; so many bytes moved before.
    Wait(usize),
}

impl<'a> Flow<'a> {
    /// `early` goes first; `moved` counts what the receiving side takes.
    pub(super) fn new(early: Vec<u8>, manner: Manner, moved: &'a AtomicU64) -> Self {
        let state = if early.is_empty() { State::Reading } else { State::Holding { bytes: early, taken: 0 } };
        let splice_from = match manner {
            Manner::Suited => BULK,
            Manner::Copied => usize::MAX,
            Manner::Spliced => 0,
        };
        Self { state, bulk: manner == Manner::Spliced, splice_from, refuses: None, moved }
    }

    /// The same, which has the sender's beginning looked at.
    pub(super) fn refusing(self, refuses: Option<Refuses>) -> Self {
        Self { refuses, ..self }
    }

    /// Waits for bytes or the end-of-file of the sending side, to pass on to `to`.
    pub(super) fn reads(&self, to: &Socket) -> bool {
        matches!(self.state, State::Reading) && !to.is_unflushed()
    }

    /// Waits for the receiving side to take bytes.
    pub(super) fn holds(&self) -> bool {
        matches!(self.state, State::Holding { .. } | State::Piped(_))
    }

    /// Everything was passed on, the end-of-file included.
    pub(super) fn ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Moves what can be moved at once, and passes the end-of-file on when it comes to it. With an `allowance` of 0
    /// nothing is read; beyond that, no more than so many bytes.
    pub(super) fn advance(&mut self, from: &Socket, to: &Socket, allowance: usize) -> Result<Turn, Fault> {
        to.flush().map_err(|error| Fault::To(error.kind()))?;
        let mut turn = Turn { moved: 0, more: false };
        while !self.ended() {
            match self.step(from, to, allowance.saturating_sub(turn.moved))? {
                Step::Moved(bytes) => turn.moved += bytes,
                Step::Wait(bytes) => {
                    turn.moved += bytes;
                    break;
                }
                Step::EndOfFile => {
                    to.shutdown_write().map_err(|error| Fault::To(error.kind()))?;
                    self.state = State::Ended;
                }
            }
            if turn.moved >= TURN.min(allowance) {
                turn.more = true;
                break;
            }
        }
        Ok(turn)
    }

    /// Passes on what an aborted sender left behind, as far as the receiver takes it at once; never an
    /// end-of-file.
    pub(super) fn drain(&mut self, from: &Socket, to: &Socket) -> Turn {
        let mut turn = Turn { moved: 0, more: true };
        while turn.more && turn.moved < TURN {
            match self.step(from, to, usize::MAX) {
                Ok(Step::Moved(bytes)) => turn.moved += bytes,
                Ok(Step::Wait(bytes)) => turn = Turn { moved: turn.moved + bytes, more: false },
                Ok(Step::EndOfFile) | Err(_) => turn.more = false,
            }
        }
        turn
    }

    /// One read of at most `most` bytes and the write of what it read, or a write of what is held.
    fn step(&mut self, from: &Socket, to: &Socket, most: usize) -> Result<Step, Fault> {
        if self.bulk
            && most >= BULK
            && self.reads(to)
            && let Some(step) = self.splice(from, to, most)?
        {
            return Ok(step);
        }
        match &mut self.state {
            State::Ended => Ok(Step::EndOfFile),
            State::Piped(pipe) => {
                let written = drain(pipe, to, self.moved)?;
                if pipe.held() > 0 {
                    return Ok(Step::Wait(written));
                }
                self.state = State::Reading;
                Ok(Step::Moved(written))
            }
            State::Holding { bytes, taken } => {
                let written = write(to, &bytes[*taken..], self.moved)?;
                *taken += written;
                if *taken < bytes.len() {
                    return Ok(Step::Wait(written));
                }
                self.state = State::Reading;
                Ok(Step::Moved(written))
            }
            State::Reading if to.is_unflushed() || most == 0 => Ok(Step::Wait(0)),
            State::Reading => PASSING.with_borrow_mut(|buffer| {
                let bytes = match from.try_read(&mut buffer[..BUFFER.min(most)]) {
                    Ok(0) => return Ok(Step::EndOfFile),
                    Ok(read) => &buffer[..read],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Wait(0)),
                    Err(error) => return Err(Fault::From(error.kind())),
                };
                if self.refuses.take().is_some_and(|refuses| refuses(bytes)) {
                    return Err(Fault::Refused);
                }
                self.bulk = bytes.len() >= self.splice_from;
                let written = write(to, bytes, self.moved)?;
                if written < bytes.len() {
                    self.state = State::Holding { bytes: bytes[written..].to_vec(), taken: 0 };
                    return Ok(Step::Wait(written));
                }
                Ok(Step::Moved(written))
            }),
        }
    }

    /// A step past our memory. `None` where that cannot be, or where a read has to say why nothing came.
    fn splice(&mut self, from: &Socket, to: &Socket, most: usize) -> Result<Option<Step>, Fault> {
        let (Some(from), Some(_)) = (from.bare_tcp(), to.bare_tcp()) else { return Ok(None) };
        let Some(mut pipe) = KernelPipe::get() else { return Ok(None) };
        match pipe.fill(from, TURN.min(most)) {
            Ok(0) => return Ok(Some(Step::EndOfFile)),
            Ok(moved) => self.bulk = moved >= self.splice_from,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(Fault::From(error.kind())),
        }
        let written = drain(&mut pipe, to, self.moved)?;
        if pipe.held() > 0 {
            self.state = State::Piped(pipe);
            return Ok(Some(Step::Wait(written)));
        }
        Ok(Some(Step::Moved(written)))
    }
}

/// Moves what the pipe holds to `to`, until that takes no more; returns and counts what it took.
fn drain(pipe: &mut KernelPipe, to: &Socket, moved: &AtomicU64) -> Result<usize, Fault> {
    // Only what goes to a TCP socket is put into a pipe.
    let Some(stream) = to.bare_tcp() else { return Err(Fault::To(io::ErrorKind::Unsupported)) };
    let written = pipe.drain(stream).map_err(|error| Fault::To(error.kind()))?;
    moved.fetch_add(written as u64, Ordering::Relaxed);
    Ok(written)
}

/// Writes until `to` takes no more; returns and counts what it took.
fn write(to: &Socket, bytes: &[u8], moved: &AtomicU64) -> Result<usize, Fault> {
    let mut written = 0;
    while written < bytes.len() {
        match to.try_write(&bytes[written..]) {
            Ok(taken) => {
                written += taken;
                moved.fetch_add(taken as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(Fault::To(error.kind())),
        }
    }
    Ok(written)
}
