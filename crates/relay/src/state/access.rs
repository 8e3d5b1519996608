//! Who may read and write the state: its owner alone. Where files have no owner and mode, nothing is checked.

use std::fs::{self, File, OpenOptions};
use std::path::Path;

use super::StateError;

#[cfg(unix)]
pub(super) use unix::{Owner, check, close, give, give_path, is_root, make, open};

/// What of the state is looked at.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Directory,
    File,
}

#[cfg(unix)]
mod unix {
    use std::io;
    use std::os::unix::fs::{self as unix_fs, DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};

    use rustix::fs::OFlags;
    use rustix::io::Errno;
    use rustix::process::geteuid;

    use super::{File, Kind, OpenOptions, Path, StateError, fs};

    /// Whom a directory belongs to, and with it all that is put there.
    #[derive(Clone, Copy, Debug)]
    pub(in crate::state) struct Owner {
        user: u32,
        group: u32,
    }

    const ROOT: u32 = 0;

    /// Whether we run as root.
    pub(in crate::state) fn is_root() -> bool {
        geteuid().as_raw() == ROOT
    }

    /// Makes a directory, and those above it that are missing, for its owner alone.
    pub(in crate::state) fn make(path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }

    /// Takes from all but its owner what they may do with a directory.
    pub(in crate::state) fn close(path: &Path) -> io::Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
    }

    /// That only its owner can read or write it, and that we may: root may use anyone's.
    pub(in crate::state) fn check(found: &fs::Metadata, path: &Path, kind: Kind) -> Result<Owner, StateError> {
        check_for(geteuid().as_raw(), found, path, kind)
    }

    fn check_for(user: u32, found: &fs::Metadata, path: &Path, kind: Kind) -> Result<Owner, StateError> {
        let path = path.to_owned();
        let (right_kind, expected, mode) = match kind {
            Kind::Directory => (found.is_dir(), "a directory", 0o700),
            Kind::File => (found.is_file(), "a plain file", 0o600),
        };
        if !right_kind {
            return Err(StateError::OutOfPlace { path, expected });
        }
        let owner = Owner { user: found.uid(), group: found.gid() };
        if owner.user != user && user != ROOT {
            return Err(StateError::Foreign { path, owner: owner.user });
        }
        if found.mode() & 0o077 != 0 {
            return Err(StateError::Exposed { path, mode });
        }
        Ok(owner)
    }

    /// Opens a file of the state, if there is one; what `options` creates is for its owner alone. Root writes to
    /// directories of others, who could lead it elsewhere by a link, or have it wait at a pipe.
    pub(in crate::state) fn open(path: &Path, options: &mut OpenOptions) -> Result<Option<File>, StateError> {
        let careful = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        // The flags are a C int to the kernel.
        match options.custom_flags(careful.bits().cast_signed()).mode(0o600).open(path) {
            Ok(file) => {
                check(&file.metadata().map_err(StateError::io("read", path))?, path, Kind::File)?;
                Ok(Some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
                Err(StateError::OutOfPlace { path: path.to_owned(), expected: "a plain file" })
            }
            Err(error) => Err(StateError::io("open", path)(error)),
        }
    }

    /// Gives a new file to the directory's owner, if root made it in another's.
    pub(in crate::state) fn give(file: &File, owner: Owner) -> io::Result<()> {
        if owner.user == geteuid().as_raw() {
            return Ok(());
        }
        unix_fs::fchown(file, Some(owner.user), Some(owner.group))
    }

    /// As [`give`], for what cannot be opened.
    pub(in crate::state) fn give_path(path: &Path, owner: Owner) -> io::Result<()> {
        if owner.user == geteuid().as_raw() {
            return Ok(());
        }
        unix_fs::lchown(path, Some(owner.user), Some(owner.group))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_file_of_another_is_refused_but_not_to_root() {
            let file = tempfile::NamedTempFile::new().unwrap();
            let found = file.as_file().metadata().unwrap();
            assert!(check_for(found.uid(), &found, file.path(), Kind::File).is_ok());
            assert!(check_for(ROOT, &found, file.path(), Kind::File).is_ok());
            let refused = check_for(found.uid() + 1, &found, file.path(), Kind::File).unwrap_err();
            assert!(matches!(refused, StateError::Foreign { owner, .. } if owner == found.uid()), "{refused}");
        }
    }
}

#[cfg(not(unix))]
pub(super) use elsewhere::{Owner, check, close, give, is_root, make, open};

#[cfg(not(unix))]
mod elsewhere {
    use std::io;

    use super::{File, Kind, OpenOptions, Path, StateError, fs};

    #[derive(Clone, Copy, Debug)]
    pub(in crate::state) struct Owner;

    pub(in crate::state) fn is_root() -> bool {
        false
    }

    pub(in crate::state) fn make(path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    pub(in crate::state) fn check(found: &fs::Metadata, path: &Path, kind: Kind) -> Result<Owner, StateError> {
        let (right_kind, expected) = match kind {
            Kind::Directory => (found.is_dir(), "a directory"),
            Kind::File => (found.is_file(), "a plain file"),
        };
        if right_kind { Ok(Owner) } else { Err(StateError::OutOfPlace { path: path.to_owned(), expected }) }
    }

    pub(in crate::state) fn open(path: &Path, options: &mut OpenOptions) -> Result<Option<File>, StateError> {
        match options.open(path) {
            Ok(file) => {
                check(&file.metadata().map_err(StateError::io("read", path))?, path, Kind::File)?;
                Ok(Some(file))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateError::io("open", path)(error)),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "it can fail where files have modes")]
    pub(in crate::state) fn close(_: &Path) -> io::Result<()> {
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "it can fail where files have owners")]
    pub(in crate::state) fn give(_: &File, _: Owner) -> io::Result<()> {
        Ok(())
    }
}
