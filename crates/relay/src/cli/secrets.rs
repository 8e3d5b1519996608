//! What must not be shown again of what was typed.

use std::ffi::OsString;

/// How many characters of a token's alphabet in a row, in a word that looks like an invite, are hidden. A token has
/// 43; one that was cut in two has more than this in one half.
const SECRET: usize = 16;

/// The same of a word that has nothing else: a token that lost a few characters, or gained some.
const BARE: usize = 40;

/// Puts stars in place of invites and tokens from `args` that a message shows: people paste them in wrong places, and
/// messages are pasted elsewhere.
pub(super) fn hide(message: &str, args: &[OsString]) -> String {
    let mut message = message.to_owned();
    for arg in args.iter().map(|arg| arg.to_string_lossy()) {
        let runs: Vec<_> = arg.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))).collect();
        let longest = runs.iter().map(|run| run.len()).max().unwrap_or(0);
        let is_invite = longest >= SECRET && (arg.contains('@') || arg.contains("relay:"));
        if !(is_invite || runs.len() == 1 && longest >= BARE) {
            continue;
        }
        let value = arg.split_once('=').filter(|_| arg.starts_with('-')).map_or(&*arg, |(_, value)| value);
        message = message.replace(value, "***");
        // A message may show it with other characters escaped.
        for run in runs.into_iter().filter(|run| run.len() >= SECRET) {
            message = message.replace(run, "***");
        }
    }
    message
}
