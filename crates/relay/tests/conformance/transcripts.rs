//! docs/PROTOCOL.md shows the transcripts as they are in their files.

use std::collections::BTreeSet;
use std::fs;

use relay::conformance::relay::CHECKS;

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");

#[test]
fn each_transcript_is_a_file_and_each_file_is_shown() {
    let page = fs::read_to_string(format!("{DOCS}/PROTOCOL.md")).unwrap();
    let blocks = page.split("\n```text\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let shown: BTreeSet<String> = blocks.filter(|block| block.contains('→')).map(str::to_owned).collect();
    let files = fs::read_dir(format!("{DOCS}/transcripts")).unwrap();
    let files: BTreeSet<String> = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    assert_eq!(shown, files);
}

#[test]
fn checks_name_sections_that_are_there() {
    let page = fs::read_to_string(format!("{DOCS}/PROTOCOL.md")).unwrap();
    let sections: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    for check in CHECKS {
        assert!(sections.contains(&check.section), "{}: {:?}", check.name, check.section);
    }
}
