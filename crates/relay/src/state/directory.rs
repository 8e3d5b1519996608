//! Where the state is, and who holds it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::access::{self, Kind, Owner};
use super::certificate::FILE as FIRST_FILE;
use super::file::UNFINISHED;
use super::{StateError, access::is_root};

/// Where root's relay keeps its state, and the unit of systemd.
const OF_THE_SYSTEM: &str = "/var/lib/relay";
/// How long a server waits for the lock: a command holds it for as long as it writes a file.
const LOCK_WAIT: Duration = Duration::from_secs(1);
/// How often it tries.
pub(super) const LOCK_RETRY: Duration = Duration::from_millis(20);

/// A directory that is there and that only its owner can use.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    pub(super) owner: Owner,
}

/// A directory that nobody else writes to, until this is dropped.
#[derive(Debug)]
pub struct Locked {
    directory: Directory,
    _lock: File,
}

impl Directory {
    /// The directory for a server: the one named, else `$STATE_DIRECTORY` (systemd's), else `/var/lib/relay` for
    /// root, else `relay` in the user's state directory (XDG Base Directory Specification). Makes it if it is missing.
    ///
    /// # Errors
    /// There is no such place, it cannot be made, or others may use it.
    pub fn make(named: Option<&Path>) -> Result<Self, StateError> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => Places::of_process().of_server()?,
        };
        access::make(&path).map_err(StateError::io("make", &path))?;
        Self::open(path)
    }

    /// The directory for a command: the one named, else the only one of those places that holds a relay's state.
    /// Never makes one.
    ///
    /// # Errors
    /// None holds a state, or several, or others may use it.
    pub fn find(named: Option<&Path>) -> Result<Self, StateError> {
        match named {
            Some(path) => search(&[path.to_owned()], true),
            None => search(&Places::of_process().all(), false),
        }
    }

    fn open(path: PathBuf) -> Result<Self, StateError> {
        let found = fs::metadata(&path).map_err(StateError::io("read", &path))?;
        let owner = access::check(&found, &path, Kind::Directory)?;
        Ok(Self { path, owner })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Holds it, for a server. Blocks the thread, for a second at most.
    ///
    /// # Errors
    /// Another server holds it, or the lock cannot be written.
    pub fn lock(self) -> Result<Locked, StateError> {
        let until = Instant::now() + LOCK_WAIT;
        loop {
            if let Some(locked) = self.try_lock()? {
                return Ok(locked);
            }
            if Instant::now() >= until {
                return Err(StateError::InUse { path: self.path });
            }
            thread::sleep(LOCK_RETRY);
        }
    }

    /// Holds it, unless somebody else does.
    pub(super) fn try_lock(&self) -> Result<Option<Locked>, StateError> {
        let path = self.lock_file();
        let Some(lock) = access::open(&path, OpenOptions::new().write(true).create(true).truncate(false))? else {
            return Err(StateError::io("write", &path)(io::ErrorKind::NotFound.into()));
        };
        if !taken(&lock, &path)? {
            return Ok(None);
        }
        access::give(&lock, self.owner).map_err(StateError::io("write", &path))?;
        let locked = Locked { directory: self.clone(), _lock: lock };
        locked.clear();
        Ok(Some(locked))
    }

    /// Whether somebody holds it. Writes nothing.
    pub(super) fn is_locked(&self) -> Result<bool, StateError> {
        let path = self.lock_file();
        match access::open(&path, OpenOptions::new().read(true))? {
            None => Ok(false),
            Some(lock) => Ok(!taken(&lock, &path)?),
        }
    }

    fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }
}

/// Takes the lock unless it is somebody else's.
fn taken(lock: &File, path: &Path) -> Result<bool, StateError> {
    match lock.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(StateError::io("lock", path)(error)),
    }
}

impl Locked {
    /// Removes what writers left behind that ended in the middle.
    fn clear(&self) {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes())) {
            // It harms nobody where it is.
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Deref for Locked {
    type Target = Directory;

    fn deref(&self) -> &Directory {
        &self.directory
    }
}

/// The one of `places` that holds a state.
fn search(places: &[PathBuf], named: bool) -> Result<Directory, StateError> {
    let (mut found, mut hidden, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
    for place in places {
        match fs::symlink_metadata(place.join(FIRST_FILE)) {
            // Two of them may be one and the same by links.
            Ok(_) if seen.insert(fs::canonicalize(place).ok()) => found.push(place.clone()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => hidden.push(place.clone()),
            _ => {}
        }
    }
    match (found.pop(), found.is_empty()) {
        (Some(path), true) => Directory::open(path),
        (Some(path), false) => Err(StateError::Several { found: found.into_iter().chain([path]).collect() }),
        (None, _) => Err(StateError::Missing { looked: places.to_owned(), hidden, named }),
    }
}

/// What tells where a state is when none is named.
struct Places {
    /// `$STATE_DIRECTORY`.
    given: Option<OsString>,
    /// `$XDG_STATE_HOME`.
    state_home: Option<OsString>,
    home: Option<PathBuf>,
    root: bool,
}

impl Places {
    fn of_process() -> Self {
        Self {
            given: std::env::var_os("STATE_DIRECTORY"),
            state_home: std::env::var_os("XDG_STATE_HOME"),
            home: std::env::home_dir(),
            root: is_root(),
        }
    }

    /// The first of several, which systemd separates by colons.
    fn given(&self) -> Option<PathBuf> {
        let given = self.given.as_ref()?.to_str().map_or_else(
            || self.given.clone(),
            |text| text.split(':').next().map(OsString::from), // a path that is not UTF-8 is one
        )?;
        (!given.is_empty()).then(|| given.into())
    }

    fn of_user(&self) -> Option<PathBuf> {
        // The specification has relative paths ignored.
        let named = self.state_home.as_ref().map(PathBuf::from).filter(|path| path.is_absolute());
        let home = self.home.as_ref().filter(|home| home.is_absolute()).map(|home| home.join(".local/state"));
        Some(named.or(home)?.join("relay"))
    }

    fn of_server(&self) -> Result<PathBuf, StateError> {
        let of_root = self.root.then(|| OF_THE_SYSTEM.into());
        self.given().or(of_root).or_else(|| self.of_user()).ok_or(StateError::NoPlace)
    }

    /// For commands, which may be another user's than the server: they say so of a place they cannot look into.
    fn all(&self) -> Vec<PathBuf> {
        [self.given(), Some(OF_THE_SYSTEM.into()), self.of_user()].into_iter().flatten().collect()
    }
}
