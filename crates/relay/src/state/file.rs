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
    // Lines count from 1.
    let line = |at: usize| Flaw::Line(Some(bytes[..at.min(bytes.len())].split(|&byte| byte == b'\n').count()));
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

#[cfg(test)]
mod tests {
    use std::fs;

    use serde::Deserialize;

    use super::super::rig;
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Numbers {
        #[serde(default)]
        number: Vec<Number>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Number {
        value: u32,
    }

    impl Document for Numbers {
        const NAME: &'static str = "numbers.toml";
        const REMEDY: &'static str = "count again";
    }

    fn numbers(values: &[u32]) -> Numbers {
        Numbers { number: values.iter().map(|&value| Number { value }).collect() }
    }

    #[test]
    fn what_is_written_is_read() {
        let place = tempfile::tempdir().unwrap();
        let locked = rig::lock(place.path());
        assert_eq!(read::<Numbers>(&locked).unwrap(), None);
        for numbers in [numbers(&[1, 2, 3]), numbers(&[]), numbers(&[7])] {
            write(&locked, &numbers).unwrap();
            assert_eq!(read::<Numbers>(&locked).unwrap(), Some(numbers));
        }
        let text = fs::read_to_string(place.path().join("numbers.toml")).unwrap();
        assert_eq!(text, "version = 1\n[[number]]\nvalue = 7\n# end\n");
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_and_left_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        let locked = rig::lock(place.path());
        let path = place.path().join("numbers.toml");
        write(&locked, &numbers(&[1, 20])).unwrap();
        let whole = fs::read(&path).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let error = read::<Numbers>(&locked).unwrap_err();
            assert!(matches!(error, StateError::Damaged { .. }), "{length}: {error}");
            assert_eq!(fs::read(&path).unwrap(), whole[..length]);
        }
    }

    #[test]
    fn damage_is_said_with_its_line_and_without_its_text() {
        let place = tempfile::tempdir().unwrap();
        let locked = rig::lock(place.path());
        let path = place.path().join("numbers.toml");
        write(&locked, &numbers(&[])).unwrap();
        for (text, line) in [
            ("version = 1\n[[number]]\nvalue = \"secret\"\n# end\n", 3),
            ("version = 1\n[[number]]\nvalue secret\n# end\n", 3),
            ("version = 1\nsecret = 1\n# end\n", 2),
            ("version = 0\n# end\n", 1),
            ("secret\n# end\n", 1),
            ("version = 1\n[[number]]\nvalue = 1\n", 4),
        ] {
            fs::write(&path, text).unwrap();
            let error = read::<Numbers>(&locked).unwrap_err().to_string();
            let expected = format!("{} is damaged at line {line} and left as it is: count again", path.display());
            assert_eq!(error, expected, "{text:?}");
        }
        fs::write(&path, b"version = 1\n\xff\n# end\n").unwrap();
        assert!(read::<Numbers>(&locked).unwrap_err().to_string().contains("damaged at line 2"));
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let place = tempfile::tempdir().unwrap();
        let locked = rig::lock(place.path());
        write(&locked, &numbers(&[])).unwrap();
        for text in ["version = 2\n", "version = 2\nwhatever it has {{{", "version = 18446744073709551615\r\n"] {
            fs::write(place.path().join("numbers.toml"), text).unwrap();
            let error = read::<Numbers>(&locked).unwrap_err();
            assert!(matches!(error, StateError::Newer { .. }), "{text:?}: {error}");
        }
    }

    #[test]
    fn what_a_crash_left_is_not_read_and_goes() {
        let place = tempfile::tempdir().unwrap();
        let locked = rig::lock(place.path());
        write(&locked, &numbers(&[1])).unwrap();
        let left = place.path().join(format!("{UNFINISHED}numbers"));
        fs::write(&left, "version = 1\n[[num").unwrap();
        assert_eq!(read::<Numbers>(&locked).unwrap(), Some(numbers(&[1])));
        drop(locked);
        let locked = rig::lock(place.path());
        assert!(!left.exists());
        assert_eq!(read::<Numbers>(&locked).unwrap(), Some(numbers(&[1])));
    }

    #[test]
    fn a_reader_never_meets_half_a_file() {
        let place = tempfile::tempdir().unwrap();
        let locked = rig::lock(place.path());
        let (few, many) = (numbers(&[1]), numbers(&[2; 1000]));
        write(&locked, &few).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (0..50).for_each(|turn| write(&locked, [&many, &few][turn % 2]).unwrap()));
            while !writer.is_finished() {
                let found = read::<Numbers>(&locked).unwrap().unwrap();
                assert!(found == few || found == many);
            }
        });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_or_read_only_disk_changes_nothing() {
        let Some(disk) = rig::SmallDisk::mount() else { return };
        let locked = rig::lock(disk.path());
        write(&locked, &numbers(&[1])).unwrap();
        disk.fill();
        let error = write(&locked, &numbers(&[2; 1000])).unwrap_err().to_string();
        assert!(error.contains("numbers.toml") && error.ends_with("free some space: nothing was changed"), "{error}");
        assert_eq!(read::<Numbers>(&locked).unwrap(), Some(numbers(&[1])));
        let names: Vec<_> = fs::read_dir(disk.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 3, "{names:?}");

        drop(locked);
        disk.make_read_only();
        let directory = Directory::make(Some(disk.path())).unwrap();
        assert_eq!(read::<Numbers>(&directory).unwrap(), Some(numbers(&[1])));
        let error = directory.lock().unwrap_err().to_string();
        assert!(error.contains("make it writable"), "{error}");
    }
}
