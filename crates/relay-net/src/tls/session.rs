//! The state of a TLS session: rustls, and the bytes that wait on either side of it.
//!
//! Bytes on their way are in the thread's buffers. A session holds some only while they wait: the beginning of a record
//! whose rest has yet to come, plaintext that its reader had no room for, ciphertext that the kernel did not take.

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;

use rustls::client::UnbufferedClientConnection;
use rustls::server::{Acceptor, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{CommonState, Error, InvalidMessage};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::TlsError;
use crate::socket::try_read_out;

/// The most plaintext that is encrypted at once, in bytes: four records. What the kernel does not take of it waits, so
/// that is also the most that does, but for what records add: 22 bytes each in TLS 1.3.
pub(super) const WRITE_MOST: usize = 64 * 1024;
/// The most ciphertext that is decrypted at once, in bytes. It is also what a handshake message may take, which rustls
/// limits to 64 KiB, with the heads of the records that it is cut into.
pub(super) const READ_MOST: usize = 128 * 1024;
/// The largest record (RFC 5246, 6.2.3), in bytes.
const RECORD_MOST: usize = 5 + 16 * 1024 + 2048;

thread_local! {
    /// One for each thread, not one for each session: what remains in it is copied.
    static CIPHERTEXT_IN: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_MOST]);
    static CIPHERTEXT_OUT: RefCell<Vec<u8>> = RefCell::new(vec![0; WRITE_MOST + 1024]);
}

pub(super) enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

impl Side {
    pub(super) fn common(&self) -> &CommonState {
        match self {
            Self::Client(client) => client,
            Self::Server(server) => server,
        }
    }
}

/// How reading ended.
#[derive(Clone, Debug)]
enum End {
    /// By the peer's `close_notify`.
    Closed,
    Failed(TlsError),
}

pub(super) struct Session {
    pub(super) side: Side,
    /// Reads the server's name from the client's hello, which rustls tells only here.
    hello: Option<Box<Acceptor>>,
    pub(super) server_name: Option<String>,
    /// The beginning of a record, or of a handshake message.
    incoming: Vec<u8>,
    /// Decrypted, and not read: of this, `plain_read` bytes have been.
    plain: Vec<u8>,
    plain_read: usize,
    end: Option<End>,
    /// Encrypted, and not sent: of this, `outgoing_sent` bytes have been.
    outgoing: Vec<u8>,
    outgoing_sent: usize,
    /// `close_notify` is sent, or waits to be.
    finished: bool,
    /// The end-of-file of TCP is sent.
    shut: bool,
    /// Why nothing can be sent any more.
    broken: Option<io::ErrorKind>,
}

/// What is to be sent.
enum Say<'a> {
    Nothing,
    Bytes(&'a [u8]),
    Close,
}

/// Where plaintext goes: to the reader, and what it has no room for is kept.
struct Plaintext<'a> {
    buffer: &'a mut [u8],
    filled: usize,
    kept: Vec<u8>,
}

impl Plaintext<'_> {
    fn push(&mut self, bytes: &[u8]) {
        let room = &mut self.buffer[self.filled..];
        let (fits, rest) = bytes.split_at(bytes.len().min(room.len()));
        room[..fits.len()].copy_from_slice(fits);
        self.filled += fits.len();
        self.kept.extend_from_slice(rest);
    }
}

/// Where ciphertext goes. The buffer keeps its length, so that none of it has to be cleared again.
struct Ciphertext<'a> {
    buffer: &'a mut Vec<u8>,
    filled: usize,
}

impl Ciphertext<'_> {
    /// Appends what `write` puts into the buffer; it says how much room it needs if that is not enough.
    fn append(&mut self, mut write: impl FnMut(&mut [u8]) -> Result<usize, Room>) -> Result<(), Error> {
        loop {
            match write(&mut self.buffer[self.filled..]) {
                Ok(written) => {
                    self.filled += written;
                    return Ok(());
                }
                Err(Room::Needs(room)) => self.buffer.resize(self.filled + room, 0),
                Err(Room::Never) => return Err(Error::EncryptError),
            }
        }
    }
}

enum Room {
    Needs(usize),
    Never,
}

impl From<EncodeError> for Room {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(size) => Self::Needs(size.required_size),
            EncodeError::AlreadyEncoded => Self::Never,
        }
    }
}

impl From<EncryptError> for Room {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(size) => Self::Needs(size.required_size),
            EncryptError::EncryptExhausted => Self::Never,
        }
    }
}

/// What is to be done after a step of rustls.
#[derive(PartialEq, Eq)]
enum Next {
    Step,
    /// The peer has sent `close_notify`.
    Closed,
    /// More ciphertext has to come first.
    Wait,
}

/// Does what rustls asks for. Gives how many bytes of its input are done with.
fn step<Data>(
    UnbufferedStatus { mut discard, state, .. }: UnbufferedStatus<'_, '_, Data>,
    say: &mut Say<'_>,
    plain: &mut Plaintext<'_>,
    out: &mut Ciphertext<'_>,
) -> (usize, Result<Next, Error>) {
    let next = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain.push(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Next::Step),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            out.append(|buffer| data.encode(buffer).map_err(Room::from)).map(|()| Next::Step)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It is ours to send from here on.
            data.done();
            Ok(Next::Step)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Next::Closed),
        Ok(ConnectionState::ReadEarlyData(_)) => Err(Error::General("early data is allowed, but not read".into())),
        Ok(ConnectionState::WriteTraffic(mut traffic)) => match std::mem::replace(say, Say::Nothing) {
            Say::Nothing => Ok(()),
            Say::Bytes(bytes) => out.append(|buffer| traffic.encrypt(bytes, buffer).map_err(Room::from)),
            Say::Close => out.append(|buffer| traffic.queue_close_notify(buffer).map_err(Room::from)),
        }
        .map(|()| Next::Wait),
        Ok(_) => Ok(Next::Wait),
        Err(error) => Err(error),
    };
    (discard, next)
}

impl Session {
    pub(super) fn new(side: Side) -> Self {
        let hello = matches!(side, Side::Server(_)).then(Box::default);
        Self {
            side,
            hello,
            server_name: None,
            incoming: Vec::new(),
            plain: Vec::new(),
            plain_read: 0,
            end: None,
            outgoing: Vec::new(),
            outgoing_sent: 0,
            finished: false,
            shut: false,
            broken: None,
        }
    }

    /// Begins the handshake; `early` was read from the connection already.
    pub(super) fn begin(&mut self, tcp: &TcpStream, mut early: Vec<u8>) {
        self.note_hello(&early);
        self.process(tcp, &mut early, Say::Nothing, &mut []);
    }

    /// Why the session failed, if it did.
    pub(super) fn failure(&self) -> Option<TlsError> {
        match &self.end {
            Some(End::Failed(error)) => Some(error.clone()),
            _ => None,
        }
    }

    /// What the session keeps for bytes that wait, in bytes.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.incoming.capacity() + self.plain.capacity() + self.outgoing.capacity()
    }

    /// Whether a read gives something, or says how reading ended, without the connection's help.
    pub(super) fn has_news(&self) -> bool {
        !self.plain.is_empty() || self.end.is_some()
    }

    /// Whether the peer has sent `close_notify`, or the session failed.
    pub(super) fn is_read_to_the_end(&self) -> bool {
        self.end.is_some()
    }

    /// Ciphertext that the kernel has yet to take, in bytes; an end-of-file that stands behind counts as one.
    pub(super) fn unflushed(&self) -> usize {
        self.outgoing.len() - self.outgoing_sent + usize::from(self.finished && !self.shut && self.broken.is_none())
    }

    pub(super) fn read(&mut self, tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.plain.is_empty() && self.end.is_none() {
            let read = self.receive(tcp, buffer)?;
            if read > 0 {
                return Ok(read);
            }
        }
        if !self.plain.is_empty() {
            let waits = &self.plain[self.plain_read..];
            let read = waits.len().min(buffer.len());
            buffer[..read].copy_from_slice(&waits[..read]);
            self.plain_read += read;
            if self.plain_read == self.plain.len() {
                (self.plain, self.plain_read) = (Vec::new(), 0);
            }
            return Ok(read);
        }
        match &self.end {
            Some(End::Closed) => Ok(0),
            Some(End::Failed(error)) => Err(error.clone().into()),
            // What came was not the end of a record, or nothing for the reader.
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Reads from the connection once and decrypts what came, as far as it goes into `buffer`: gives how much that is.
    /// The rest is kept, at most what two records hold.
    pub(super) fn receive(&mut self, tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        CIPHERTEXT_IN.with_borrow_mut(|input| {
            let kept = self.incoming.len();
            let most = match self.hello {
                // A stranger's first word is one record: real ones have 2 KiB, and a thousand may be begun at a time.
                Some(_) => RECORD_MOST,
                // No more than the reader has room for, except to complete a record.
                None => buffer.len().max(kept + RECORD_MOST).min(input.len()),
            };
            if kept == most {
                self.fail(TlsError::Peer(InvalidMessage::HandshakePayloadTooLarge.into()));
                return Ok(0);
            }
            let read = match try_read_out(tcp, &mut input[kept..most]) {
                Ok(0) => {
                    self.fail(TlsError::Closed);
                    return Ok(0);
                }
                Ok(read) => read,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Err(error) => {
                    self.fail(error.into());
                    return Ok(0);
                }
            };
            self.note_hello(&input[kept..kept + read]);
            input[..kept].copy_from_slice(&self.incoming);
            Ok(self.process(tcp, &mut input[..kept + read], Say::Nothing, buffer))
        })
    }

    /// Encrypts what may wait, and sends what the kernel takes. `WouldBlock` while ciphertext of before waits.
    pub(super) fn write(&mut self, tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        if let Some(error) = self.failure() {
            return Err(error.into());
        }
        if self.finished {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if !self.flush(tcp)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = &bytes[..bytes.len().min(WRITE_MOST)];
        self.say(tcp, Say::Bytes(bytes))?;
        Ok(bytes.len())
    }

    /// Sends `close_notify`, and then TCP's end-of-file, behind all that was written.
    pub(super) fn finish(&mut self, tcp: &TcpStream) -> io::Result<()> {
        if self.finished {
            return Ok(());
        }
        if let Some(error) = self.failure() {
            return Err(error.into());
        }
        self.say(tcp, Say::Close)?;
        self.finished = true;
        self.flush(tcp).map(drop)
    }

    /// Sends what the kernel takes of what waits. Gives whether nothing is left.
    pub(super) fn flush(&mut self, tcp: &TcpStream) -> io::Result<bool> {
        if let Some(kind) = self.broken {
            return Err(kind.into());
        }
        while self.outgoing_sent < self.outgoing.len() {
            match tcp.try_write(&self.outgoing[self.outgoing_sent..]) {
                Ok(sent) => self.outgoing_sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.break_off(&error)),
            }
        }
        (self.outgoing, self.outgoing_sent) = (Vec::new(), 0);
        if self.finished && !self.shut {
            self.shut = true;
            SockRef::from(tcp).shutdown(Shutdown::Write).map_err(|error| self.break_off(&error))?;
        }
        Ok(true)
    }

    fn break_off(&mut self, error: &io::Error) -> io::Error {
        self.broken = Some(error.kind());
        (self.outgoing, self.outgoing_sent) = (Vec::new(), 0);
        error.kind().into()
    }

    fn fail(&mut self, error: TlsError) {
        self.incoming = Vec::new();
        self.end = Some(End::Failed(error));
    }

    fn say(&mut self, tcp: &TcpStream, say: Say<'_>) -> io::Result<()> {
        // No whole record stands in it; but rustls knows where in it a handshake message begins.
        let mut incoming = std::mem::take(&mut self.incoming);
        self.process(tcp, &mut incoming, say, &mut []);
        match (self.failure(), self.broken) {
            (Some(error), _) => Err(error.into()),
            (None, Some(kind)) => Err(kind.into()),
            (None, None) => Ok(()),
        }
    }

    /// Lets rustls work on `input`, all that came and is not done with, and sends what it has to say. Gives how much
    /// plaintext went into `buffer`.
    fn process(&mut self, tcp: &TcpStream, input: &mut [u8], say: Say<'_>, buffer: &mut [u8]) -> usize {
        CIPHERTEXT_OUT.with_borrow_mut(|out| {
            let mut out = Ciphertext { buffer: out, filled: 0 };
            let mut plain = Plaintext { buffer, filled: 0, kept: std::mem::take(&mut self.plain) };
            let result = self.run(input, say, &mut plain, &mut out);
            self.plain = plain.kept;
            self.send(tcp, &out.buffer[..out.filled]);
            match result {
                Ok(_) if self.end.is_some() => self.incoming = Vec::new(),
                Ok(done) if done == input.len() => self.incoming = Vec::new(),
                Ok(done) => {
                    self.incoming.clear();
                    self.incoming.extend_from_slice(&input[done..]);
                }
                Err(error) => self.fail(error.into()),
            }
            plain.filled
        })
    }

    /// Gives how many bytes of `input` are done with.
    fn run(
        &mut self,
        input: &mut [u8],
        mut say: Say<'_>,
        plain: &mut Plaintext<'_>,
        out: &mut Ciphertext<'_>,
    ) -> Result<usize, Error> {
        let mut done = 0;
        let mut failed = None;
        loop {
            let rest = &mut input[done..];
            let (discard, next) = match &mut self.side {
                Side::Client(client) => step(client.process_tls_records(rest), &mut say, plain, out),
                Side::Server(server) => step(server.process_tls_records(rest), &mut say, plain, out),
            };
            done += discard;
            match next {
                Ok(Next::Step) => {}
                Ok(Next::Closed) => self.end = Some(End::Closed),
                Ok(Next::Wait) if matches!(say, Say::Nothing) => return Ok(done),
                Ok(Next::Wait) => return Err(Error::HandshakeNotComplete),
                Err(error) => failed = failed.or(Some(error)),
            }
            // An alert that says what was wrong comes out first.
            if let Some(error) = failed.take_if(|_| !self.side.common().wants_write()) {
                return Err(error);
            }
        }
    }

    /// Sends what the kernel takes; the rest waits. Nothing stands before it but what rustls itself has to say.
    fn send(&mut self, tcp: &TcpStream, mut bytes: &[u8]) {
        if self.shut || self.broken.is_some() {
            return;
        }
        while self.outgoing.is_empty() && !bytes.is_empty() {
            match tcp.try_write(bytes) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.break_off(&error);
                    return;
                }
            }
        }
        self.outgoing.extend_from_slice(bytes);
    }

    fn note_hello(&mut self, mut bytes: &[u8]) {
        let Some(mut hello) = self.hello.take() else { return };
        while !bytes.is_empty() {
            // What is wrong with it the session itself will say.
            let Ok(1..) = hello.read_tls(&mut bytes) else { return };
            match hello.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    self.server_name = accepted.client_hello().server_name().map(str::to_owned);
                    return;
                }
                Err(_) => return,
            }
        }
        self.hello = Some(hello);
    }
}
