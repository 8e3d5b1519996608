//! Results as people read them: Markdown and charts.

pub(crate) mod markdown;
pub(crate) mod metric;
pub(crate) mod svg;
pub(crate) mod targets;

use std::fs;
use std::io;
use std::path::Path;

use crate::programs::Program;
use crate::results::Results;
use crate::rows::{Ground, Row};
use clap::ValueEnum;

/// Writes `results.json`, `results.md` and the charts into the folder, and gives the page.
pub(crate) fn write(results: &Results, folder: &Path) -> io::Result<String> {
    fs::create_dir_all(folder)?;
    // No chart of another run may stay.
    for old in fs::read_dir(folder)?.flatten().filter(|file| file.path().extension().is_some_and(|end| end == "svg")) {
        fs::remove_file(old.path())?;
    }
    results.write(&folder.join("results.json"))?;
    let charts = charts(results);
    for (name, chart) in &charts {
        fs::write(folder.join(name), chart)?;
    }
    let names: Vec<String> = charts.into_iter().map(|(name, _)| name).collect();
    let page = markdown::page(results, &names, "");
    fs::write(folder.join("results.md"), &page)?;
    Ok(page)
}

fn charts(results: &Results) -> Vec<(String, String)> {
    let rows = |setting| Row::value_variants().iter().flat_map(move |row| charts_of(results, setting, *row));
    results.settings().into_iter().flat_map(rows).collect()
}

/// File names and pictures.
fn charts_of(results: &Results, setting: &str, row: Row) -> Vec<(String, String)> {
    let mut charts = Vec::new();
    for metric in metric::charted(row) {
        let title = format!("{}: {} ({setting})", row.title(), metric::title(metric));
        let picture = if row.ground() == Ground::Scale {
            let steps = results.growth(setting, row, metric).into_iter();
            svg::growth(&title, &steps.map(|(count, all)| (count, all.median)).collect::<Vec<_>>())
        } else {
            let bars = Program::ALL.into_iter().filter_map(|program| {
                let summary = results.summary(setting, row, program.name(), metric)?;
                Some(svg::Bar { name: program.title(), ours: program.is_ours(), summary })
            });
            svg::bars(&title, &bars.collect::<Vec<_>>())
        };
        let name = format!("{setting}-{}-{}.svg", row.name(), metric.replace('_', "-"));
        charts.extend(picture.map(|picture| (name, picture)));
    }
    charts
}

/// Puts the page between the markers of a document, which keeps the rest. `folder` is where the charts are as seen from
/// the document.
pub(crate) fn publish(results: &Results, folder: &str, document: &Path) -> io::Result<()> {
    const BEGIN: &str = "<!-- results: written by relay-bench -->";
    const END: &str = "<!-- end of results -->";
    let text = fs::read_to_string(document)?;
    let parts = text.split_once(BEGIN).and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let Some((head, tail)) = parts else {
        return Err(io::Error::other(format!("{} has not got the lines {BEGIN} and {END}", document.display())));
    };
    let names: Vec<String> = charts(results).into_iter().map(|(name, _)| name).collect();
    let page = markdown::page(results, &names, &format!("{folder}/"));
    fs::write(document, format!("{head}{BEGIN}\n\n{page}{END}{tail}"))
}
