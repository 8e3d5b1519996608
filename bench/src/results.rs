//! Everything a run measured, as it is kept in a file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::metrics::Metrics;
use crate::rows::Row;
use crate::stats::Summary;

/// A run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Kernel, processors, memory: a line each.
    pub(crate) machine: Vec<String>,
    pub(crate) rounds: usize,
    /// Short measurements that only show that all works.
    pub(crate) quick: bool,
    /// Programs that could not take part, and why.
    pub(crate) missing: BTreeMap<String, String>,
    /// What could not be done, a sentence each.
    pub(crate) notes: Vec<String>,
    pub(crate) samples: Vec<Sample>,
}

/// One program in one row in one round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// The congestion control.
    pub(crate) setting: String,
    pub(crate) row: Row,
    pub(crate) program: String,
    pub(crate) round: usize,
    pub(crate) metrics: Metrics,
}

impl Results {
    /// Over the rounds.
    pub(crate) fn summary(&self, setting: &str, row: Row, program: &str, metric: &str) -> Option<Summary> {
        Summary::of(
            self.of(setting, row)
                .filter(|sample| sample.program == program)
                .filter_map(|sample| sample.metrics.get(metric)),
        )
    }

    /// Of a row that grows: for each step how many there were, and a figure over the rounds.
    pub(crate) fn growth(&self, setting: &str, row: Row, metric: &str) -> Vec<(f64, Summary)> {
        let of = |sample: &Sample| Some((sample.metrics.get("count")?, sample.metrics.get(metric)?));
        let all: Vec<(f64, f64)> = self.of(setting, row).filter_map(of).collect();
        let mut counts: Vec<f64> = all.iter().map(|(count, _)| *count).collect();
        counts.sort_by(f64::total_cmp);
        counts.dedup();
        let step = |count: f64| {
            let values = all.iter().filter(|(other, _)| other.total_cmp(&count).is_eq()).map(|(_, value)| *value);
            Some((count, Summary::of(values)?))
        };
        counts.into_iter().filter_map(step).collect()
    }

    /// The samples of a row.
    pub(crate) fn of<'a>(&'a self, setting: &'a str, row: Row) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.setting == setting && sample.row == row)
    }

    /// The settings, in the order of their first samples.
    pub(crate) fn settings(&self) -> Vec<&str> {
        let mut settings = Vec::new();
        for sample in &self.samples {
            if !settings.contains(&sample.setting.as_str()) {
                settings.push(sample.setting.as_str());
            }
        }
        settings
    }

    pub(crate) fn read(file: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(file)?)?)
    }

    pub(crate) fn write(&self, file: &Path) -> io::Result<()> {
        fs::write(file, serde_json::to_string_pretty(self)? + "\n")
    }
}
