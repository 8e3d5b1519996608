//! What came of the checks: a table for people, and an exit code.

use std::fmt;

use super::Seen;

/// What came of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As the protocol says.
    Holds,
    /// Otherwise: how.
    Fails(Seen),
    /// The subject does not have the extension of this word.
    NotOffered(&'static str),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Holds => "holds",
            Self::Fails(_) => "FAILS",
            Self::NotOffered(_) => "not offered",
        })
    }
}

/// One check and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The check's name.
    pub name: &'static str,
    /// The section of docs/PROTOCOL.md.
    pub section: &'static str,
    /// Why it matters.
    pub why: &'static str,
    /// What came of it.
    pub outcome: Outcome,
}

impl fmt::Display for Row {
    /// One line of the table, and for a failure another with what was seen and where to read what should have been.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, section, why, outcome } = self;
        write!(f, "{outcome:<11}  {name:<40}  {why}")?;
        match outcome {
            Outcome::Fails(seen) => write!(f, "\n             seen: {seen} (docs/PROTOCOL.md, {section})"),
            Outcome::Holds | Outcome::NotOffered(_) => Ok(()),
        }
    }
}

/// All that was tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order of the checks.
    pub rows: Vec<Row>,
}

impl Report {
    /// How many checks failed.
    pub fn failures(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Fails(_)))
    }

    fn count(&self, which: impl Fn(&Outcome) -> bool) -> usize {
        self.rows.iter().filter(|row| which(&row.outcome)).count()
    }
}

impl fmt::Display for Report {
    /// The count that stands below the table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let holds = self.count(|outcome| *outcome == Outcome::Holds);
        let not_offered = self.count(|outcome| matches!(outcome, Outcome::NotOffered(_)));
        write!(f, "{holds} hold, {} failed, {not_offered} not offered", self.failures())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_failed_and_how() {
        let row = |outcome| Row { name: "half-close", section: "5. Ends", why: "Replies are lost.", outcome };
        let rows = vec![
            row(Outcome::Holds),
            row(Outcome::Fails("a reset".into())),
            row(Outcome::Holds),
            row(Outcome::NotOffered("proxy")),
        ];
        assert_eq!(rows[0].to_string(), format!("holds        {:<40}  Replies are lost.", "half-close"));
        assert!(rows[1].to_string().ends_with("\n             seen: a reset (docs/PROTOCOL.md, 5. Ends)"));
        assert!(rows[3].to_string().starts_with("not offered  half-close"));
        assert_eq!(Report { rows }.to_string(), "2 hold, 1 failed, 1 not offered");
    }
}
