//! How the running server takes changes: a socket in the state directory.
//!
//! A connection carries one request and one answer, each a line of JSON. The server answers when the change is made
//! and kept. Who can reach the socket is its owner or root, yet none of them can hurt the server by what it sends.

use std::sync::Arc;

use relay_proto::identity::Name;
use serde::{Deserialize, Serialize};

use super::record::{Record, Text};
use super::{ChangeError, Directory, Listed, Locked, StateError};
use crate::identity::Identity;

/// What a server does when it is asked to. Called in a thread that may block.
pub trait Handler: Send + Sync + 'static {
    /// Adds an identity, or replaces one: whoever proves its token from now on is known, whoever had an older one is
    /// cut. What was cut.
    ///
    /// # Errors
    /// Nothing was changed.
    fn add(&self, identity: Identity, replace: bool) -> Result<Cut, ChangeError>;

    /// Revokes one. What was cut.
    ///
    /// # Errors
    /// Nothing was changed.
    fn revoke(&self, name: &Name) -> Result<Cut, ChangeError>;

    /// All identities, and what they use.
    fn list(&self) -> Vec<Listed>;
}

/// What ended with a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// Links: connections of clients that serve tunnels.
    pub links: usize,
    /// Users of those tunnels.
    pub users: usize,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Request {
    Add { identity: Record, replace: bool },
    Revoke { name: Text<Name> },
    List,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    Done(Cut),
    Identities(Vec<Listed>),
    Refused(ChangeError),
    /// The request makes no sense to this server.
    NotUnderstood,
}

impl Request {
    pub(super) fn carry_out(self, handler: &impl Handler) -> Answer {
        let done = match self {
            Self::Add { identity, replace } => handler.add(identity.into(), replace),
            Self::Revoke { name } => handler.revoke(&name.0),
            Self::List => return Answer::Identities(handler.list()),
        };
        done.map_or_else(Answer::Refused, Answer::Done)
    }
}

#[cfg(unix)]
pub(super) use client::ask;
#[cfg(unix)]
pub use server::Control;

#[cfg(unix)]
const SOCKET: &str = "control.sock";

#[cfg(unix)]
mod server {
    use std::fs;
    use std::io;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::task::{JoinSet, spawn_blocking};
    use tokio::time::{sleep, timeout};

    use super::super::access;
    use super::{Answer, Arc, Handler, Locked, Request, SOCKET, StateError};

    /// Connections served at once. Commands are typed by people, or run one after the other by their scripts; more
    /// wait in the kernel.
    pub(super) const MAX_CONNECTIONS: usize = 8;
    /// How long a request may take to arrive, and an answer to be taken.
    const DEADLINE: Duration = Duration::from_secs(5);
    /// The longest request in bytes. An identity with 64 networks takes some 4 000.
    const MAX_REQUEST: u64 = 16 * 1024;
    /// How long nothing is accepted after that failed: descriptors may be free again.
    const PAUSE: Duration = Duration::from_millis(100);

    /// The socket, listening.
    #[derive(Debug)]
    pub struct Control(UnixListener);

    impl Control {
        /// Listens, for the server that holds the directory; replaces what an earlier one left there. To be called
        /// within a tokio runtime.
        ///
        /// # Errors
        /// The socket cannot be made.
        pub fn bind(locked: &Locked) -> Result<Self, StateError> {
            let path = locked.path().join(SOCKET);
            let bind = || {
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                let listener = UnixListener::bind(&path)?;
                // Until then the directory's own permissions keep others away.
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
                access::give_path(&path, locked.owner)?;
                Ok(listener)
            };
            bind().map(Self).map_err(StateError::io("listen on", &path))
        }

        /// Serves whoever connects, for ever. Dropped, it answers nobody any more; a change that was begun is
        /// finished.
        pub async fn serve(self, handler: Arc<impl Handler>) {
            let mut connections = JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                if connections.len() == MAX_CONNECTIONS {
                    connections.join_next().await;
                }
                match self.0.accept().await {
                    Ok((stream, _)) => drop(connections.spawn(converse(stream, handler.clone()))),
                    Err(_) => sleep(PAUSE).await,
                }
            }
        }
    }

    /// A peer that breaks off, or is too slow, gets no answer.
    async fn converse(mut stream: UnixStream, handler: Arc<impl Handler>) -> Option<()> {
        let mut line = Vec::new();
        let mut reader = BufReader::new((&mut stream).take(MAX_REQUEST));
        timeout(DEADLINE, reader.read_until(b'\n', &mut line)).await.ok()?.ok()?;
        let answer = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => spawn_blocking(move || request.carry_out(&*handler)).await.ok()?,
            Err(_) => Answer::NotUnderstood,
        };
        let mut line = serde_json::to_vec(&answer).ok()?;
        line.push(b'\n');
        timeout(DEADLINE, stream.write_all(&line)).await.ok()?.ok()
    }
}

#[cfg(unix)]
mod client {
    use std::io::{self, BufRead, BufReader, Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::{Answer, Directory, Request, SOCKET};

    /// How long the server may be silent: it waits for its disk.
    const ANSWER_WAIT: Duration = Duration::from_secs(15);
    /// The longest answer in bytes: 60 000 identities.
    const MAX_ANSWER: u64 = 16 * 1024 * 1024;

    /// Asks the running server; `None` if none listens.
    pub(in crate::state) fn ask(directory: &Directory, request: &Request) -> io::Result<Option<Answer>> {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        match UnixStream::connect(directory.path().join(SOCKET)) {
            Ok(stream) => talk(&stream, request).map(Some),
            Err(error) if matches!(error.kind(), NotFound | ConnectionRefused) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn talk(mut stream: &UnixStream, request: &Request) -> io::Result<Answer> {
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        stream.set_write_timeout(Some(ANSWER_WAIT))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = Vec::new();
        BufReader::new(stream.take(MAX_ANSWER)).read_until(b'\n', &mut answer)?;
        if !answer.ends_with(b"\n") {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}

#[cfg(not(unix))]
pub use elsewhere::Control;
#[cfg(not(unix))]
pub(super) use elsewhere::ask;

/// Without Unix sockets nobody can be asked: a change has to wait until the server is stopped.
#[cfg(not(unix))]
mod elsewhere {
    use std::future::pending;
    use std::io;

    use super::{Answer, Arc, Directory, Handler, Locked, Request, StateError};

    /// No socket.
    #[derive(Debug)]
    pub struct Control;

    impl Control {
        /// Does nothing.
        ///
        /// # Errors
        /// None.
        pub fn bind(_: &Locked) -> Result<Self, StateError> {
            Ok(Self)
        }

        /// Waits for ever.
        pub async fn serve(self, _: Arc<impl Handler>) {
            pending().await
        }
    }

    pub(in crate::state) fn ask(_: &Directory, _: &Request) -> io::Result<Option<Answer>> {
        Ok(None)
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::super::rig::{self, identity, name};
    use super::*;

    fn add(text: &str) -> Request {
        Request::Add { identity: Record::from(&identity(text)), replace: false }
    }

    #[test]
    fn what_the_server_answers_is_done() {
        let place = tempfile::tempdir().unwrap();
        let (_runtime, relay) = rig::serve(place.path(), Vec::new());
        let ask = |request| ask(&relay.locked, &request).unwrap().unwrap();
        assert!(matches!(ask(add("a")), Answer::Done(_)));
        assert_eq!(relay.identities.lock().unwrap().get(&name("a")), Some(&identity("a")));
        assert!(matches!(ask(add("a")), Answer::Refused(ChangeError::InUse)));
        let Answer::Identities(listed) = ask(Request::List) else { panic!() };
        assert_eq!(listed, relay.list());
        assert!(matches!(ask(Request::Revoke { name: Text(name("a")) }), Answer::Done(Cut { links: 2, users: 3 })));
        assert!(relay.identities.lock().unwrap().get(&name("a")).unwrap().revoked);
        assert!(matches!(ask(Request::Revoke { name: Text(name("b")) }), Answer::Refused(ChangeError::Unknown)));
    }

    #[test]
    fn a_long_list_comes_whole() {
        let place = tempfile::tempdir().unwrap();
        let all = (0..5000).map(|number| identity(&format!("name-{number}"))).collect();
        let (_runtime, relay) = rig::serve(place.path(), all);
        let Some(Answer::Identities(listed)) = ask(&relay.locked, &Request::List).unwrap() else { panic!() };
        assert_eq!(listed.len(), 5000);
    }

    #[test]
    fn a_socket_that_nobody_serves_is_replaced() {
        let place = tempfile::tempdir().unwrap();
        drop(rig::serve(place.path(), Vec::new()));
        let directory = Directory::make(Some(place.path())).unwrap();
        assert!(place.path().join(SOCKET).exists());
        assert!(ask(&directory, &Request::List).unwrap().is_none());
        let (_runtime, relay) = rig::serve(place.path(), Vec::new());
        assert!(ask(&relay.locked, &Request::List).unwrap().is_some());
    }

    #[test]
    fn a_path_that_is_too_long_for_a_socket_is_said() {
        let place = tempfile::tempdir().unwrap();
        let locked = rig::lock(&place.path().join("x".repeat(100)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(async { Control::bind(&locked) }).unwrap_err().to_string();
        assert!(error.ends_with("choose a shorter path with --state DIR"), "{error}");
    }

    #[test]
    fn a_server_that_breaks_off_has_not_answered() {
        let place = tempfile::tempdir().unwrap();
        let directory = Directory::make(Some(place.path())).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(place.path().join(SOCKET)).unwrap();
        for answer in ["", "\"not-under", "{}\n", "\n"] {
            std::thread::scope(|scope| {
                let asked = scope.spawn(|| ask(&directory, &Request::List));
                let mut server = listener.accept().unwrap().0;
                std::io::BufRead::read_line(&mut std::io::BufReader::new(&server), &mut String::new()).unwrap();
                server.write_all(answer.as_bytes()).unwrap();
                drop(server);
                assert!(asked.join().unwrap().is_err(), "{answer:?}");
            });
        }
    }

    #[test]
    fn bad_peers_harm_nobody() {
        let place = tempfile::tempdir().unwrap();
        let (_runtime, relay) = rig::serve(place.path(), Vec::new());
        let connect = || UnixStream::connect(place.path().join(SOCKET)).unwrap();
        let mut answer = String::new();
        for line in
            ["\n", "{}\n", "{\"add\":{}}\n", "\"list\"x\n", "{\"revoke\":{\"name\":\"\\u001b[1m\"}}\n", "[[[[\n"]
        {
            let mut peer = connect();
            peer.write_all(line.as_bytes()).unwrap();
            answer.clear();
            peer.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "\"not-understood\"\n", "{line:?}");
        }
        let mut peer = connect();
        peer.write_all(b"\xff\xfe\n").unwrap();
        // One that never ends its line is read no further than the longest request.
        let mut endless = connect();
        assert!(endless.write_all(&vec![b'['; 1 << 20]).is_err());
        drop(connect());
        // One that says nothing: others are served meanwhile.
        let silent = connect();
        let began = Instant::now();
        assert!(ask(&relay.locked, &add("a")).unwrap().is_some());
        assert!(began.elapsed() < Duration::from_secs(5), "somebody was waited for");
        drop(silent);
        assert!(relay.identities.lock().unwrap().get(&name("a")).is_some());
    }

    #[test]
    fn when_all_are_silent_others_are_served_in_the_end() {
        let place = tempfile::tempdir().unwrap();
        let (_runtime, relay) = rig::serve(place.path(), Vec::new());
        let silent: Vec<_> =
            (0..server::MAX_CONNECTIONS).map(|_| UnixStream::connect(place.path().join(SOCKET)).unwrap()).collect();
        assert!(ask(&relay.locked, &Request::List).is_ok_and(|answer| answer.is_some()));
        drop(silent);
    }
}
