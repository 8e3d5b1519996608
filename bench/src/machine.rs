//! What a run was made on, so that a reader can tell two runs apart.

use std::fs;
use std::thread;

/// A line each: kernel, processors, memory.
pub(crate) fn describe() -> Vec<String> {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("unknown", |(_, value)| value.trim()).to_owned()
    };
    let kernel = read("/proc/sys/kernel/osrelease");
    let processors = thread::available_parallelism().map_or(1, usize::from);
    vec![
        format!("Linux {}", kernel.trim()),
        format!("{processors} processors, {}", field(&read("/proc/cpuinfo"), "model name")),
        format!("{} of memory", field(&read("/proc/meminfo"), "MemTotal")),
    ]
}
