//! The tables of docs/OPERATING.md quote what the program says: it must still say so.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The first columns of tables that quote.
const QUOTING: [&str; 2] = ["| sentence |", "| the log says |"];

/// All that is between the backticks of the first column.
fn quotes(page: &str) -> Vec<&str> {
    let mut quotes = Vec::new();
    let mut lines = page.lines();
    while lines.by_ref().any(|line| QUOTING.iter().any(|head| line.starts_with(head))) {
        let rows = lines.by_ref().skip(1).take_while(|line| line.starts_with('|'));
        quotes.extend(rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)));
    }
    quotes
}

/// All source below a folder, with texts that go on in the next line in one.
fn source(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            source(&entry, all);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(entry).unwrap();
            let mut pieces = text.split("\\\n");
            all.push_str(pieces.next().unwrap_or_default());
            pieces.for_each(|piece| all.push_str(piece.trim_start()));
        }
    }
}

#[test]
fn every_sentence_is_one_of_the_programs() {
    let page = fs::read_to_string(format!("{ROOT}/docs/OPERATING.md")).unwrap();
    let mut all = String::new();
    for package in ["relay", "relay-client", "relay-net", "relay-proto"] {
        source(&Path::new(ROOT).join("crates").join(package).join("src"), &mut all);
    }
    let quotes = quotes(&page);
    assert!(quotes.len() > 40, "{quotes:?}");
    // What varies is cut out, and a sentence of two parts may be put together as it is said.
    for piece in quotes.iter().flat_map(|quote| quote.split(['…', ':'])).map(str::trim) {
        assert!(all.contains(piece), "nothing says {piece:?}");
    }
}
