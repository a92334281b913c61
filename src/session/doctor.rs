//! What this machine allows, for `spprof doctor`.

use crate::sampler::{linux_perf, runtime, source, tasks};
use spprof_sigsafe::layout::Layout;
use std::fs;

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|error| format!("not readable ({error})"), |text| text.trim().to_owned())
}

/// What this machine allows: (topic, finding) pairs.
#[must_use]
pub fn doctor() -> Vec<(String, String)> {
    let mut findings = Vec::new();
    let mut say = |topic: &str, finding: String| findings.push((topic.to_owned(), finding));
    say("spprof", env!("CARGO_PKG_VERSION").to_owned());
    match runtime::version() {
        Ok(version) => {
            let build = if version.free_threaded { " (free-threaded)" } else { "" };
            let known = Layout::find(version.minor, version.free_threaded).is_some();
            let verdict = if known { "supported" } else { "NOT supported: start() will refuse" };
            say("python", format!("{}{build}: {verdict}", version.text));
        }
        Err(error) => say("python", error.to_string()),
    }
    if let Err(error) = runtime::runtime() {
        say("python symbols", error.to_string());
    }
    say("kernel", read("/proc/sys/kernel/osrelease"));
    let tick = source::kernel_tick_ns();
    say(
        "kernel tick",
        format!(
            "{} ms: engine 'timer' cannot sample faster than {} Hz",
            tick as f64 / 1e6,
            1_000_000_000 / tick.max(1)
        ),
    );
    let paranoid = read("/proc/sys/kernel/perf_event_paranoid");
    say("perf_event_paranoid", paranoid.clone());
    say(
        "engine perf",
        match linux_perf::available() {
            Ok(()) if paranoid.parse().is_ok_and(|level: i32| level <= 1) => "allowed".to_owned(),
            Ok(()) => "allowed (this process has CAP_PERFMON or more)".to_owned(),
            Err(error) => {
                format!("not allowed ({error}); CAP_PERFMON or kernel.perf_event_paranoid <= 1 would allow it")
            }
        },
    );
    let proc = tasks::TaskStat::open(tasks::gettid(), false).ok().and_then(|stat| stat.state());
    say("engine tick", if proc.is_some() { "allowed" } else { "not allowed: /proc is not readable" }.to_owned());
    say("engine timer", "allowed".to_owned());
    for (wall, clock) in [(false, "cpu"), (true, "wall")] {
        say(
            &format!("engine 'auto', clock '{clock}'"),
            match source::choose(None, wall) {
                Ok((engine, reason)) => format!("{}: {reason}", engine.name()),
                Err(error) => error.to_string(),
            },
        );
    }
    findings
}
