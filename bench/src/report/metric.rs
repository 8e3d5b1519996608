//! The figures' names: which belong to a row, and how they are written.

use crate::rows::Row;

/// The columns of a row's table.
pub(crate) const fn columns(row: Row) -> &'static [&'static str] {
    match row {
        Row::Stream | Row::Streams8 => &["up_gbit_s", "down_gbit_s", "up_cpu_s_gb", "down_cpu_s_gb"],
        Row::Ping => &["median_us", "p99_us"],
        Row::Ping64 | Row::Connect => &["per_s", "median_us", "p99_us"],
        Row::Idle => &["kib_per_user", "before_kib"],
        Row::Stalled => &["alone_p99_us", "beside_p99_us", "ratio"],
        Row::LongStream | Row::LongLoss => &["up_mbit_s", "down_mbit_s"],
        Row::LongConnect => &["one_rtt", "many_rtt"],
        Row::LongBeside => &["up_rtt", "down_rtt", "up_held", "down_held", "up_mbit_s", "down_mbit_s"],
        Row::ScaleUsers | Row::ScaleForwarders => {
            &["count", "seconds", "relay_kib", "forwarder_kib", "p99_us", "median_us"]
        }
    }
}

/// Those of them that have a chart.
pub(crate) const fn charted(row: Row) -> &'static [&'static str] {
    match row {
        Row::Stream => &["up_gbit_s", "down_gbit_s", "up_cpu_s_gb", "down_cpu_s_gb"],
        Row::Streams8 => &["up_gbit_s", "down_gbit_s"],
        Row::Ping => &["median_us"],
        Row::Ping64 | Row::Connect => &["per_s"],
        Row::Idle => &["kib_per_user"],
        Row::Stalled => &["ratio"],
        Row::LongStream | Row::LongLoss => &["up_mbit_s", "down_mbit_s"],
        Row::LongConnect => &["one_rtt", "many_rtt"],
        Row::LongBeside => &["up_rtt", "down_rtt"],
        Row::ScaleUsers | Row::ScaleForwarders => &["seconds", "relay_kib", "forwarder_kib", "p99_us"],
    }
}

/// A figure's name as people read it.
pub(crate) fn title(metric: &str) -> &str {
    match metric {
        "up_gbit_s" => "upload, Gbit/s",
        "down_gbit_s" => "download, Gbit/s",
        "up_mbit_s" => "upload, Mbit/s",
        "down_mbit_s" => "download, Mbit/s",
        "up_cpu_s_gb" => "upload, CPU s/GB",
        "down_cpu_s_gb" => "download, CPU s/GB",
        "median_us" => "median, µs",
        "p99_us" => "p99, µs",
        "per_s" => "per second",
        "kib_per_user" => "KiB per user",
        "before_kib" => "KiB without users",
        "alone_p99_us" => "p99 alone, µs",
        "beside_p99_us" => "p99 beside, µs",
        "ratio" => "beside / alone",
        "one_rtt" => "one at a time, round trips",
        "many_rtt" => "32 at once, round trips",
        "up_rtt" => "beside an upload, round trips",
        "down_rtt" => "beside a download, round trips",
        "up_held" => "upload held, of its own rate",
        "down_held" => "download held, of its own rate",
        "count" => "how many",
        "seconds" => "seconds until all stand",
        "relay_kib" => "relay, KiB",
        "forwarder_kib" => "forwarders, KiB",
        other => other,
    }
}

/// A value with three digits or so.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_column_has_a_title_and_every_chart_a_column() {
        for &row in Row::value_variants() {
            for metric in columns(row) {
                assert_ne!(title(metric), *metric);
            }
            assert!(charted(row).iter().all(|metric| columns(row).contains(metric)), "{row:?}");
        }
    }

    #[test]
    fn values_keep_their_size() {
        assert_eq!([12345.6, 12.34, 1.234, 0.1234].map(digits), ["12346", "12.3", "1.23", "0.123"]);
    }
}
