//! States, and servers that have nothing else, for tests.

use std::path::Path;
use std::sync::{Arc, Mutex};

use relay_proto::identity::{Name, Token};
use tempfile::TempDir;
use tokio::runtime::{self, Runtime};

use super::{Certificate, ChangeError, Control, Cut, Directory, Handler, Identities, Listed, Locked, Usage};
use crate::identity::{Identity, Rights};

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(super) fn identity(text: &str) -> Identity {
    let verifier = Token::from_random([7; 32]).verifier();
    Identity {
        name: name(text),
        verifier: Some(verifier),
        certificate: None,
        rights: Rights::default(),
        revoked: false,
    }
}

/// A new state as a server makes it.
pub(super) fn state() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    drop(fill(place.path()));
    place
}

pub(super) fn fill(place: &Path) -> Locked {
    let locked = lock(place);
    Certificate::load_or_make(&locked).unwrap();
    Identities::default().store(&locked).unwrap();
    locked
}

pub(super) fn lock(place: &Path) -> Locked {
    Directory::make(Some(place)).unwrap().lock().unwrap()
}

/// What a server does with changes, without its links: as if each identity had two, and three users.
pub(super) struct Relay {
    pub(super) locked: Locked,
    pub(super) identities: Mutex<Identities>,
}

const CUT: Cut = Cut { links: 2, users: 3 };

impl Handler for Relay {
    fn add(&self, identity: Identity, replace: bool) -> Result<Cut, ChangeError> {
        self.identities.lock().unwrap().add(&self.locked, identity, replace).map(|()| CUT)
    }

    fn revoke(&self, name: &Name) -> Result<Cut, ChangeError> {
        self.identities.lock().unwrap().revoke(&self.locked, name).map(|_| CUT)
    }

    fn list(&self) -> Vec<Listed> {
        self.identities.lock().unwrap().list(|_| Some(Usage { tunnels: 2, users: 3 }))
    }
}

/// Serves the state until the runtime is dropped.
pub(super) fn serve(place: &Path, configured: Vec<Identity>) -> (Runtime, Arc<Relay>) {
    let locked = lock(place);
    let identities = Identities::load(&locked, configured).unwrap().into();
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let control = {
        let _within = runtime.enter();
        Control::bind(&locked).unwrap()
    };
    let relay = Arc::new(Relay { locked, identities });
    runtime.spawn(control.serve(relay.clone()));
    (runtime, relay)
}

/// A file system of 64 KiB, which only root can have.
#[cfg(target_os = "linux")]
pub(super) struct SmallDisk(TempDir);

#[cfg(target_os = "linux")]
impl SmallDisk {
    /// `None`, with a word of it, if it cannot be had; with `CI` set that is a failure.
    pub(super) fn mount() -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        let mounted = mount(&["-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs"], disk.path());
        if !mounted {
            assert!(std::env::var_os("CI").is_none(), "cannot mount a tmpfs");
            eprintln!("SKIPPED: needs the right to mount a tmpfs");
        }
        mounted.then_some(disk)
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn make_read_only(&self) {
        assert!(mount(&["-o", "remount,ro"], self.path()));
    }

    /// Leaves not a byte.
    pub(super) fn fill(&self) {
        let mut file = std::fs::File::create(self.path().join("rest")).unwrap();
        let error = std::io::copy(&mut std::io::repeat(0), &mut file).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").args(["-l".as_ref(), self.path()]).output();
    }
}

#[cfg(target_os = "linux")]
fn mount(options: &[&str], place: &Path) -> bool {
    std::process::Command::new("mount").args(options).arg(place).output().is_ok_and(|output| output.status.success())
}
