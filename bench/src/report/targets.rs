//! What the comparison must show, and whether it did.

use crate::programs::Program;
use crate::results::Results;
use crate::rows::Row;

/// A bound on a ratio or a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    /// Whether one figure is better than another.
    fn prefers(self, one: f64, other: f64) -> bool {
        match self {
            Self::AtLeast(_) => one > other,
            Self::AtMost(_) => one < other,
        }
    }
}

/// What a figure is held against.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Against {
    /// Divided by the best of these programs' medians.
    Best(&'static [Program]),
    /// Less this program's.
    Above(Program),
    /// As it is.
    Itself,
}

/// One demand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) row: Row,
    pub(crate) metric: &'static str,
    pub(crate) programs: &'static [Program],
    /// Only under this congestion control.
    pub(crate) setting: Option<&'static str>,
    pub(crate) against: Against,
    pub(crate) bound: Option<Bound>,
    /// What would be better still.
    pub(crate) moonshot: Option<Bound>,
}

const PEERS: Against = Against::Best(&[Program::Rathole, Program::Bore]);
const RATHOLE: Against = Against::Best(&[Program::Rathole]);
const TWO_SOCKETS: &[Program] = &[Program::Pool, Program::Event];
const MULTIPLEX: &[Program] = &[Program::Multiplex];
const OURS: &[Program] = &[Program::Multiplex, Program::Pool, Program::Event];
const NOISE: Against = Against::Best(&[Program::RatholeNoise]);
const SSH: Against = Against::Best(&[Program::Ssh]);
const MULTIPLEX_TLS: &[Program] = &[Program::MultiplexTls];
const POOL_TLS: &[Program] = &[Program::PoolTls];

const fn target(
    row: Row,
    metric: &'static str,
    programs: &'static [Program],
    setting: Option<&'static str>,
    against: Against,
    bound: Bound,
    moonshot: Option<Bound>,
) -> Target {
    Target { row, metric, programs, setting, against, bound: Some(bound), moonshot }
}

/// All demands, in the order of their rows.
pub(crate) fn targets() -> Vec<Target> {
    use Bound::{AtLeast, AtMost};
    let (cubic, bbr) = (Some("cubic"), Some("bbr"));
    let mut all = Vec::new();
    for metric in ["up_gbit_s", "down_gbit_s"] {
        let fast = Some(AtLeast(3.3));
        all.push(target(Row::Stream, metric, TWO_SOCKETS, cubic, PEERS, AtLeast(2.5), fast));
        all.push(target(Row::Stream, metric, TWO_SOCKETS, bbr, PEERS, AtLeast(2.0), None));
        all.push(target(Row::Stream, metric, MULTIPLEX, cubic, PEERS, AtLeast(2.0), fast));
        all.push(target(Row::Stream, metric, MULTIPLEX, bbr, PEERS, AtLeast(1.5), None));
        all.push(target(Row::Stream, metric, MULTIPLEX_TLS, None, NOISE, AtLeast(1.5), None));
        all.push(target(Row::Stream, metric, MULTIPLEX_TLS, None, SSH, AtLeast(1.3), None));
        all.push(target(Row::Stream, metric, POOL_TLS, None, NOISE, AtLeast(1.3), None));
    }
    for metric in ["up_cpu_s_gb", "down_cpu_s_gb"] {
        all.push(target(Row::Stream, metric, TWO_SOCKETS, cubic, PEERS, AtMost(0.25), None));
        all.push(target(Row::Stream, metric, TWO_SOCKETS, bbr, PEERS, AtMost(0.45), None));
        all.push(target(Row::Stream, metric, MULTIPLEX, cubic, PEERS, AtMost(0.45), Some(AtMost(0.25))));
        all.push(target(Row::Stream, metric, MULTIPLEX, bbr, PEERS, AtMost(0.7), None));
    }
    for metric in ["up_gbit_s", "down_gbit_s"] {
        all.push(target(Row::Streams8, metric, MULTIPLEX, None, RATHOLE, AtLeast(1.5), None));
    }
    all.push(target(Row::Ping, "median_us", OURS, None, RATHOLE, AtMost(1.0), Some(AtMost(0.85))));
    all.push(target(Row::Ping, "median_us", MULTIPLEX_TLS, None, NOISE, AtMost(1.0), None));
    all.push(target(Row::Ping64, "per_s", MULTIPLEX, None, RATHOLE, AtLeast(1.5), None));
    all.push(target(Row::Connect, "per_s", MULTIPLEX, None, RATHOLE, AtLeast(1.6), None));
    all.push(target(Row::Connect, "per_s", &[Program::Event], None, RATHOLE, AtLeast(1.1), None));
    all.push(target(Row::Idle, "kib_per_user", OURS, None, RATHOLE, AtMost(0.25), None));
    all.push(target(Row::Stalled, "ratio", OURS, None, Against::Itself, AtMost(1.2), None));
    for metric in ["up_mbit_s", "down_mbit_s"] {
        all.push(target(
            Row::LongStream,
            metric,
            MULTIPLEX,
            None,
            Against::Best(&[Program::None]),
            AtLeast(0.97),
            None,
        ));
    }
    for (metric, two, three) in [("one_rtt", 1.06, 3.1), ("many_rtt", 1.15, 3.3)] {
        let two_trips = &[Program::Multiplex, Program::Pool];
        all.push(target(Row::LongConnect, metric, two_trips, None, Against::Itself, AtMost(two), None));
        all.push(target(Row::LongConnect, metric, &[Program::Event], None, Against::Itself, AtMost(three), None));
    }
    for (rtt, held) in [("up_rtt", "up_held"), ("down_rtt", "down_held")] {
        let beside = Against::Above(Program::None);
        all.push(target(Row::LongBeside, rtt, MULTIPLEX, None, beside, AtMost(0.15), None));
        let moonshot = target(Row::LongBeside, rtt, MULTIPLEX, None, Against::Itself, AtMost(1.3), Some(AtMost(1.3)));
        all.push(Target { bound: None, ..moonshot });
        all.push(target(Row::LongBeside, held, MULTIPLEX, None, Against::Itself, AtLeast(0.9), None));
    }
    for metric in ["up_mbit_s", "down_mbit_s"] {
        all.push(target(Row::LongLoss, metric, MULTIPLEX, None, Against::Itself, AtLeast(120.0), None));
    }
    all
}

/// A demand, and what was measured.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) row: Row,
    pub(crate) metric: &'static str,
    pub(crate) program: Program,
    pub(crate) setting: String,
    /// Our median, and what it is held against.
    pub(crate) ours: f64,
    pub(crate) against: Option<(Program, f64)>,
    /// The ratio, the difference or the figure that the bound is for.
    pub(crate) value: f64,
    pub(crate) bound: Option<Bound>,
    pub(crate) moonshot: Option<Bound>,
}

impl Target {
    /// Nothing when one of the two was not measured.
    pub(crate) fn verdict(&self, results: &Results, setting: &str, program: Program) -> Option<Verdict> {
        let median = |program: Program| Some(results.summary(setting, self.row, program.name(), self.metric)?.median);
        let ours = median(program)?;
        let (against, value) = match self.against {
            Against::Best(peers) => {
                let measured = peers.iter().filter_map(|peer| Some((*peer, median(*peer)?)));
                let bound = self.bound.or(self.moonshot)?;
                let best = measured.reduce(|one, other| if bound.prefers(other.1, one.1) { other } else { one })?;
                (Some(best), ours / best.1)
            }
            Against::Above(base) => (Some((base, median(base)?)), ours - median(base)?),
            Against::Itself => (None, ours),
        };
        Some(Verdict {
            row: self.row,
            metric: self.metric,
            program,
            setting: setting.to_owned(),
            ours,
            against,
            value,
            bound: self.bound,
            moonshot: self.moonshot,
        })
    }
}

/// Every demand that the results can answer.
pub(crate) fn verdicts(results: &Results) -> Vec<Verdict> {
    let mut all = Vec::new();
    for target in targets() {
        for setting in results.settings() {
            if target.setting.is_none_or(|wanted| wanted == setting) {
                all.extend(target.programs.iter().filter_map(|program| target.verdict(results, setting, *program)));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::results::Sample;

    fn results(figures: &[(Program, f64)]) -> Results {
        let sample = |&(program, value): &(Program, f64)| Sample {
            setting: "cubic".into(),
            row: Row::Stream,
            program: program.name().into(),
            round: 0,
            metrics: Metrics::of([("up_gbit_s", value), ("up_cpu_s_gb", value)]),
        };
        Results { samples: figures.iter().map(sample).collect(), ..Results::default() }
    }

    #[test]
    fn the_better_peer_is_the_measure() {
        let results = results(&[(Program::Pool, 30.0), (Program::Rathole, 6.0), (Program::Bore, 10.0)]);
        let verdicts = verdicts(&results);
        let of = |metric| verdicts.iter().find(|verdict| verdict.metric == metric).unwrap();
        let speed = of("up_gbit_s");
        assert_eq!((speed.against, speed.value), (Some((Program::Bore, 10.0)), 3.0));
        assert!(speed.bound.unwrap().holds(speed.value) && !speed.moonshot.unwrap().holds(speed.value));
        // Less is better: the best peer is another.
        assert_eq!(of("up_cpu_s_gb").against, Some((Program::Rathole, 6.0)));
    }

    #[test]
    fn what_is_encrypted_is_held_against_what_is_encrypted() {
        let results = results(&[(Program::MultiplexTls, 6.0), (Program::RatholeNoise, 3.0), (Program::Rathole, 6.0)]);
        let verdicts = verdicts(&results);
        assert_eq!(verdicts.len(), 1);
        assert_eq!((verdicts[0].against, verdicts[0].value), (Some((Program::RatholeNoise, 3.0)), 2.0));
    }

    #[test]
    fn without_peers_there_is_no_verdict() {
        assert_eq!(verdicts(&results(&[(Program::Pool, 30.0)])), []);
    }
}
