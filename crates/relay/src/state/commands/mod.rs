//! What `relay invite`, `relay revoke` and `relay identities` do.
//!
//! Each has a running server do it and returns when that has. Without one it writes the files itself. All of them
//! block the thread: up to five seconds for the lock, and as long as the server takes.

mod error;
mod guess;
mod invite;
mod table;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use relay_proto::identity::Name;

pub use error::CommandError;
pub use invite::{Wish, invite};

use super::control::{self, Answer, Request};
use super::directory::LOCK_RETRY;
use super::record::Text;
use super::{ChangeError, Cut, Directory, Facts, Handler, Host, Identities, Listed, Locked, StateError};
use crate::identity::Identity;

/// How long a server that holds the lock may take until it listens, and other commands to end.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Where the state is, and what the configuration file says that matters here.
#[derive(Clone, Debug, Default)]
pub struct Context<'a> {
    /// The state's directory, if one was named.
    pub state: Option<&'a Path>,
    /// How clients reach the relay.
    pub host: Option<Host>,
    /// The names of the certificate; `None` if only the self-signed one is used.
    pub certificate: Option<Vec<String>>,
    /// Its identities.
    pub identities: Vec<Identity>,
}

/// Revokes an identity, and says on `out` what that cut.
///
/// # Errors
/// Nobody has that name, the state is refused, or the server does not answer.
pub fn revoke(
    context: &Context<'_>,
    name: &Name,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), CommandError> {
    let directory = Directory::find(context.state)?;
    let request = Request::Revoke { name: Text(name.clone()) };
    match change(&directory, context, name, &request, err)? {
        None => writeln!(out, "revoked {name}")?,
        Some(cut) => writeln!(out, "revoked {name}: cut {}", Counts(cut))?,
    }
    if Facts::load(&directory)?.open {
        writeln!(err, "warning: the relay is open: anyone can still connect without an identity")?;
    }
    Ok(())
}

/// Lists the identities on `out`: as a table, or as an array of objects in JSON.
///
/// # Errors
/// The state is refused, or the server does not answer.
pub fn identities(
    context: &Context<'_>,
    json: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<(), CommandError> {
    let directory = Directory::find(context.state)?;
    let listed = list(&directory, context)?;
    if json {
        return Ok(writeln!(out, "{}", serde_json::to_string_pretty(&listed).map_err(std::io::Error::from)?)?);
    }
    if listed.is_empty() {
        writeln!(err, "nobody is invited yet; to invite somebody, type: relay invite NAME")?;
        return Ok(());
    }
    table::write(&listed, out)?;
    Ok(())
}

fn list(directory: &Directory, context: &Context<'_>) -> Result<Vec<Listed>, CommandError> {
    let answer = carry_out(directory, &Request::List, || {
        if directory.is_locked()? {
            return Ok(None);
        }
        let identities = Identities::load(directory, context.identities.iter().cloned())?;
        Ok(Some(Answer::Identities(identities.list(|_| None))))
    })?;
    match answer.0 {
        Answer::Identities(listed) => Ok(listed),
        _ => Err(CommandError::not_understood(directory)),
    }
}

/// Has a change made. What it cut, if a server runs; if not, says so.
fn change(
    directory: &Directory,
    context: &Context<'_>,
    name: &Name,
    request: &Request,
    err: &mut dyn Write,
) -> Result<Option<Cut>, CommandError> {
    let (answer, running) = carry_out(directory, request, || {
        let Some(locked) = directory.try_lock()? else {
            return Ok(None);
        };
        let identities = Identities::load(&locked, context.identities.iter().cloned())?;
        Ok(Some(request.clone().carry_out(&Alone { locked, identities: identities.into() })))
    })?;
    match answer {
        Answer::Done(cut) if running => Ok(Some(cut)),
        Answer::Done(_) => {
            let path = directory.path().display();
            writeln!(err, "note: no relay runs with the state in {path}: written there for its next start")?;
            Ok(None)
        }
        Answer::Refused(error) => Err(CommandError::Refused { name: name.clone(), error, running }),
        Answer::Identities(_) | Answer::NotUnderstood => Err(CommandError::not_understood(directory)),
    }
}

/// Asks the running server, or does it by `alone`, which gives nothing while somebody holds the lock. Whether a server
/// did it.
fn carry_out(
    directory: &Directory,
    request: &Request,
    alone: impl Fn() -> Result<Option<Answer>, StateError>,
) -> Result<(Answer, bool), CommandError> {
    let unanswered = |source| CommandError::Unanswered { path: directory.path().into(), source };
    let until = Instant::now() + LOCK_WAIT;
    loop {
        if let Some(answer) = control::ask(directory, request).map_err(unanswered)? {
            return Ok((answer, true));
        }
        if let Some(answer) = alone()? {
            return Ok((answer, false));
        }
        // A server that is about to listen, or another command that writes.
        if Instant::now() >= until {
            return Err(unanswered(std::io::ErrorKind::TimedOut.into()));
        }
        thread::sleep(LOCK_RETRY);
    }
}

/// The state without a server.
struct Alone {
    locked: Locked,
    identities: Mutex<Identities>,
}

impl Handler for Alone {
    fn add(&self, identity: Identity, replace: bool) -> Result<Cut, ChangeError> {
        let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        identities.add(&self.locked, identity, replace)?;
        Ok(Cut::default())
    }

    fn revoke(&self, name: &Name) -> Result<Cut, ChangeError> {
        let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        identities.revoke(&self.locked, name)?;
        Ok(Cut::default())
    }

    fn list(&self) -> Vec<Listed> {
        self.identities.lock().unwrap_or_else(PoisonError::into_inner).list(|_| None)
    }
}

/// What was cut, in words.
struct Counts(Cut);

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = |count| if count == 1 { "" } else { "s" };
        let Cut { links, users } = self.0;
        write!(f, "{links} link{} and {users} user{}", plural(links), plural(users))
    }
}
