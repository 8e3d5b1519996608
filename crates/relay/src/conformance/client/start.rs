//! How a client comes: started anew for each check, or by somebody's hand.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Stdio;

use tokio::process::{Child, Command};
use tokio::task::JoinSet;

/// Where a client is to connect, and what may be behind it.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The control port.
    pub relay: SocketAddr,
    /// An echo service of the kit's own, on this machine.
    pub echo: SocketAddr,
}

/// A client as a task of this process.
pub type Play = Box<dyn Fn(Place) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// How a client comes.
pub enum Start {
    /// Somebody starts it, and again whenever it has ended.
    ByHand,
    /// A program and its arguments. `{host}` and `{port}` in them stand for where it is to connect, `{echo}` for the
    /// port of the kit's echo service on this machine. What it prints on stderr is shown.
    Command(Vec<String>),
    /// As a task.
    Task(Play),
}

impl Start {
    pub(super) fn start(&self, place: Place) -> io::Result<Running> {
        Ok(match self {
            Self::ByHand => Running::Elsewhere,
            Self::Task(play) => {
                let mut task = JoinSet::new();
                task.spawn(play(place));
                Running::Task(task)
            }
            Self::Command(words) => {
                let words: Vec<String> = words.iter().map(|word| place.fill(word)).collect();
                let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
                let mut command = Command::new(program);
                command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
                // A shell's children end with it.
                #[cfg(unix)]
                command.process_group(0);
                Running::Child(Box::new(command.spawn()?))
            }
        })
    }
}

impl Place {
    fn fill(&self, word: &str) -> String {
        word.replace("{host}", &self.relay.ip().to_string())
            .replace("{port}", &self.relay.port().to_string())
            .replace("{echo}", &self.echo.port().to_string())
    }
}

/// A client that was started. Dropping it ends it.
pub(super) enum Running {
    Elsewhere,
    Task(JoinSet<()>),
    // Larger than the others on some systems, by far.
    Child(Box<Child>),
}

impl Running {
    /// Waits until it has ended by itself, and says how. Cancel safe.
    pub(super) async fn ended(&mut self) -> String {
        match self {
            Self::Elsewhere => std::future::pending().await,
            Self::Task(task) => {
                task.join_next().await;
                "ended".into()
            }
            Self::Child(child) => match child.wait().await {
                Ok(status) => format!("ended ({status})"),
                Err(error) => format!("cannot be watched: {error}"),
            },
        }
    }

    /// Ends it, with all its connections.
    pub(super) async fn end(&mut self) {
        match self {
            Self::Elsewhere => {}
            Self::Task(task) => task.shutdown().await,
            Self::Child(child) => {
                #[cfg(unix)]
                if let Some(group) = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
                    // Fails when all of it has ended.
                    let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                }
                // Fails when it has ended.
                let _ = child.kill().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_told_where_all_is() {
        let place = Place { relay: ([127, 0, 0, 1], 7000).into(), echo: ([127, 0, 0, 1], 9000).into() };
        assert_eq!(place.fill("{host}:{port}"), "127.0.0.1:7000");
        assert_eq!(place.fill("--localForwardPort={echo}"), "--localForwardPort=9000");
    }
}
