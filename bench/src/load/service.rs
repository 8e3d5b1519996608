//! The service behind what is measured.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::thread;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use super::wire::Op;
use super::{bulk, ping, wait_for_end_of_input};

const LISTENER: Token = Token(usize::MAX);

/// Serves until standard input ends. Prints a line once it listens.
pub(crate) fn run(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("listening");
    thread::spawn(|| {
        wait_for_end_of_input();
        std::process::exit(0);
    });
    serve(listener)
}

fn serve(mut listener: TcpListener) -> io::Result<()> {
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut guests: HashMap<Token, Guest> = HashMap::new();
    let mut next = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if let Err(error) = poll.poll(&mut events, None)
            && error.kind() != io::ErrorKind::Interrupted
        {
            return Err(error);
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Some(stream) = accept(&listener)? {
                    let token = Token(next);
                    next += 1;
                    let mut guest = Guest { stream, known: false };
                    poll.registry().register(&mut guest.stream, token, Interest::READABLE)?;
                    guests.insert(token, guest);
                }
            } else if let Some(guest) = guests.get_mut(&event.token()) {
                match guest.serve(&mut buffer) {
                    Ok(Next::Stay) => {}
                    Ok(Next::Leave) | Err(_) => drop(guests.remove(&event.token())),
                    Ok(Next::Thread(op)) => {
                        if let Some(mut guest) = guests.remove(&event.token()) {
                            poll.registry().deregister(&mut guest.stream)?;
                            thread::spawn(move || serve_alone(guest.stream, op));
                        }
                    }
                }
            }
        }
    }
}

fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nodelay(true)?;
                return Ok(Some(stream));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A connection of the event loop's.
struct Guest {
    stream: TcpStream,
    /// Its first byte has been seen.
    known: bool,
}

enum Next {
    Stay,
    Leave,
    /// It is for a thread of its own.
    Thread(Op),
}

impl Guest {
    /// Reads once and answers. It reads once because a user that waits for an answer sends no more; one
    /// that filled the buffer is read again.
    fn serve(&mut self, buffer: &mut [u8]) -> io::Result<Next> {
        loop {
            // What follows the first byte may be for a thread.
            let limit = if self.known { buffer.len() } else { 1 };
            let got = match self.stream.read(&mut buffer[..limit]) {
                Ok(0) => return Ok(Next::Leave),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Stay),
                Err(error) => return Err(error),
            };
            self.stream.write_all(&buffer[..got])?;
            if !self.known {
                self.known = true;
                match Op::from_byte(buffer[0]) {
                    None => return Ok(Next::Leave),
                    // The answer is on its way, so more can follow only later: a new event.
                    Some(Op::Echo) => return Ok(Next::Stay),
                    Some(op) => return Ok(Next::Thread(op)),
                }
            }
            if got < limit {
                return Ok(Next::Stay);
            }
        }
    }
}

/// A user that leaves early ends its thread with an error, which is the user's to tell.
fn serve_alone(stream: TcpStream, op: Op) -> io::Result<()> {
    let stream = std::net::TcpStream::from(stream);
    stream.set_nonblocking(false)?;
    match op {
        Op::Echo | Op::Ping => ping::serve(&stream),
        Op::Upload => bulk::serve_upload(stream),
        Op::Download => bulk::serve_download(stream),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::wire::{MESSAGE, Way, Window};
    use crate::load::{bulk, connect, hold, ping};
    use std::time::Duration;

    fn service() -> SocketAddr {
        let listener = TcpListener::bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        // Not `run`, which would end the tests with their standard input.
        thread::spawn(move || serve(listener));
        address
    }

    #[test]
    fn each_task_gets_its_figures() {
        let address = service();
        let short = Duration::from_millis(50);
        let window = Window { warm_ms: 50, measure_ms: 400 };
        for way in [Way::Up, Way::Down] {
            let bulk = bulk::users(address, way, 2, window).unwrap();
            assert!(bulk.get("gbit_s").unwrap() > 0.0 && bulk.get("bytes").unwrap() > MESSAGE as f64);
        }
        assert!(ping::one(address, short).unwrap().get("median_us").unwrap() > 0.0);
        assert!(ping::many(address, 8, short).unwrap().get("per_s").unwrap() > 0.0);
        assert!(connect::run(address, 4, short).unwrap().get("per_s").unwrap() > 0.0);
        let (held, _) = hold::connect(&[address], 20, 8).unwrap();
        assert_eq!(held.len(), 20);
        assert!(bulk::stall(address).is_ok());
    }
}
