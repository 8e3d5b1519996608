//! Programs in Go.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

/// What `peers/go` is built with: the yamux of the original's time.
pub(crate) const OLD: &str = "old.mod";
/// The newest one.
pub(crate) const NEW: &str = "go.mod";

/// The folder of the programs that are in a folder of the project, built on what a file there names; none without Go.
pub(crate) fn built(folder: &str, version: &str) -> Option<PathBuf> {
    static BUILT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    if !super::have(&["go"]) {
        return None;
    }
    let programs = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(folder).join(version).join("");
    let mut done = BUILT.lock().unwrap();
    if !done.contains(&programs) {
        let mut build = Command::new("go");
        build.current_dir(format!("{}/../../{folder}", env!("CARGO_MANIFEST_DIR")));
        build.args(["build", &format!("-modfile={version}"), "-o"]).arg(&programs).arg("./...");
        assert!(build.status().unwrap().success());
        done.insert(programs.clone());
    }
    Some(programs)
}
