//! The table in docs/PROTOCOL.md of what known implementations pass.
//!
//! With `RELAY_WRITE_TABLE` in the environment it is written; otherwise each column whose programs are installed is
//! compared.

use std::collections::BTreeMap;
use std::fmt::Write;

use relay::conformance::client::{Client, checks};
use relay::conformance::{self, Outcome};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::PROTOCOLS;
use crate::implementations::{ALL, Implementation};

const SPECIFICATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/PROTOCOL.md");
const BEGIN: &str = "<!-- The tables are made: see CONTRIBUTING.md. -->\n";
const END: &str = "<!-- End of the tables. -->";

/// How many implementations are tried at the same time: most of it is waiting.
const AT_ONCE: usize = 8;

/// What stands in a cell.
fn cell(implementation: &Implementation, line: &str, outcome: &Outcome) -> Result<String, String> {
    let why = implementation.fails.iter().find(|(fails, _)| *fails == line);
    match (outcome, why) {
        (Outcome::Holds, None) => Ok("yes".into()),
        (Outcome::NotOffered(_), None) => Ok("–".into()),
        (Outcome::Fails(_), Some((_, why))) => Ok(format!("**no**: {why}")),
        (Outcome::Fails(seen), None) => {
            Err(format!("{}: {line}: fails and no reason is given: {seen}", implementation.name))
        }
        (_, Some(_)) => Err(format!("{}: {line}: a reason is given, and it does not fail", implementation.name)),
    }
}

/// What the lines say of an implementation, as cells of the table; nothing without the programs for it.
type Cells = Vec<(&'static str, Result<String, String>)>;

async fn tried(implementation: &Implementation, lines: impl Fn(&str) -> bool) -> Cells {
    static TURN: Semaphore = Semaphore::const_new(AT_ONCE);
    let _turn = TURN.acquire().await.unwrap();
    let Some(start) = (implementation.start)() else { return Cells::new() };
    let client = Client::new(implementation.protocol, "127.0.0.1:0".parse().unwrap(), start).await.unwrap();
    client.meet().await;
    let checks: Vec<_> = checks(implementation.protocol).filter(|check| lines(check.name)).collect();
    let report = conformance::run(&client, checks, |_| Ok(())).await.unwrap();
    report.rows.iter().map(|row| (row.name, cell(implementation, row.name, &row.outcome))).collect()
}

/// By implementation and line. One without its programs is left out.
type Columns = BTreeMap<usize, BTreeMap<&'static str, String>>;

async fn columns() -> Columns {
    let mut all = JoinSet::new();
    for (number, implementation) in ALL.iter().enumerate() {
        let fails = |line: &str| implementation.fails.iter().any(|(fails, _)| *fails == line);
        all.spawn(async move { (number, tried(implementation, |line| !fails(line)).await) });
        // What fails does so by waiting in vain: each on its own, and so at the same time.
        for (fails, _) in implementation.fails {
            all.spawn(async move { (number, tried(implementation, |line| line == *fails).await) });
        }
    }
    let mut wrong = Vec::new();
    let mut columns = Columns::new();
    for (number, cells) in all.join_all().await {
        for (line, cell) in cells {
            match cell {
                Ok(cell) => drop(columns.entry(number).or_default().insert(line, cell)),
                Err(error) => wrong.push(error),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    columns
}

fn tables(columns: &Columns) -> String {
    let mut tables = String::new();
    for protocol in PROTOCOLS {
        let of = |number: &&usize| ALL[**number].protocol == protocol;
        let numbers: Vec<_> = columns.keys().filter(of).collect();
        let _ = write!(tables, "\n| {protocol} |");
        tables.extend(numbers.iter().map(|number| format!(" {} |", ALL[**number].name)));
        let _ = write!(tables, "\n|---|{}", "---|".repeat(numbers.len()));
        for check in checks(protocol) {
            let _ = write!(tables, "\n| {} |", check.name);
            tables.extend(numbers.iter().map(|number| format!(" {} |", columns[*number][check.name])));
        }
        tables.push('\n');
    }
    tables + "\n"
}

/// A column as the document has it.
fn documented<'a>(text: &'a str, implementation: &Implementation) -> BTreeMap<&'a str, String> {
    let Implementation { protocol, name, .. } = implementation;
    let mut tables = text.split("\n\n").map(str::trim_start);
    let table = tables.find(|table| table.starts_with(&format!("| {protocol} |"))).unwrap();
    let mut rows = table.lines().map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    let at = rows.next().unwrap().iter().position(|head| head == name);
    let at = at.unwrap_or_else(|| panic!("{protocol}: no column of {name}: RELAY_WRITE_TABLE=1 makes it"));
    rows.skip(1).map(|row| (row[0], row[at].to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_known_implementations_pass() {
    let specification = std::fs::read_to_string(SPECIFICATION).unwrap();
    let (before, rest) = specification.split_once(BEGIN).unwrap();
    let (text, after) = rest.split_once(END).unwrap();
    let columns = columns().await;
    if std::env::var_os("RELAY_WRITE_TABLE").is_some() {
        assert_eq!(columns.len(), ALL.len(), "not all programs are installed");
        std::fs::write(SPECIFICATION, format!("{before}{BEGIN}{}{END}{after}", tables(&columns))).unwrap();
        return;
    }
    for (number, column) in columns {
        let implementation = &ALL[number];
        let name = implementation.name;
        assert_eq!(documented(text, implementation), column, "{name}: RELAY_WRITE_TABLE=1 makes the tables anew");
    }
}
