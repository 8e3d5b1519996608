//! `relay conformance`: tries somebody's relay or client against docs/PROTOCOL.md.
//!
//! It speaks raw lines and raw frames over its own sockets, so it shares no mistake with this project's server and
//! client: of the code that they are made of it uses sockets, TLS, a frame's header and an identity's proof.
//!
//! ```text
//!  mod.rs          Check: one line of the kit; and how all are tried
//!  report.rs       what came of it
//!  peer.rs         one end of a connection: lines, bytes, ends
//!  session.rs      one end of a multiplexed link: frames
//!  transcript.rs   the exchanges of docs/transcripts/, step by step
//!  relay/          the checks of a relay
//!  client/         the checks of a client
//! ```

pub mod client;
pub mod peer;
pub mod relay;
pub mod report;
pub mod session;
pub mod transcript;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use self::peer::PATIENCE;

pub use report::{Outcome, Report, Row};

/// How long one check may take in all: many times what the slowest needs on a path of 200 ms, so only what hangs is
/// cut off.
pub const CHECK_WAIT: Duration = Duration::from_mins(2);

/// So many checks in a row that fail for want of an answer are enough: each further one would wait as long. A subject
/// with a fault that many checks meet still answers one of them before.
const MOST_IN_VAIN: usize = 8;

/// What was seen instead of what the protocol says, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen(String);

impl Seen {
    /// The same, with what it concerns before it.
    #[must_use]
    pub fn at(self, what: impl fmt::Display) -> Self {
        Self(format!("{what}: {}", self.0))
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<T: Into<String>> From<T> for Seen {
    fn from(sentence: T) -> Self {
        Self(sentence.into())
    }
}

/// What a check gives: nothing if the subject does as the protocol says.
pub type Verdict<T = ()> = Result<T, Seen>;

/// A check under way.
pub type Trial<'a> = Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;

/// One line of the kit, for subjects of one kind.
pub struct Check<S> {
    /// A few words, different for each.
    pub name: &'static str,
    /// The section of docs/PROTOCOL.md that says so: the text of its heading, number first.
    pub section: &'static str,
    /// What goes wrong for people where it does not hold, in a sentence.
    pub why: &'static str,
    /// The word for what the subject must [offer](Subject::offers) for the check to concern it.
    pub needs: Option<&'static str>,
    /// Makes the check. It may rely on nothing that an earlier one did.
    pub run: for<'a> fn(&'a S) -> Trial<'a>,
}

/// A [`Check`] by its async function: `check!("name", "section", "why", function)`, with `needs "word"` behind if so.
macro_rules! check {
    ($name:literal, $section:expr, $why:literal, $run:path) => {
        check!(@ $name, $section, $why, None, $run)
    };
    ($name:literal, $section:expr, $why:literal, $run:path, needs $word:expr) => {
        check!(@ $name, $section, $why, Some($word), $run)
    };
    (@ $name:literal, $section:expr, $why:literal, $needs:expr, $run:path) => {
        $crate::conformance::Check {
            name: $name,
            section: $section,
            why: $why,
            needs: $needs,
            run: |subject| Box::pin($run(subject)),
        }
    };
}
pub(crate) use check;

/// Whom checks are made of.
pub trait Subject {
    /// Whether it has that extension: a feature's word, or another that the kit made for what a check needs.
    fn offers(&self, word: &str) -> bool;

    /// Whether it is still there; asked after each check that failed, within [`CHECK_WAIT`].
    fn is_alive(&self) -> impl Future<Output = bool>;
}

/// Makes the checks, one after the other, each within [`CHECK_WAIT`], and tells what came of each at once.
///
/// # Errors
/// That of `tell`, which ends it.
pub async fn run<'a, S: Subject + 'a>(
    subject: &S,
    checks: impl IntoIterator<Item = &'a Check<S>>,
    mut tell: impl FnMut(&Row) -> io::Result<()>,
) -> io::Result<Report> {
    let mut report = Report::default();
    let mut alive = true;
    let mut in_vain = 0;
    for check in checks {
        let begin = Instant::now();
        let outcome = match check.needs {
            Some(word) if !subject.offers(word) => Outcome::NotOffered(word),
            _ if !alive => Outcome::Fails("the subject is gone since the failure before".into()),
            _ if in_vain == MOST_IN_VAIN => Outcome::Fails("not tried, as the subject does not answer".into()),
            _ => match timeout(CHECK_WAIT, (check.run)(subject)).await {
                Ok(Ok(())) => Outcome::Holds,
                Ok(Err(seen)) => Outcome::Fails(seen),
                Err(_) => Outcome::Fails(format!("no end within {} s", CHECK_WAIT.as_secs()).into()),
            },
        };
        if alive && matches!(outcome, Outcome::Fails(_)) {
            alive = timeout(CHECK_WAIT, subject.is_alive()).await.unwrap_or(false);
        }
        match outcome {
            Outcome::Holds => in_vain = 0,
            Outcome::Fails(_) if begin.elapsed() >= PATIENCE => in_vain += 1,
            _ => {}
        }
        let row = Row { name: check.name, section: check.section, why: check.why, outcome };
        tell(&row)?;
        report.rows.push(row);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake {
        alive: bool,
    }

    impl Subject for Fake {
        fn offers(&self, word: &str) -> bool {
            word == "known"
        }

        async fn is_alive(&self) -> bool {
            self.alive
        }
    }

    async fn holds(_: &Fake) -> Verdict {
        Ok(())
    }

    async fn fails(_: &Fake) -> Verdict {
        Err("a clean end".into())
    }

    async fn hangs(_: &Fake) -> Verdict {
        std::future::pending().await
    }

    const CHECKS: [Check<Fake>; 5] = [
        check!("one", "1. The exchange", "why", holds),
        check!("two", "1. The exchange", "why", holds, needs "unknown"),
        check!("three", "1. The exchange", "why", hangs, needs "known"),
        check!("four", "1. The exchange", "why", fails),
        check!("five", "1. The exchange", "why", holds),
    ];

    async fn outcomes(alive: bool) -> Vec<String> {
        let mut told = Vec::new();
        let subject = Fake { alive };
        let report = run(&subject, &CHECKS, |row| {
            told.push(row.outcome.to_string());
            Ok(())
        });
        assert_eq!(report.await.unwrap().rows.len(), told.len());
        told
    }

    #[tokio::test(start_paused = true)]
    async fn each_check_ends_and_what_is_not_offered_is_not_tried() {
        assert_eq!(outcomes(true).await, ["holds", "not offered", "FAILS", "FAILS", "holds"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subject_that_never_answers_is_given_up() {
        let checks = std::iter::repeat_n(&check!("mute", "1. The exchange", "why", hangs), 100);
        let begin = Instant::now();
        let report = run(&Fake { alive: true }, checks, |_| Ok(())).await.unwrap();
        assert_eq!(report.failures(), 100);
        assert!(begin.elapsed() < 9 * CHECK_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subject_that_died_fails_all_that_follows() {
        assert_eq!(outcomes(false).await, ["holds", "not offered", "FAILS", "FAILS", "FAILS"]);
    }
}
