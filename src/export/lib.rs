//! Writers and readers of profile formats: model -> `io::Write`, streaming; one file per format.
//!
//! Writers take any `io::Write` and do not buffer: hand them a `BufWriter`. Readers take bytes and never panic, whatever the bytes.
#![forbid(unsafe_code)]

mod activity;
mod callgraph;
mod callgraph_read;
mod chrome;
mod collapsed;
mod evented;
mod file;
mod format;
mod frames;
mod journal;
mod load;
mod nesting;
mod pprof;
mod pprof_read;
mod speedscope;
mod speedscope_read;
mod spprof;
mod spprof_read;
mod svg;
mod wtf8;

pub use file::{write_file, write_whole};
pub use format::{CountUnit, Format, WriteOptions, write};
pub use journal::Journal;
pub use load::{LoadError, load, read};
