//! Which formats there are, how they are asked for by name and by path, and the one entrance to their writers.

use crate::{callgraph, chrome, collapsed, pprof, speedscope, spprof, svg};
use spprof_model::Profile;
use std::io;
use std::path::Path;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Format {
    /// JSON for speedscope.app: one profile per thread, one entry per sample.
    Speedscope,
    /// The same with one entry per unique stack.
    AggregatedSpeedscope,
    /// `root;...;leaf count` lines.
    Collapsed,
    /// Gzipped protocol buffer for pprof and what reads it.
    Pprof,
    /// A self-contained interactive flame graph.
    Svg,
    /// The lossless format.
    Spprof,
    /// JSON of functions, edges and the calling-context tree.
    CallGraph,
    /// Trace events for Perfetto and chrome://tracing: the intervals of a trace.
    Chrome,
}

impl Format {
    /// The names users give, for messages.
    pub const NAMES: [&'static str; 7] = ["speedscope", "collapsed", "pprof", "svg", "spprof", "callgraph", "chrome"];

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "speedscope" => Self::Speedscope,
            "aggregated-speedscope" => Self::AggregatedSpeedscope,
            "collapsed" => Self::Collapsed,
            "pprof" => Self::Pprof,
            "svg" => Self::Svg,
            "spprof" => Self::Spprof,
            "callgraph" => Self::CallGraph,
            "chrome" => Self::Chrome,
            _ => return None,
        })
    }

    /// By suffix; speedscope if it says nothing.
    #[must_use]
    pub fn from_path(path: &Path) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
        if ends(&[".collapsed", ".txt", ".folded"]) {
            Self::Collapsed
        } else if ends(&[".pb.gz", ".pprof"]) {
            Self::Pprof
        } else if ends(&[".svg"]) {
            Self::Svg
        } else if ends(&[".spprof"]) {
            Self::Spprof
        } else {
            Self::Speedscope
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Speedscope => "speedscope",
            Self::AggregatedSpeedscope => "aggregated-speedscope",
            Self::Collapsed => "collapsed",
            Self::Pprof => "pprof",
            Self::Svg => "svg",
            Self::Spprof => "spprof",
            Self::CallGraph => "callgraph",
            Self::Chrome => "chrome",
        }
    }
}

/// What the number at the end of a collapsed line counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CountUnit {
    #[default]
    Samples,
    Microseconds,
    /// The weight as it is: of a heap profile, bytes.
    Nanoseconds,
}

#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// Native frames as `[native] name` in collapsed and speedscope output.
    pub mark_native: bool,
    /// Collapsed only.
    pub count_unit: CountUnit,
    /// Title of the flame graph.
    pub title: Option<String>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { mark_native: true, count_unit: CountUnit::default(), title: None }
    }
}

/// Writes the whole profile. `out` should be buffered, and is not flushed.
pub fn write(profile: &Profile, format: Format, out: &mut dyn io::Write, options: &WriteOptions) -> io::Result<()> {
    match format {
        Format::Speedscope => speedscope::write(profile, out, options),
        Format::AggregatedSpeedscope => speedscope::write_aggregated(profile, out, options),
        Format::Collapsed => collapsed::write(profile, out, options),
        Format::Pprof => pprof::write(profile, out),
        Format::Svg => svg::write(profile, out, options),
        Format::Spprof => spprof::write(profile, out),
        Format::CallGraph => callgraph::write(profile, out),
        Format::Chrome => chrome::write(profile, out),
    }
}
