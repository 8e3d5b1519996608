//! Where the state is, and who holds it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::StateError;
use super::access::{self, Kind, Owner, is_root};
use super::certificate::FILE as FIRST_FILE;
use super::file::UNFINISHED;

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
    /// root, else `relay` in the user's state directory (XDG Base Directory Specification). Makes it if it is missing,
    /// and closes it to others while it is empty: there was nothing to read.
    ///
    /// # Errors
    /// There is no such place, it cannot be made, or others may use it.
    pub fn make(named: Option<&Path>) -> Result<Self, StateError> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => Places::of_process().of_server()?,
        };
        access::make(&path).map_err(StateError::io("make", &path))?;
        match Self::open(path.clone()) {
            Err(StateError::Exposed { .. })
                if fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none()) =>
            {
                access::close(&path).map_err(StateError::io("close to others", &path))?;
                Self::open(path)
            }
            opened => opened,
        }
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

    /// Whether no relay has kept a state in it yet.
    pub fn is_new(&self) -> bool {
        fs::symlink_metadata(self.path.join(FIRST_FILE)).is_err()
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

    /// The first of several: systemd separates them as those of a `PATH`.
    fn given(&self) -> Option<PathBuf> {
        let first = std::env::split_paths(self.given.as_ref()?).next()?;
        (!first.as_os_str().is_empty()).then_some(first)
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

#[cfg(test)]
mod tests {
    use super::super::rig;
    use super::*;

    fn places(given: Option<&str>, state_home: Option<&str>, home: Option<&str>, root: bool) -> Places {
        Places {
            given: given.map(Into::into),
            state_home: state_home.map(Into::into),
            home: home.map(Into::into),
            root,
        }
    }

    #[test]
    fn a_server_takes_the_first_place_that_is_its_own() {
        for (places, expected) in [
            (places(Some("/given"), Some("/xdg"), Some("/home"), true), "/given"),
            (places(Some("/given:/more"), None, None, false), "/given"),
            (places(None, Some("/xdg"), Some("/home"), true), OF_THE_SYSTEM),
            (places(Some(""), Some("/xdg"), Some("/home"), false), "/xdg/relay"),
            (places(None, Some("relative"), Some("/home"), false), "/home/.local/state/relay"),
            (places(None, None, Some("/home"), false), "/home/.local/state/relay"),
        ] {
            assert_eq!(places.of_server().unwrap(), Path::new(expected));
        }
        let error = places(None, None, None, false).of_server().unwrap_err();
        assert!(matches!(error, StateError::NoPlace), "{error}");
    }

    #[test]
    fn a_command_uses_the_only_state_there_is() {
        let (one, other, empty) = (rig::state(), rig::state(), tempfile::tempdir().unwrap());
        let paths = |places: &[&tempfile::TempDir]| places.iter().map(|place| place.path().into()).collect::<Vec<_>>();
        let found = search(&paths(&[&empty, &one]), false).unwrap();
        assert_eq!((found.path(), found.is_new()), (one.path(), false));
        assert_eq!(search(&paths(&[&one, &one]), false).unwrap().path(), one.path());

        let several = search(&paths(&[&one, &empty, &other]), false).unwrap_err().to_string();
        let (first, second) = (one.path().display(), other.path().display());
        assert_eq!(
            several,
            format!("relays have kept states in {first} and {second}: name the right one with --state DIR")
        );
        let none = search(&paths(&[&empty]), false).unwrap_err().to_string();
        assert!(
            none.contains(&*empty.path().to_string_lossy()) && none.contains("start `relay server` first"),
            "{none}"
        );
        assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_command_makes_no_directory() {
        let place = tempfile::tempdir().unwrap();
        let missing = place.path().join("missing");
        let error = Directory::find(Some(&missing)).unwrap_err().to_string();
        assert!(error.contains(&format!("`relay server --state {}`", missing.display())), "{error}");
        assert!(!missing.exists());
    }

    #[test]
    fn two_servers_never_share_a_directory() {
        let place = tempfile::tempdir().unwrap();
        let first = rig::lock(place.path());
        assert!(first.is_new());
        let directory = Directory::make(Some(place.path())).unwrap();
        assert!(directory.is_locked().unwrap());
        let error = directory.clone().lock().unwrap_err();
        assert!(matches!(error, StateError::InUse { .. }), "{error}");
        drop(first);
        assert!(!directory.is_locked().unwrap());
        directory.lock().unwrap();
    }

    #[cfg(unix)]
    mod permissions {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

        use super::*;
        use crate::state::{Certificate, Identities};

        fn allow(path: &Path, mode: u32) {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }

        #[test]
        fn what_is_made_is_for_its_owner_alone() {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join("a/b");
            let (_runtime, relay) = rig::serve(&path, Vec::new());
            Certificate::load_or_make(&relay.locked).unwrap();
            for made in [&path, path.parent().unwrap()] {
                assert_eq!(fs::metadata(made).unwrap().mode() & 0o777, 0o700);
            }
            let files: Vec<_> = fs::read_dir(&path).unwrap().map(Result::unwrap).collect();
            assert_eq!(files.len(), 3, "{files:?}");
            for file in files {
                assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600, "{file:?}");
            }
        }

        #[test]
        fn an_empty_directory_is_closed_to_others() {
            let place = tempfile::tempdir().unwrap();
            allow(place.path(), 0o755);
            Directory::find(Some(place.path())).unwrap_err();
            assert_eq!(fs::metadata(place.path()).unwrap().mode() & 0o777, 0o755);
            Directory::make(Some(place.path())).unwrap();
            assert_eq!(fs::metadata(place.path()).unwrap().mode() & 0o777, 0o700);
        }

        #[test]
        fn what_others_may_use_is_refused() {
            let place = rig::state();
            let path = place.path().join("identities.toml");
            for mode in [0o640, 0o604, 0o602, 0o620] {
                allow(&path, mode);
                let directory = Directory::find(Some(place.path())).unwrap();
                let error = Identities::load(&directory, []).unwrap_err().to_string();
                assert!(error.ends_with(&format!("chmod 600 {}", path.display())), "{error}");
            }
            allow(&path, 0o600);
            allow(place.path(), 0o755);
            for error in
                [Directory::find(Some(place.path())).unwrap_err(), Directory::make(Some(place.path())).unwrap_err()]
            {
                let error = error.to_string();
                assert!(error.ends_with(&format!("chmod 700 {}", place.path().display())), "{error}");
            }
        }

        #[test]
        fn a_link_leads_nowhere() {
            let (place, elsewhere) = (rig::state(), rig::state());
            for file in ["identities.toml", "lock"] {
                fs::remove_file(place.path().join(file)).unwrap();
                symlink(elsewhere.path().join(file), place.path().join(file)).unwrap();
            }
            let directory = Directory::find(Some(place.path())).unwrap();
            for error in [Identities::load(&directory, []).unwrap_err(), directory.lock().unwrap_err()] {
                assert!(error.to_string().contains("is not a plain file"), "{error}");
            }
        }

        #[test]
        fn what_root_writes_belongs_to_the_directorys_owner() {
            if !is_root() {
                return eprintln!("SKIPPED: needs root");
            }
            let place = tempfile::tempdir().unwrap();
            chown(place.path(), Some(65534), Some(65534)).unwrap();
            let (_runtime, relay) = rig::serve(place.path(), Vec::new());
            Certificate::load_or_make(&relay.locked).unwrap();
            let files: Vec<_> = fs::read_dir(place.path()).unwrap().map(Result::unwrap).collect();
            assert_eq!(files.len(), 3);
            for file in files {
                let found = file.metadata().unwrap();
                assert_eq!((found.uid(), found.gid()), (65534, 65534), "{file:?}");
            }
        }
    }
}
