//! Charts that need nothing but a browser: bars for programs, a line for growth.

use std::fmt::Write as _;

use super::metric::digits;
use crate::stats::Summary;

const WIDTH: f64 = 720.0;
const TEXT: &str = "font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#222\"";
const OURS: &str = "#1668a8";
const OTHERS: &str = "#9aa7b1";

/// A program's bar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bar<'a> {
    pub(crate) name: &'a str,
    pub(crate) ours: bool,
    pub(crate) summary: Summary,
}

/// Horizontal bars of medians, a thin line from the smallest to the largest. None without bars.
pub(crate) fn bars(title: &str, bars: &[Bar<'_>]) -> Option<String> {
    const LEFT: f64 = 140.0;
    const RIGHT: f64 = 90.0;
    const STEP: f64 = 26.0;
    let largest = bars.iter().map(|bar| bar.summary.max).reduce(f64::max).filter(|largest| *largest > 0.0)?;
    let scale = |value: f64| value.max(0.0) / largest * (WIDTH - LEFT - RIGHT);
    let mut body = String::new();
    for (index, bar) in bars.iter().enumerate() {
        let y = 40.0 + STEP * index as f64;
        let middle = y + 9.0;
        let Summary { median, min, max, .. } = bar.summary;
        let colour = if bar.ours { OURS } else { OTHERS };
        let _ = write!(
            body,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\" {TEXT}>{}</text>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"18\" fill=\"{colour}\"/>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"#222\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\" {TEXT}>{}</text>",
            LEFT - 8.0,
            y + 14.0,
            escape(bar.name),
            scale(median),
            LEFT + scale(min),
            LEFT + scale(max),
            LEFT + scale(max) + 8.0,
            y + 14.0,
            digits(median),
        );
    }
    Some(picture(title, 52.0 + STEP * bars.len() as f64, &body))
}

/// A figure over how many there are, both axes in doublings, and a dashed line for growth in proportion from the
/// first point. None with fewer than two points.
pub(crate) fn growth(title: &str, points: &[(f64, f64)]) -> Option<String> {
    const BOX: (f64, f64, f64, f64) = (80.0, 50.0, 600.0, 260.0);
    let points: Vec<(f64, f64)> = points.iter().copied().filter(|(x, y)| *x > 0.0 && *y > 0.0).collect();
    let (first, last) = (*points.first()?, *points.last()?);
    let proportional = (last.0, first.1 * last.0 / first.0);
    if last.0 <= first.0 {
        return None;
    }
    let all = || points.iter().copied().chain([proportional]);
    let low = all().map(|(_, y)| y).fold(f64::INFINITY, f64::min);
    let high = all().map(|(_, y)| y).fold(0.0, f64::max);
    let (left, top, width, height) = BOX;
    let x = |value: f64| left + (value / first.0).log2() / (last.0 / first.0).log2() * width;
    let y = |value: f64| top + height - (value / low).log2() / (high / low).log2().max(0.01) * height;
    let mut body = format!(
        "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#bbb\"/>\
         <line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#999\" stroke-dasharray=\"5 4\"/>",
        x(first.0),
        y(first.1),
        x(proportional.0),
        y(proportional.1)
    );
    let path: Vec<String> = points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
    let _ =
        write!(body, "<polyline points=\"{}\" fill=\"none\" stroke=\"{OURS}\" stroke-width=\"2\"/>", path.join(" "));
    for point in &points {
        let _ = write!(
            body,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{OURS}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" {TEXT}>{}</text>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" {TEXT}>{}</text>",
            x(point.0),
            y(point.1),
            x(point.0),
            y(point.1) - 10.0,
            digits(point.1),
            x(point.0),
            top + height + 20.0,
            point.0,
        );
    }
    Some(picture(title, top + height + 36.0, &body))
}

fn picture(title: &str, height: f64, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\
         <text x=\"12\" y=\"24\" font-weight=\"bold\" {TEXT}>{}</text>{body}</svg>\n",
        escape(title)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gives_no_chart() {
        assert_eq!(bars("nothing", &[]), None);
        assert_eq!(growth("nothing", &[(1.0, 1.0)]), None);
    }

    #[test]
    fn charts_are_escaped_and_inside_their_frame() {
        let summary = Summary { median: 5.0, min: 4.0, max: 10.0, count: 5 };
        let chart = bars("a < b", &[Bar { name: "x & y", ours: true, summary }]).unwrap();
        assert!(chart.contains("a &lt; b") && chart.contains("x &amp; y"));
        // 720 less the margins, half of it: the median is half of the largest.
        assert!(chart.contains("width=\"245.0\""), "{chart}");
        let chart = growth("g", &[(1.0, 2.0), (2.0, 4.0), (4.0, 16.0)]).unwrap();
        assert!(chart.contains("80.0,310.0 380.0,223.3 680.0,50.0"), "{chart}");
    }
}
