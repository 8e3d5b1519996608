//! A file of the state: TOML between a version and an end, replaced as a whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Directory, Locked, StateError, access};

/// The version of the format, on each file's first line. Every change of what is in a file is a new one: keys that a
/// relay does not know could be limits that it would not keep.
const VERSION: u64 = 1;
const VERSION_KEY: &str = "version = ";
/// Each file's last line: TOML that is cut short is often TOML, too.
const END: &str = "# end\n";
/// What the names of files begin with that are not whole yet.
pub(super) const UNFINISHED: &str = ".new-";

/// What one file holds.
pub(super) trait Document: Serialize + DeserializeOwned {
    /// The file's name.
    const NAME: &'static str;
    /// What can be done when it is damaged.
    const REMEDY: &'static str;
}

/// What the file holds; `None` if there is none.
pub(super) fn read<D: Document>(directory: &Directory) -> Result<Option<D>, StateError> {
    let path = directory.path().join(D::NAME);
    let Some(mut file) = access::open(&path, OpenOptions::new().read(true))? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(StateError::io("read", &path))?;
    match parse(&bytes) {
        Ok(document) => Ok(Some(document)),
        Err(Flaw::Newer(version)) => Err(StateError::Newer { path, version }),
        Err(Flaw::Line(line)) => Err(StateError::Damaged { path, line, remedy: D::REMEDY }),
    }
}

/// Why a text is none of ours. Never what it says: it may be a key.
#[derive(Debug, PartialEq)]
enum Flaw {
    Newer(u64),
    Line(Option<usize>),
}

fn parse<D: DeserializeOwned>(bytes: &[u8]) -> Result<D, Flaw> {
    let line =
        |at: usize| Flaw::Line(Some(1 + bytes[..at.min(bytes.len())].iter().filter(|&&byte| byte == b'\n').count()));
    let text = str::from_utf8(bytes).map_err(|error| line(error.valid_up_to()))?;
    // Only this line can be understood in each version to come.
    let (first, rest) = text.split_once('\n').ok_or(Flaw::Line(Some(1)))?;
    match first.trim_end().strip_prefix(VERSION_KEY).and_then(|version| version.parse().ok()) {
        Some(VERSION) => {}
        Some(version) if version > VERSION => return Err(Flaw::Newer(version)),
        _ => return Err(Flaw::Line(Some(1))),
    }
    if !text.ends_with(END) {
        return Err(line(text.len()));
    }
    let before = text.len() - rest.len();
    toml::from_str(rest).map_err(|error| error.span().map_or(Flaw::Line(None), |span| line(before + span.start)))
}

/// Puts it in the place of the old one. When this is done it lasts, whatever happens; until then a reader meets the
/// old one. If it fails, nothing was changed.
pub(super) fn write<D: Document>(locked: &Locked, document: &D) -> Result<(), StateError> {
    let path = locked.path().join(D::NAME);
    let write = || {
        let body = toml::to_string(document).map_err(io::Error::other)?;
        // Made for its owner alone, and removed should we fail.
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(locked.path())?;
        access::give(file.as_file(), locked.owner)?;
        file.write_all(format!("{VERSION_KEY}{VERSION}\n{body}{END}").as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        sync(locked)
    };
    write().map_err(StateError::io("write", &path))
}

/// Has the names in a directory last.
fn sync(directory: &Directory) -> io::Result<()> {
    // Other systems do not let a directory be opened as a file.
    if cfg!(unix) { File::open(directory.path())?.sync_all() } else { Ok(()) }
}
