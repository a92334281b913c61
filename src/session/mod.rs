//! A CPU run: start, drain, stop, fork, exit. Composition root of `sampler` and `resolve`.

use crate::error::Result;
use spprof_model::Profile;
use std::path::PathBuf;

/// Which time a run measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    Cpu,
    Wall,
}

/// What makes samples happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineChoice {
    Auto,
    Timer,
    Perf,
    Tick,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub interval_ns: u64,
    pub clock: Clock,
    pub engine: EngineChoice,
    pub memory_limit_bytes: u64,
    /// Where the profile is journalled to while running (`<path>.journal`) and saved on SIGTERM.
    pub output: Option<PathBuf>,
    /// Export format of `output` ("speedscope", "collapsed", "pprof", "svg", "spprof").
    pub output_format: String,
}

/// Counters of the run in progress.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub collected_samples: u64,
    pub dropped_samples: u64,
    pub duration_ns: u64,
    /// Engine in use ("timer", "perf", "tick") and why it was chosen.
    pub engine: &'static str,
    pub engine_reason: String,
    pub interval_ns: u64,
    /// Samples per CPU second (cpu clock) or per thread second (wall clock): asked for and delivered.
    pub requested_rate_hz: f64,
    pub delivered_rate_hz: f64,
    /// Nanoseconds the host's threads spent in our signal handler, and our own thread's CPU time.
    pub handler_ns: u64,
    pub profiler_cpu_ns: u64,
    /// Loss and trouble by reason, always the full list: (reason, count).
    pub losses: Vec<(&'static str, u64)>,
    pub process_cpu_ns: u64,
    pub weight_ns: u64,
    pub unattributed_ns: u64,
    pub threads: u64,
    pub memory_bytes: u64,
}

/// Starts sampling every thread of the process. Needs the GIL.
pub fn start(_options: Options) -> Result<()> {
    todo!()
}

/// Stops sampling and gives the profile. Needs the GIL (an attached thread state).
pub fn stop() -> Result<Profile> {
    todo!()
}

#[must_use]
pub fn is_active() -> bool {
    todo!()
}

/// `None` when no run is active.
#[must_use]
pub fn stats() -> Option<Stats> {
    todo!()
}

/// What this machine allows: (topic, finding) pairs for `spprof doctor`.
#[must_use]
pub fn doctor() -> Vec<(String, String)> {
    todo!()
}
