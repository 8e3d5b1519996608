//! Reads a file's tables key by key, into values of our own types.
//!
//! What is read is known, and what is left when a [`Table`] is dropped is not: so no key can be ignored, and the
//! nearest known one can be named. Nothing stops at the first problem.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::mem;
use std::num::ParseIntError;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use relay_proto::identity::Token;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::value::{Datetime, Offset};

use super::files::References;
use super::problem::Problem;

/// How alike a known key is for it to be suggested, from 0 to 1. A letter too many, too few, wrong or swapped stays
/// above it in keys of four letters.
const ALIKE: f64 = 0.8;

/// How much of an unknown key is shown, in characters.
const SHOWN: usize = 40;

/// A file that is being read, and what was found wrong.
pub(super) struct Source<'a> {
    path: &'a Path,
    text: &'a str,
    references: References,
    problems: RefCell<Vec<Problem>>,
    /// Every key that was asked for, with its table: `limits.memory`.
    known: RefCell<BTreeSet<String>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str, references: References) -> Self {
        Self { path, text, references, problems: RefCell::default(), known: RefCell::default() }
    }

    /// The file's outermost table. `None` if it is not TOML.
    pub(super) fn root(&self) -> Option<DeTable<'a>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            let line = error.span().map(|span| self.line(&span));
            self.add(line, error.message().lines().collect::<Vec<_>>().join(", "));
        }
        errors.is_empty().then(|| table.into_inner())
    }

    pub(super) fn table(&self, table: DeTable<'a>) -> Table<'_, 'a> {
        Table::new(self, "", None, table)
    }

    pub(super) fn references(&self) -> References {
        self.references
    }

    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        before.split(|&byte| byte == b'\n').count()
    }

    pub(super) fn add(&self, line: Option<usize>, what: impl Into<String>) {
        self.problems.borrow_mut().push(Problem { file: self.path.into(), line, what: what.into() });
    }

    /// What is wrong, in the order of lines.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| problem.line);
        problems
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> BTreeSet<String> {
        self.known.borrow().clone()
    }

    /// A path as the file means it: seen from the file's folder.
    fn path(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }
}

/// A value, and where it stands.
#[derive(Clone, Copy)]
pub(super) struct At<T> {
    pub(super) line: usize,
    pub(super) value: T,
}

/// A table of a file. When it is dropped, what nobody asked for is a problem.
pub(super) struct Table<'s, 'a> {
    source: &'s Source<'a>,
    /// Empty for the outermost.
    name: String,
    /// Where it begins.
    line: Option<usize>,
    left: DeTable<'a>,
    known: Vec<&'static str>,
    /// Those of the known keys that are there.
    present: Vec<&'static str>,
}

impl<'s, 'a> Table<'s, 'a> {
    fn new(source: &'s Source<'a>, name: &str, line: Option<usize>, left: DeTable<'a>) -> Self {
        Self { source, name: name.into(), line, left, known: Vec::new(), present: Vec::new() }
    }

    /// Whether a key is there that was asked for, with a right value or a wrong one.
    pub(super) fn had(&self, key: &str) -> bool {
        self.present.contains(&key)
    }

    /// A problem with the table as a whole.
    pub(super) fn problem(&self, what: impl Into<String>) {
        self.source.add(self.line, what);
    }

    /// A problem with a value of the table's.
    pub(super) fn problem_at(&self, line: usize, what: impl Into<String>) {
        self.source.add(Some(line), what);
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'a>>> {
        self.known.push(key);
        let dot = if self.name.is_empty() { "" } else { "." };
        self.source.known.borrow_mut().insert(format!("{}{dot}{key}", self.name));
        let found = self.left.remove(key)?;
        self.present.push(key);
        Some(found)
    }

    fn value<T>(
        &mut self,
        key: &'static str,
        wanted: &dyn Display,
        read: impl FnOnce(&DeValue<'a>) -> Option<T>,
    ) -> Option<At<T>> {
        let found = self.take(key)?;
        let line = self.source.line(&found.span());
        let value = read(found.get_ref());
        if value.is_none() {
            self.problem_at(line, format!("`{key}` takes {wanted}, not {}", kind(found.get_ref())));
        }
        value.map(|value| At { line, value })
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        Some(self.value(key, &"true or false", DeValue::as_bool)?.value)
    }

    /// A whole number within bounds.
    pub(super) fn number<T>(&mut self, key: &'static str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let found = self.value(key, &wanted, integer)?;
        let value = found.value.ok().and_then(|value| T::try_from(value).ok()).filter(|value| range.contains(value));
        if value.is_none() {
            self.problem_at(found.line, format!("`{key}` takes {wanted}"));
        }
        value
    }

    /// A number of bytes: a whole number, or a text with a unit.
    pub(super) fn bytes(&mut self, key: &'static str) -> Option<u64> {
        let found = self.value(key, &"bytes, as in \"64 MiB\" or 4096", |value| match value {
            DeValue::String(text) => Some(text.to_string()),
            value => integer(value).map(|number| number.map_or_else(|_| String::new(), |number| number.to_string())),
        })?;
        self.parsed(key, &found, super::values::bytes)
    }

    /// A text that is read by `parse`, whose error says what is wanted without showing the text.
    pub(super) fn text<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let found = self.string(key)?;
        self.parsed(key, &found, parse)
    }

    fn parsed<T, E: Display>(
        &self,
        key: &str,
        found: &At<String>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        parse(&found.value).map_err(|error| self.problem_at(found.line, format!("`{key}`: {error}"))).ok()
    }

    fn string(&mut self, key: &'static str) -> Option<At<String>> {
        self.value(key, &"a text in quotes", |value| value.as_str().map(str::to_owned))
    }

    /// A text that names something: never empty, and no secret.
    fn name_of(&mut self, key: &'static str, what: &str) -> Option<At<String>> {
        let found = self.string(key)?;
        let problem = if found.value.is_empty() {
            "it is empty"
        } else if found.value.parse::<Token>().is_ok() {
            "this looks like a token, which does not belong into a configuration"
        } else {
            return Some(found);
        };
        self.problem_at(found.line, format!("`{key}`: {problem}: give the name of {what}"));
        None
    }

    /// A path.
    pub(super) fn path(&mut self, key: &'static str) -> Option<At<PathBuf>> {
        let At { line, value } = self.name_of(key, "a file or folder")?;
        Some(At { line, value: self.source.path(&value) })
    }

    /// What stands in a file that is named; `None` also where files are not looked into.
    pub(super) fn secret_file(&mut self, key: &'static str) -> Option<At<String>> {
        let At { line, value: path } = self.path(key)?;
        let read = self.source.references.secret(&path);
        let value = read.map_err(|error| self.problem_at(line, format!("`{key}`: {error}"))).ok()?;
        Some(At { line, value: value? })
    }

    /// What a variable of the environment holds; `None` also where the environment is not looked into.
    pub(super) fn secret_variable(&mut self, key: &'static str) -> Option<At<String>> {
        let At { line, value: name } = self.name_of(key, "a variable of the environment")?;
        let read = self.source.references.variable(&name);
        let value = read.map_err(|error| self.problem_at(line, format!("`{key}`: {error}"))).ok()?;
        Some(At { line, value: value? })
    }

    /// A list of texts, each read by `parse`; empty if it is not there. One that is there is never empty: whether
    /// that means all or none is anybody's guess.
    pub(super) fn list<T, E: Display>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, E>) -> Vec<T> {
        let Some(found) = self.texts(key) else { return Vec::new() };
        if found.value.is_empty() {
            self.problem_at(found.line, format!("`{key}` is empty: leave it out, or name what is meant"));
        }
        found.value.iter().filter_map(|text| self.parsed(key, text, &parse)).collect()
    }

    /// The same where an empty list is as good as any; `None` if it is not there.
    pub(super) fn list_or_none<T, E: Display>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let found = self.texts(key)?;
        Some(found.value.iter().filter_map(|text| self.parsed(key, text, &parse)).collect())
    }

    fn texts(&mut self, key: &'static str) -> Option<At<Vec<At<String>>>> {
        let source = self.source;
        self.value(key, &"a list of texts, as in [\"…\", \"…\"]", |value| {
            let texts = value.as_array()?.iter();
            texts
                .map(|text| Some(At { line: source.line(&text.span()), value: text.get_ref().as_str()?.to_owned() }))
                .collect::<Option<Vec<_>>>()
        })
    }

    /// A moment: a date and time with its offset, or a date, which means its beginning in UTC.
    pub(super) fn moment(&mut self, key: &'static str) -> Option<SystemTime> {
        const WANTED: &str = "a date from 1970 on, as in 2030-12-31 or 2030-12-31T18:00:00Z, without quotes";
        let found = self.value(key, &WANTED, |value| value.as_datetime().copied())?;
        let moment = moment(&found.value);
        if moment.is_none() {
            self.problem_at(found.line, format!("`{key}` takes {WANTED}"));
        }
        moment
    }

    /// A table of this one's; empty if it is not there.
    pub(super) fn table(&mut self, key: &'static str) -> Table<'s, 'a> {
        let found = self.take(key).map(|found| (self.source.line(&found.span()), found.into_inner()));
        let (line, left) = match found {
            Some((line, DeValue::Table(table))) => (Some(line), table),
            Some((line, other)) => {
                self.problem_at(line, format!("`{key}` takes a table, as in [{key}], not {}", kind(&other)));
                (Some(line), DeTable::new())
            }
            None => (None, DeTable::new()),
        };
        Table::new(self.source, key, line, left)
    }

    /// All tables `[[key]]`.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Table<'s, 'a>> {
        let Some(found) = self.take(key) else { return Vec::new() };
        let line = self.source.line(&found.span());
        let DeValue::Array(all) = found.into_inner() else {
            self.problem_at(line, format!("`{key}` takes tables, each as [[{key}]]"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for one in all {
            let line = self.source.line(&one.span());
            match one.into_inner() {
                DeValue::Table(left) => tables.push(Table::new(self.source, key, Some(line), left)),
                _ => self.problem_at(line, format!("`{key}` takes tables, each as [[{key}]]")),
            }
        }
        tables
    }
}

impl Drop for Table<'_, '_> {
    fn drop(&mut self) {
        for (key, _) in mem::take(&mut self.left) {
            let line = self.source.line(&key.span());
            let key = key.into_inner();
            let shown: String = key.chars().take(SHOWN).flat_map(char::escape_debug).collect();
            let alike = |known: &&str| strsim::jaro_winkler(known, &key);
            let nearest = self.known.iter().copied().max_by(|a, b| alike(a).total_cmp(&alike(b)));
            let known = self.source.known.borrow();
            let elsewhere = known.iter().filter_map(|known| known.split_once('.')).find(|(_, last)| *last == key);
            let hint = match (nearest.filter(|nearest| alike(nearest) >= ALIKE), elsewhere) {
                (_, Some((table, _))) => format!("; it belongs into the table `{table}`"),
                (Some(nearest), _) => format!("; did you mean `{nearest}`?"),
                _ => "; docs/CONFIGURATION.md lists all keys".into(),
            };
            let place = if self.name.is_empty() { String::new() } else { format!(" in `{}`", self.name) };
            self.source.add(Some(line), format!("unknown key `{shown}`{place}{hint}"));
        }
    }
}

/// A whole number, which may have more than 64 bits.
fn integer(value: &DeValue<'_>) -> Option<Result<i64, ParseIntError>> {
    let number = value.as_integer()?;
    Some(i64::from_str_radix(number.as_str(), number.radix()))
}

fn moment(value: &Datetime) -> Option<SystemTime> {
    let date = value.date?;
    let (hour, minute, second) =
        value.time.map_or((0, 0, 0), |time| (time.hour, time.minute, time.second.unwrap_or(0)));
    let east = match (value.time, value.offset) {
        (None, _) | (_, Some(Offset::Z)) => 0,
        (_, Some(Offset::Custom { minutes })) => minutes,
        (Some(_), None) => return None,
    };
    let there = humantime::parse_rfc3339(&format!("{date}T{hour:02}:{minute:02}:{second:02}Z")).ok()?;
    let offset = Duration::from_mins(east.unsigned_abs().into());
    if east < 0 { there.checked_add(offset) } else { there.checked_sub(offset) }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
