//! What a reader must know to believe a profile: how it was made, at what rate, at what cost, and what was lost.

use serde::{Deserialize, Serialize};

/// Version of the model's meaning in files.
pub const SCHEMA_VERSION: u32 = 1;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
    pub interval_ns: u64,
    /// "cpu" or "wall".
    pub clock: String,
    /// How much of native code the stacks show: "" (nothing), "folded" (without what only carries calls of Python) or "full".
    pub native: String,
    /// Which engine made the samples, and why it was chosen.
    pub engine: String,
    pub engine_reason: String,
    pub start_unix_ns: u64,
    pub duration_ns: u64,
    /// "3.12.1"
    pub python_version: String,
    /// "Linux-6.1-x86_64"
    pub platform: String,
    pub argv: Vec<String>,
    pub pid: u32,
    pub requested_rate_hz: f64,
    pub delivered_rate_hz: f64,
    /// Time the host's threads spent in the signal handler.
    pub handler_ns: u64,
    /// CPU time of the profiler's own thread.
    pub profiler_cpu_ns: u64,
    pub process_cpu_ns: u64,
    /// Sum of the samples' weights.
    pub weight_ns: u64,
    /// What no sample could claim.
    pub unattributed_ns: u64,
    /// Reason and count.
    pub losses: Vec<(String, u64)>,
    pub notes: Vec<String>,
    /// What tracing costs a call with its return, as calibrated on this machine; 0: not a trace.
    pub overhead_ns_per_call: f64,
    /// The tracer's own time, subtracted from the self times.
    pub overhead_ns: u64,
    /// Calls on top of each other at most.
    pub max_depth: u64,
    /// Reopened from the journal of a run that never ended.
    pub incomplete: bool,
    pub schema_version: u32,
    /// "spprof 0.1.0"
    pub exporter: String,
}

impl Default for Metadata {
    fn default() -> Self {
        Self {
            interval_ns: 0,
            clock: "cpu".to_owned(),
            native: String::new(),
            engine: String::new(),
            engine_reason: String::new(),
            start_unix_ns: 0,
            duration_ns: 0,
            python_version: String::new(),
            platform: String::new(),
            argv: Vec::new(),
            pid: 0,
            requested_rate_hz: 0.0,
            delivered_rate_hz: 0.0,
            handler_ns: 0,
            profiler_cpu_ns: 0,
            process_cpu_ns: 0,
            weight_ns: 0,
            unattributed_ns: 0,
            losses: Vec::new(),
            notes: Vec::new(),
            overhead_ns_per_call: 0.0,
            overhead_ns: 0,
            max_depth: 0,
            incomplete: false,
            schema_version: SCHEMA_VERSION,
            exporter: concat!("spprof ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}
