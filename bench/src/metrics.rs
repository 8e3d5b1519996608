//! Named figures, and how one process gives them to another: a line for each, then a line with a dot.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use serde::{Deserialize, Serialize};

/// Named figures. A name ends with its unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    pub(crate) fn of<const N: usize>(figures: [(&str, f64); N]) -> Self {
        Self(figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    pub(crate) fn set(&mut self, name: &str, value: f64) {
        self.0.insert(name.to_owned(), value);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    pub(crate) fn print(&self) {
        for (name, value) in self.iter() {
            println!("{name} {value}");
        }
        println!(".");
    }

    /// Reads what [`print`](Self::print) wrote.
    ///
    /// # Errors
    /// The other process ended before the dot, or wrote something else.
    pub(crate) fn read(from: &mut impl BufRead) -> io::Result<Self> {
        let mut metrics = Self::default();
        let mut line = String::new();
        loop {
            line.clear();
            if from.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match line.trim().split_once(' ') {
                None if line.trim() == "." => return Ok(metrics),
                Some((name, value)) => metrics.set(name, value.parse().map_err(io::Error::other)?),
                None => return Err(io::Error::other(format!("{line:?} is no figure"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ends_early_gave_nothing() {
        assert_eq!(Metrics::read(&mut &b"a_s 1.5\n.\n"[..]).unwrap(), Metrics::of([("a_s", 1.5)]));
        assert!(Metrics::read(&mut &b"a_s 1.5\n"[..]).is_err());
        assert!(Metrics::read(&mut &b"hello\n.\n"[..]).is_err());
    }
}
