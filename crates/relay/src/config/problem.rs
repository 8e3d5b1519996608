//! What is wrong with a configuration.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong, and where. The operator's to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(super) file: PathBuf,
    /// From 1; `None` for what is about the whole file.
    pub(super) line: Option<usize>,
    pub(super) what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// A configuration that cannot be used: all that was found wrong with it, in the order of its lines. Shown with one
/// line for each problem, `FILE:LINE: what is wrong and what to do`. Never shows a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub(super) Vec<Problem>);

impl ConfigError {
    /// A problem with a file as a whole.
    pub(super) fn of(file: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self(vec![Problem { file: file.into(), line: None, what: what.into() }])
    }

    /// What is wrong; never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if at == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
