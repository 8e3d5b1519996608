//! SECURITY.md names a test for each row, and each limit: they are there.

use std::fs;
use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The names of all tests in a folder of Rust.
fn tests_in(folder: &Path, all: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            tests_in(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let lines: Vec<_> = text.lines().map(str::trim).collect();
            let tests =
                lines.windows(2).filter(|pair| pair[0].starts_with("#[test]") || pair[0].starts_with("#[tokio::test"));
            let name =
                |line: &str| line.trim_start_matches("async ").strip_prefix("fn ")?.split('(').next().map(String::from);
            all.extend(tests.filter_map(|pair| name(pair[1])));
        }
    }
}

/// The words between backticks that could be a test's name.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let is_name =
        |word: &&str| word.matches('_').count() > 1 && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    text.split('`').skip(1).step_by(2).filter(is_name)
}

#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let text = fs::read_to_string(Path::new(ROOT).join("SECURITY.md")).unwrap();
    let mut tests = Vec::new();
    tests_in(&Path::new(ROOT).join("crates"), &mut tests);
    let limits = limits();
    let unknown: Vec<_> = named(&text)
        .filter(|name| !tests.iter().any(|test| test == name) && !limits.iter().any(|limit| limit == name))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// The fields of `server::Limits`.
fn limits() -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/limits.rs")).unwrap();
    let fields = text.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':'));
    fields.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn every_limit_has_a_test() {
    let text = fs::read_to_string(Path::new(ROOT).join("SECURITY.md")).unwrap();
    let limits = limits();
    assert!(limits.len() > 10, "{limits:?}");
    let without: Vec<_> = limits.iter().filter(|limit| !text.contains(&format!("| `{limit}` | `"))).collect();
    assert!(without.is_empty(), "{without:?}");
}
