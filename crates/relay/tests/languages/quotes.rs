//! What the pages quote of the examples is what runs. The line above such a block names the file:
//!
//! ```text
//! <!-- from FILE -->      these lines are in FILE, one after the other, perhaps further to the right
//! <!-- all of FILE -->    this is FILE
//! ```

use std::collections::HashSet;
use std::fs;

use crate::support;

/// The languages of the examples, as blocks name them.
const LANGUAGES: [&str; 6] = ["rust", "python", "go", "js", "c", "bash"];

fn file(name: &str) -> String {
    fs::read_to_string(support::example(&format!("../{name}"))).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Panics unless each block in one of the languages is quoted from a file; says how many there are.
fn compare(page: &str) -> usize {
    let text = file(page);
    let mut above = "";
    let mut lines = text.lines();
    let mut compared = 0;
    while let Some(line) = lines.next() {
        if line.strip_prefix("```").is_some_and(|language| LANGUAGES.contains(&language)) {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            let marker = above.strip_prefix("<!-- ").and_then(|marker| marker.strip_suffix(" -->"));
            let marker = marker.unwrap_or_else(|| panic!("{page}: nothing names the file of {block:#?}"));
            let (how, name) = marker.rsplit_once(' ').unwrap();
            let whole = file(name);
            let whole: Vec<_> = whole.lines().collect();
            let same = match how {
                "all of" => whole == block,
                "from" => whole.windows(block.len()).any(|run| is_indented(run, &block)),
                _ => panic!("{page}: {marker}"),
            };
            assert!(same, "{page}: not in {name}: {block:#?}");
            compared += 1;
        }
        above = line;
    }
    compared
}

/// The lines are those of the block, all of them as much further to the right.
fn is_indented(lines: &[&str], block: &[&str]) -> bool {
    let indent = lines[0].len().saturating_sub(block[0].len());
    let blanks = " ".repeat(indent);
    let prefix = |own: &str| if own.is_empty() { "" } else { &blanks };
    lines.iter().zip(block).all(|(line, own)| line.strip_prefix(prefix(own)) == Some(own))
}

#[test]
fn pages_quote_what_runs() {
    assert!(compare("docs/EMBEDDING.md") >= 16);
    assert!(compare("docs/PROTOCOL.md") >= 2);
    assert!(compare("README.md") >= 1);
}

/// The lines of a program without those that only say what it is.
fn code(program: &str) -> HashSet<&str> {
    program.lines().filter(|line| !line.starts_with("//") && !line.starts_with("\"\"\"")).collect()
}

#[test]
fn a_server_changes_by_less_than_ten_lines() {
    for (before, after) in [
        ("examples/python/server.py", "examples/python/relayed_server.py"),
        ("examples/go/hello/main.go", "examples/go/relayed_hello/main.go"),
        ("examples/node/hello.mjs", "examples/node/relayed_hello.mjs"),
    ] {
        let (before, after) = (file(before), file(after));
        let (before, after) = (code(&before), code(&after));
        let changed: Vec<_> = before.symmetric_difference(&after).collect();
        assert!(changed.len() < 10, "{changed:#?}");
    }
}
