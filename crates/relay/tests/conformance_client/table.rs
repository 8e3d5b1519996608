//! The table in docs/PROTOCOL.md of what known implementations pass.
//!
//! With `RELAY_WRITE_TABLE` in the environment it is written; otherwise each column whose programs are installed is
//! compared.

use std::collections::BTreeMap;
use std::fmt::Write;

use relay::conformance::client::{Client, checks};
use relay::conformance::{self, Outcome, Report};
use tokio::task::JoinSet;

use crate::PROTOCOLS;
use crate::implementations::{ALL, Implementation};

const SPECIFICATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/PROTOCOL.md");
const BEGIN: &str = "<!-- The tables are made: see CONTRIBUTING.md. -->\n";
/// How many kits share the checks of one implementation: most of the time they wait for what does not come.
const KITS: usize = 5;
const END: &str = "<!-- End of the tables. -->";

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

/// Each so manieth check, from the n-th on; none without the programs for it.
async fn tried(implementation: &Implementation, nth: usize) -> Option<Report> {
    let start = (implementation.start)()?;
    let client = Client::new(implementation.protocol, "127.0.0.1:0".parse().unwrap(), start).await.unwrap();
    client.meet().await;
    let checks: Vec<_> = checks(implementation.protocol).skip(nth).step_by(KITS).collect();
    Some(conformance::run(&client, checks, |_| Ok(())).await.unwrap())
}

/// The column of each implementation that can be tried here, from the top down.
async fn columns() -> BTreeMap<usize, Vec<String>> {
    let mut all = JoinSet::new();
    for (number, implementation) in ALL.iter().enumerate() {
        for nth in 0..KITS {
            all.spawn(async move { (number, nth, tried(implementation, nth).await) });
        }
    }
    let mut wrong = Vec::new();
    let mut columns: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (number, nth, report) in all.join_all().await {
        let Some(report) = report else { continue };
        let column = columns.entry(number).or_insert_with(|| vec![String::new(); checks(ALL[number].protocol).count()]);
        for (row, place) in report.rows.iter().zip(column.iter_mut().skip(nth).step_by(KITS)) {
            match cell(&ALL[number], row.name, &row.outcome) {
                Ok(cell) => *place = cell,
                Err(error) => wrong.push(error),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    columns
}

fn tables(columns: &BTreeMap<usize, Vec<String>>) -> String {
    let mut tables = String::new();
    for protocol in PROTOCOLS {
        let of = |number: &&usize| ALL[**number].protocol == protocol;
        let numbers: Vec<_> = columns.keys().filter(of).collect();
        let _ = write!(tables, "\n| {protocol} |");
        tables.extend(numbers.iter().map(|number| format!(" {} |", ALL[**number].name)));
        let _ = write!(tables, "\n|---|{}", "---|".repeat(numbers.len()));
        for (row, check) in checks(protocol).enumerate() {
            let _ = write!(tables, "\n| {} |", check.name);
            tables.extend(numbers.iter().map(|number| format!(" {} |", columns[*number][row])));
        }
        tables.push('\n');
    }
    tables + "\n"
}

/// The columns as the document has them, those alone that are in `tried`.
fn documented(text: &str, tried: &BTreeMap<usize, Vec<String>>) -> BTreeMap<usize, Vec<String>> {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let tables: Vec<Vec<Vec<String>>> = text
        .split("\n\n")
        .map(|table| table.lines().filter(|line| line.starts_with('|')).map(cells).collect())
        .collect();
    let column = |number: &usize| {
        let Implementation { name, protocol, .. } = ALL[*number];
        let table = tables.iter().find(|table| table.first().is_some_and(|head| head[0] == protocol.to_string()));
        let table = table.unwrap_or_else(|| panic!("no table of {protocol}"));
        let at =
            table[0].iter().position(|head| head == name).unwrap_or_else(|| panic!("{protocol}: no column {name}"));
        (*number, table[2..].iter().map(|row| row[at].clone()).collect())
    };
    tried.keys().map(column).collect()
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
    assert_eq!(documented(text, &columns), columns, "RELAY_WRITE_TABLE=1 makes it anew");
    for protocol in PROTOCOLS {
        let named = |check: &&conformance::Check<Client>| text.contains(&format!("\n| {} |", check.name));
        assert!(checks(protocol).all(|check| named(&check)), "{protocol}: lines are missing");
    }
}
