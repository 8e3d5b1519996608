//! What users of a public port do, each with a check of what they get.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::pattern::{Pattern, hex};
use super::{MIB, PATIENCE};

/// Users of the service that is reachable at an address.
#[derive(Copy, Clone)]
pub(crate) struct User {
    at: SocketAddr,
    /// What makes the service an echo.
    echo: &'static [u8],
}

impl User {
    /// The service knows the verbs of `peers/go/service`.
    pub(crate) fn of(at: SocketAddr) -> Self {
        User { at, echo: b"e" }
    }

    /// The service is an echo.
    pub(crate) fn of_echo(at: SocketAddr) -> Self {
        User { at, echo: b"" }
    }

    fn connect(self, first: &[u8]) -> TcpStream {
        let mut socket = TcpStream::connect(self.at).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.write_all(first).unwrap();
        socket
    }

    /// Sends so many bytes and gets them back, both at the same time. Gives the user's address.
    pub(crate) fn echo(self, bytes: usize) -> SocketAddr {
        let mut socket = self.connect(self.echo);
        exchange(&mut socket, 1, bytes);
        socket.local_addr().unwrap()
    }

    /// So many users at once, each of whom is served while all the others are connected.
    pub(crate) fn many(self, users: usize) {
        let sockets: Vec<TcpStream> = (0..users)
            .map(|seed| {
                let mut socket = self.connect(self.echo);
                exchange(&mut socket, seed, 1);
                socket
            })
            .collect();
        let users = (2..).zip(sockets).map(|(seed, mut socket)| {
            let user = move || exchange(&mut socket, seed, 64 * 1024);
            thread::Builder::new().stack_size(512 * 1024).spawn(user).unwrap()
        });
        users.collect::<Vec<_>>().into_iter().for_each(|user| user.join().unwrap());
    }

    /// Sends, ends, and gets the answer that the service gives only at end-of-file.
    pub(crate) fn half_close(self) {
        let pattern = Pattern::new(3);
        let mut socket = self.connect(b"h");
        pattern.write(5 * MIB, &mut socket).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&mut socket).unwrap(), pattern.hash(5 * MIB));
    }

    /// Sends, ends, and gets the last byte and the end of the echo.
    pub(crate) fn half_close_echo(self) {
        let mut socket = self.connect(self.echo);
        exchange(&mut socket, 4, MIB);
        socket.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&mut socket).unwrap(), "");
    }

    /// The service answers and ends before the user does.
    pub(crate) fn service_ends_first(self) {
        let (pattern, bytes) = (Pattern::new(5), 5 * MIB);
        let mut socket = self.connect(b"n");
        socket.write_all(&(bytes as u64).to_be_bytes()).unwrap();
        pattern.write(bytes, &mut socket).unwrap();
        assert_eq!(rest(&mut socket).unwrap(), pattern.hash(bytes));
    }

    /// The service resets.
    pub(crate) fn is_reset(self) {
        assert_eq!(rest(&mut self.connect(b"r")).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    /// The service speaks before the user does.
    pub(crate) fn is_greeted(self, text: &str) {
        let mut greeting = vec![0; text.len()];
        self.connect(b"").read_exact(&mut greeting).unwrap();
        assert_eq!(greeting, text.as_bytes());
    }

    /// Asks a web service, and says from which address.
    pub(crate) fn get(self) -> (SocketAddr, String) {
        let mut socket = self.connect(b"GET / HTTP/1.0\r\n\r\n");
        let reply = rest(&mut socket).unwrap();
        (socket.local_addr().unwrap(), reply.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// Uploads so many bytes to a web service that sends back what it gets, and compares the download.
    pub(crate) fn post(self, seed: usize, bytes: usize) {
        let pattern = Pattern::new(seed);
        let mut socket = self.connect(format!("POST / HTTP/1.0\r\nContent-Length: {bytes}\r\n\r\n").as_bytes());
        let mut writer = socket.try_clone().unwrap();
        let sender = thread::spawn(move || pattern.write(bytes, &mut writer).unwrap());
        let mut reply = Vec::new();
        socket.read_to_end(&mut reply).unwrap();
        sender.join().unwrap();
        let head = reply.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(hex(Sha256::new_with_prefix(&reply[head..])), pattern.hash(bytes));
    }

    /// Is served before and after a silence.
    pub(crate) fn pause(self, silence: Duration) {
        let mut socket = self.connect(self.echo);
        exchange(&mut socket, 6, 1000);
        thread::sleep(silence);
        exchange(&mut socket, 7, 1000);
    }
}

/// Sends bytes of the pattern to an echo and compares what comes back.
fn exchange(socket: &mut TcpStream, seed: usize, bytes: usize) {
    let pattern = Pattern::new(seed);
    let mut writer = socket.try_clone().unwrap();
    let sender = thread::spawn(move || pattern.write(bytes, &mut writer).unwrap());
    pattern.expect(bytes, socket).unwrap();
    sender.join().unwrap();
}

/// Everything up to a clean end.
fn rest(socket: &mut TcpStream) -> io::Result<String> {
    let mut rest = String::new();
    socket.read_to_string(&mut rest)?;
    Ok(rest)
}
