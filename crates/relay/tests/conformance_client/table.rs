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
const END: &str = "<!-- End of the tables. -->";

/// What stands in a cell.
fn cell(implementation: &Implementation, line: &str, outcome: &Outcome) -> Result<String, String> {
    let why = implementation.fails.iter().find(|(fails, _)| *fails == line);
    match (outcome, why) {
        (Outcome::Holds, None) => Ok("yes".into()),
        (Outcome::NotOffered(_), None) => Ok("–".into()),
        (Outcome::Fails(_), Some((_, why))) => Ok(format!("**no**: {why}")),
        (Outcome::Fails(seen), None) => Err(format!("{}: {line}: fails and no reason is given: {seen}", implementation.name)),
        (_, Some(_)) => Err(format!("{}: {line}: a reason is given, and it does not fail", implementation.name)),
    }
}

async fn tried(implementation: &Implementation) -> Option<Report> {
    let start = (implementation.start)()?;
    let client = Client::new(implementation.protocol, "127.0.0.1:0".parse().unwrap(), start).await.unwrap();
    Some(conformance::client::run(&client, |_| Ok(())).await.unwrap())
}

/// The column of each implementation that can be tried here, from the top down.
async fn columns() -> BTreeMap<usize, Vec<String>> {
    let mut all = JoinSet::new();
    for (number, implementation) in ALL.iter().enumerate() {
        all.spawn(async move { (number, tried(implementation).await) });
    }
    let mut wrong = Vec::new();
    let mut columns = BTreeMap::new();
    for (number, report) in all.join_all().await {
        let Some(report) = report else { continue };
        let cells = report.rows.iter().map(|row| cell(&ALL[number], row.name, &row.outcome));
        let (good, bad): (Vec<_>, Vec<_>) = cells.partition(Result::is_ok);
        columns.insert(number, good.into_iter().map(Result::unwrap).collect());
        wrong.extend(bad.into_iter().map(Result::unwrap_err));
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
        numbers.iter().for_each(|number| drop(write!(tables, " {} |", ALL[**number].name)));
        let _ = write!(tables, "\n|---|{}", "---|".repeat(numbers.len()));
        for (row, check) in checks(protocol).enumerate() {
            let _ = write!(tables, "\n| {} |", check.name);
            numbers.iter().for_each(|number| drop(write!(tables, " {} |", columns[*number][row])));
        }
        tables.push('\n');
    }
    tables + "\n"
}

/// The columns as the document has them, those alone that are in `tried`.
fn documented(text: &str, tried: &BTreeMap<usize, Vec<String>>) -> BTreeMap<usize, Vec<String>> {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let tables: Vec<Vec<Vec<String>>> =
        text.split("\n\n").map(|table| table.lines().filter(|line| line.starts_with('|')).map(cells).collect()).collect();
    let column = |number: &usize| {
        let Implementation { name, protocol, .. } = ALL[*number];
        let table = tables.iter().find(|table| table.first().is_some_and(|head| head[0] == protocol.to_string()));
        let table = table.unwrap_or_else(|| panic!("no table of {protocol}"));
        let at = table[0].iter().position(|head| head == name).unwrap_or_else(|| panic!("{protocol}: no column {name}"));
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
