//! The results as one page of Markdown: targets first, then what was measured.

use std::fmt::Write as _;

use clap::ValueEnum;

use super::metric::{self, digits};
use super::targets::{Bound, Verdict, verdicts};
use crate::programs::Program;
use crate::results::Results;
use crate::rows::{Ground, Row};
use crate::stats::Summary;

/// The page; `charts` are files' names, `folder` is where they are as seen from the page, with its slash.
pub(crate) fn page(results: &Results, charts: &[String], folder: &str) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = head(&mut page, results);
    let _ = targets(&mut page, &verdicts(results));
    for setting in results.settings() {
        for &row in Row::value_variants() {
            if results.of(setting, row).next().is_some() {
                let _ = table(&mut page, results, setting, row);
                let begin = format!("{setting}-{}-", row.name());
                for chart in charts.iter().filter(|name| is_of(name, &begin, row)) {
                    let _ = writeln!(page, "![{}]({folder}{chart})", row.title());
                }
                page.push('\n');
            }
        }
    }
    page
}

/// `ping-64`'s charts begin like `ping`'s: the figure's name must follow.
fn is_of(name: &str, begin: &str, row: Row) -> bool {
    let figure = name.strip_prefix(begin).and_then(|rest| rest.strip_suffix(".svg"));
    figure.is_some_and(|figure| metric::charted(row).iter().any(|metric| metric.replace('_', "-") == figure))
}

fn head(page: &mut String, results: &Results) -> std::fmt::Result {
    if results.quick {
        writeln!(page, "**A quick run, which only shows that all works. Its figures say little.**\n")?;
    }
    for line in &results.machine {
        writeln!(page, "- {line}")?;
    }
    writeln!(page, "- {} rounds; medians, the smallest and the largest in brackets", results.rounds)?;
    for (program, reason) in &results.missing {
        writeln!(page, "- missing: {program} ({reason})")?;
    }
    for note in &results.notes {
        writeln!(page, "- {note}")?;
    }
    page.push('\n');
    Ok(())
}

fn targets(page: &mut String, verdicts: &[Verdict]) -> std::fmt::Result {
    if verdicts.is_empty() {
        return Ok(());
    }
    writeln!(page, "### Targets\n")?;
    writeln!(page, "| row | | under | program | measured | against | ratio | target | met | moonshot |")?;
    writeln!(page, "|---|---|---|---|---|---|---|---|---|---|")?;
    for verdict in verdicts {
        let against = match verdict.against {
            Some((program, value)) => format!("{} {}", program.title(), digits(value)),
            None => "–".to_owned(),
        };
        let (bound, met) = said(verdict.bound, verdict.value);
        let (moonshot, reached) = said(verdict.moonshot, verdict.value);
        writeln!(
            page,
            "| {} | {} | {} | {} | {} | {against} | {} | {bound} | {met} | {moonshot} {reached} |",
            verdict.row.title(),
            metric::title(verdict.metric),
            verdict.setting,
            verdict.program.title(),
            digits(verdict.ours),
            digits(verdict.value),
        )?;
    }
    page.push('\n');
    Ok(())
}

/// A bound, and whether it is met.
fn said(bound: Option<Bound>, value: f64) -> (String, &'static str) {
    let Some(bound) = bound else { return (String::new(), "") };
    let text = match bound {
        Bound::AtLeast(bound) => format!("≥ {bound}"),
        Bound::AtMost(bound) => format!("≤ {bound}"),
    };
    (text, if bound.holds(value) { "yes" } else { "**no**" })
}

fn cell(all: Summary) -> String {
    match all.count {
        1 => digits(all.median),
        _ => format!("**{}** ({}–{})", digits(all.median), digits(all.min), digits(all.max)),
    }
}

/// By how much the steepest doubling exceeds growth in proportion: 1 is linear, less is better.
fn worst_step(growth: &[(f64, Summary)]) -> Option<f64> {
    let steps = growth.windows(2).map(|pair| (pair[1].1.median / pair[0].1.median) / (pair[1].0 / pair[0].0));
    steps.reduce(f64::max)
}

fn table(page: &mut String, results: &Results, setting: &str, row: Row) -> std::fmt::Result {
    writeln!(page, "### {} ({setting})\n", row.title())?;
    let columns = metric::columns(row);
    let titles: Vec<&str> = columns.iter().map(|column| metric::title(column)).collect();
    if row.ground() == Ground::Scale {
        writeln!(page, "| {} |\n|{}", titles.join(" | "), "---|".repeat(columns.len()))?;
        let growths: Vec<_> = columns.iter().map(|column| results.growth(setting, row, column)).collect();
        for step in 0..growths[0].len() {
            let cells = growths.iter().map(|growth| growth.get(step).map_or_else(|| "–".to_owned(), |at| cell(at.1)));
            writeln!(page, "| {} |", cells.collect::<Vec<_>>().join(" | "))?;
        }
        let worst = growths.iter().map(|growth| worst_step(growth).map_or_else(|| "–".to_owned(), digits));
        writeln!(
            page,
            "| worst step, as a part of what linear growth would give | {} |",
            worst.skip(1).collect::<Vec<_>>().join(" | ")
        )?;
    } else {
        writeln!(page, "| | {} |\n|---|{}", titles.join(" | "), "---|".repeat(columns.len()))?;
        for program in Program::ALL {
            let cell = |column: &&str| {
                results.summary(setting, row, program.name(), column).map_or_else(|| "–".to_owned(), cell)
            };
            if results.of(setting, row).any(|sample| sample.program == program.name()) {
                let cells: Vec<String> = columns.iter().map(cell).collect();
                writeln!(page, "| {} | {} |", program.title(), cells.join(" | "))?;
            }
        }
    }
    page.push('\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::results::Sample;

    #[test]
    fn a_page_names_what_is_missing_and_what_was_not_met() {
        let sample = |program: Program, round, value| Sample {
            setting: "cubic".into(),
            row: Row::Ping64,
            program: program.name().into(),
            round,
            metrics: Metrics::of([("per_s", value)]),
        };
        let mut results = Results { rounds: 2, ..Results::default() };
        results.missing.insert("bore".into(), "not there".into());
        results.samples = vec![
            sample(Program::Multiplex, 0, 100.0),
            sample(Program::Multiplex, 1, 120.0),
            sample(Program::Rathole, 0, 100.0),
        ];
        let page = page(&results, &["cubic-ping-64-per-s.svg", "cubic-ping-median-us.svg"].map(String::from), "x/");
        assert!(page.contains("- missing: bore (not there)"), "{page}");
        assert!(page.contains("| relay, multiplex | **110** (100–120) | – | – |"), "{page}");
        assert!(page.contains("| rathole 100 | 1.10 | ≥ 1.5 | **no** |"), "{page}");
        assert!(page.contains("](x/cubic-ping-64-per-s.svg)") && !page.contains("cubic-ping-median-us"), "{page}");
    }
}
