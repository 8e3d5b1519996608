//! The programs in `peers/go`.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The yamux of the original's time.
pub(crate) const OLD: &str = "old.mod";
/// The newest one.
pub(crate) const NEW: &str = "go.mod";

/// The folder of the programs, built on the yamux that a file in `peers/go` names; none without Go.
pub(crate) fn built(version: &str) -> Option<PathBuf> {
    static BUILT: OnceLock<bool> = OnceLock::new();
    let folder = |version: &str| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(version).join("");
    let built = BUILT.get_or_init(|| {
        super::have(&["go"]) && {
            for version in [OLD, NEW] {
                let mut build = Command::new("go");
                build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../peers/go"));
                build.args(["build", &format!("-modfile={version}"), "-o"]).arg(folder(version)).arg("./...");
                assert!(build.status().unwrap().success());
            }
            true
        }
    });
    built.then(|| folder(version))
}
