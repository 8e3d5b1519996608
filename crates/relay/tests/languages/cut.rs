//! Somebody in the middle of TLS can end a connection, but not have that look like its end: examples tell a FIN without
//! `close_notify` from one with it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::rig::Invited;
use crate::support::{self, MODES, PATIENCE};

/// The connections of clients that come through here on their way to the relay.
type Clients = Arc<Mutex<Vec<TcpStream>>>;

/// Somebody in the middle, on a port of this machine.
fn middle(relay: u16) -> (u16, Clients) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let clients = Clients::default();
    let seen = clients.clone();
    thread::spawn(move || {
        listener.incoming().try_for_each(|client| {
            let client = client?;
            let relay = TcpStream::connect(("127.0.0.1", relay))?;
            seen.lock().unwrap().push(client.try_clone()?);
            let (mut from_client, mut to_relay) = (client.try_clone()?, relay.try_clone()?);
            thread::spawn(move || io::copy(&mut from_client, &mut to_relay));
            let (mut from_relay, mut to_client) = (relay, client);
            thread::spawn(move || io::copy(&mut from_relay, &mut to_client));
            io::Result::Ok(())
        })
    });
    (port, clients)
}

fn is_an_abort(start: impl Fn(&str, &str) -> Command) {
    let invited = Invited::new();
    let relay = invited.invite.split(['?', ':']).nth_back(1).unwrap();
    let (port, clients) = middle(relay.parse().unwrap());
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&service).set_read_timeout(Some(PATIENCE)).unwrap();
    let invite = invited.invite.replace(&format!(":{relay}?"), &format!(":{port}?"));
    let (_example, at) = support::reachable(&mut start(&invite, &service.local_addr().unwrap().port().to_string()));

    let mut user = TcpStream::connect(at).unwrap();
    user.write_all(b"half of it").unwrap();
    let (mut served, _) = service.accept().unwrap();
    served.set_read_timeout(Some(PATIENCE)).unwrap();
    served.read_exact(&mut [0; 10]).unwrap();
    clients.lock().unwrap().iter().for_each(|client| client.shutdown(Shutdown::Write).unwrap());
    assert_eq!(served.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn python() {
    if support::have(&["python3"]) {
        is_an_abort(crate::python::forward);
    }
}

#[test]
fn go() {
    MODES.into_iter().filter_map(crate::go::forward).for_each(is_an_abort);
}
