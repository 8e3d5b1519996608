//! The service that stands behind a forwarder in tests. `peers/go/service` says what its verbs mean; `r`, which only
//! this one knows, resets.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::pattern::hex;

/// Serves on a free port of this machine for as long as the test runs.
pub(crate) fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for user in listener.incoming() {
            let user = user.unwrap();
            // A user that vanishes is no failure of the service: what the user missed fails the test.
            thread::spawn(move || answer(&user));
        }
    });
    address
}

fn answer(mut user: &TcpStream) -> io::Result<()> {
    let mut verb = [0];
    user.read_exact(&mut verb)?;
    match &verb {
        b"e" => copy(user, |piece| user.write_all(piece))?,
        b"h" => user.write_all(hash(user)?.as_bytes())?,
        b"n" => {
            let mut length = [0; 8];
            user.read_exact(&mut length)?;
            user.write_all(hash(user.take(u64::from_be_bytes(length)))?.as_bytes())?;
        }
        b"r" => return socket2::SockRef::from(user).set_linger(Some(Duration::ZERO)),
        other => panic!("unknown verb {other:?}"),
    }
    user.shutdown(Shutdown::Write)
}

fn hash(from: impl Read) -> io::Result<String> {
    let mut hash = Sha256::new();
    copy(from, |piece| {
        hash.update(piece);
        Ok(())
    })?;
    Ok(hex(hash))
}

fn copy(mut from: impl Read, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            length => each(&buffer[..length])?,
        }
    }
}
