//! `spprof._native`: the only code that knows Python objects. It converts and raises; whatever decides lives in other rooms.

mod activity;
mod build;
mod capture;
mod graph;
mod memprof;
mod profile;
mod rss;
mod run;
mod selftest;
mod text;
mod trace;

use crate::error::{Error, ErrorKind};
use pyo3::PyErr;
use pyo3::exceptions::{PyOSError, PyPermissionError, PyRuntimeError, PyValueError};
use std::io;
use std::path::Path;

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error.kind {
            ErrorKind::Value => PyValueError::new_err(error.message),
            ErrorKind::Runtime => PyRuntimeError::new_err(error.message),
            ErrorKind::Permission => PyPermissionError::new_err(error.message),
            ErrorKind::Os => PyOSError::new_err(error.message),
        }
    }
}

/// The `OSError` that Python itself would raise: by errno its subclass, and with the file's name.
fn os_error(error: io::Error, path: &Path) -> PyErr {
    match error.raw_os_error() {
        Some(errno) => {
            let text = error.to_string();
            let text = text.strip_suffix(&format!(" (os error {errno})")).unwrap_or(&text).to_owned();
            PyOSError::new_err((errno, text, path.as_os_str().to_owned()))
        }
        None => error.into(),
    }
}

#[pyo3::pymodule(gil_used = false)]
#[pyo3(name = "_native")]
mod native {
    #[pymodule_export]
    use super::build::build_profile;
    #[pymodule_export]
    use super::capture::capture_native_stack;
    #[pymodule_export]
    use super::graph::{NativeGraph, differences};
    #[pymodule_export]
    use super::memprof::{
        NativeHeap, memprof_after_fork, memprof_at_exit, memprof_note_gc, memprof_phase, memprof_shutdown,
        memprof_snapshot, memprof_start, memprof_stats, memprof_stop,
    };
    #[pymodule_export]
    use super::profile::{NativeProfile, format_of, load, load_bytes, write_whole};
    #[pymodule_export]
    use super::rss::{MemoryWatch, malloc_info_text, own_memory, resident_bytes};
    #[pymodule_export]
    use super::run::{doctor, get_stats, is_active, note_thread, register_thread, start, stop, unregister_thread};
    #[pymodule_export]
    use super::trace::{
        Mark, TraceScope, trace_after_fork, trace_before_fork, trace_bootstrap, trace_engine, trace_is_armed,
        trace_marks, trace_on_call, trace_on_task, trace_open, trace_rename, trace_set_cost, trace_task_ready,
    };

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("platform", std::env::consts::OS)?;
        // How Python frames are found, and what unwinds native ones.
        module.add("frame_walker", "guarded")?;
        let unwinds = crate::sampler::native::is_available();
        module.add("unwind_method", if unwinds { "eh_frame tables" } else { "none" })?;
        module.add("native_unwinding_available", unwinds)?;
        module.add("free_threaded_build", super::run::is_free_threaded(module.py())?)?;
        module.add("free_threading_safe", true)
    }
}
