//! Measures the data path of relay against other programs', side by side: see docs/BENCHMARKS.md.
//!
//! It asks Linux's /proc and uses its network namespaces, so it is for Linux only.
#![allow(clippy::cast_precision_loss, reason = "counts of bytes and exchanges, far below 2^53")]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ranks and sizes within known bounds")]

#[cfg(target_os = "linux")]
mod cli;
#[cfg(target_os = "linux")]
mod instructions;
#[cfg(target_os = "linux")]
mod link;
#[cfg(target_os = "linux")]
mod load;
#[cfg(target_os = "linux")]
mod machine;
#[cfg(target_os = "linux")]
mod metrics;
#[cfg(target_os = "linux")]
mod path;
#[cfg(target_os = "linux")]
mod place;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod programs;
#[cfg(target_os = "linux")]
mod report;
#[cfg(target_os = "linux")]
mod results;
#[cfg(target_os = "linux")]
mod rows;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod stats;
#[cfg(target_os = "linux")]
mod tools;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    cli::run()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("relay-bench measures through /proc and network namespaces, which only Linux has");
    std::process::exit(1);
}
