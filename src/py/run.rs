//! The run: arguments into `session::Options`, its answers into Python objects.

use super::profile::NativeProfile;
use crate::resolve::native::NativeDetail;
use crate::sampler::native;
use crate::session::{self, Clock, EngineChoice, Options};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::path::PathBuf;

#[pyfunction]
#[allow(clippy::too_many_arguments)]
#[pyo3(name = "_start", signature = (interval_ns, clock="cpu", engine="auto", memory_limit_bytes=100 << 20, native="none", output_path=None, output_format=None))]
pub fn start(
    py: Python<'_>,
    interval_ns: u64,
    clock: &str,
    engine: &str,
    memory_limit_bytes: u64,
    native: &str,
    output_path: Option<PathBuf>,
    output_format: Option<&str>,
) -> PyResult<()> {
    let clock = match clock {
        "cpu" => Clock::Cpu,
        "wall" => Clock::Wall,
        _ => return Err(PyValueError::new_err(format!("unknown clock: {clock}"))),
    };
    let engine = match engine {
        "auto" => EngineChoice::Auto,
        "timer" => EngineChoice::Timer,
        "perf" => EngineChoice::Perf,
        "tick" => EngineChoice::Tick,
        _ => return Err(PyValueError::new_err(format!("unknown engine: {engine}"))),
    };
    let native = match native {
        "none" => NativeDetail::None,
        _ if !native::is_available() => {
            return Err(PyRuntimeError::new_err("Native unwinding not available on this platform"));
        }
        "folded" => NativeDetail::Folded,
        "full" => NativeDetail::Full,
        _ => return Err(PyValueError::new_err(format!("unknown native: {native}"))),
    };
    let format = super::profile::chosen_format(output_format, output_path.as_deref())?;
    super::selftest::verdict(py)?;
    Ok(session::start(Options {
        interval_ns,
        clock,
        engine,
        memory_limit_bytes,
        native,
        output: output_path,
        output_format: format.name().to_owned(),
    })?)
}

#[pyfunction]
#[pyo3(name = "_stop")]
pub fn stop() -> PyResult<NativeProfile> {
    let (profile, output) = session::stop()?;
    Ok(NativeProfile::of_run(profile, output))
}

/// Tells the run what Python calls the thread with this kernel id; without a run it does nothing.
#[pyfunction]
#[pyo3(name = "_note_thread")]
pub fn note_thread(native_id: i32, ident: u64, name: &Bound<'_, PyString>) -> PyResult<()> {
    session::note_thread(native_id, ident, &super::text::to_wtf8(name)?);
    Ok(())
}

#[pyfunction]
#[pyo3(name = "_is_active")]
pub fn is_active() -> bool {
    session::is_active()
}

#[pyfunction]
#[pyo3(name = "_get_stats")]
pub fn get_stats(py: Python<'_>) -> PyResult<Option<Bound<'_, PyDict>>> {
    let Some(stats) = session::stats() else { return Ok(None) };
    let dict = PyDict::new(py);
    dict.set_item("collected_samples", stats.collected_samples)?;
    dict.set_item("dropped_samples", stats.dropped_samples)?;
    dict.set_item("duration_ns", stats.duration_ns)?;
    dict.set_item("engine", stats.engine)?;
    dict.set_item("engine_reason", stats.engine_reason)?;
    dict.set_item("interval_ns", stats.interval_ns)?;
    dict.set_item("requested_rate_hz", stats.requested_rate_hz)?;
    dict.set_item("delivered_rate_hz", stats.delivered_rate_hz)?;
    dict.set_item("handler_ns", stats.handler_ns)?;
    dict.set_item("handler_median_ns", stats.handler_median_ns)?;
    dict.set_item("profiler_cpu_ns", stats.profiler_cpu_ns)?;
    let losses = PyDict::new(py);
    for (reason, count) in stats.losses {
        losses.set_item(reason, count)?;
    }
    dict.set_item("losses", losses)?;
    dict.set_item("process_cpu_ns", stats.process_cpu_ns)?;
    dict.set_item("weight_ns", stats.weight_ns)?;
    dict.set_item("unattributed_ns", stats.unattributed_ns)?;
    dict.set_item("threads", stats.threads)?;
    dict.set_item("memory_bytes", stats.memory_bytes)?;
    Ok(Some(dict))
}

/// Threads need no registration: the session finds every one.
#[pyfunction]
#[pyo3(name = "_register_thread")]
pub fn register_thread() -> bool {
    true
}

#[pyfunction]
#[pyo3(name = "_unregister_thread")]
pub fn unregister_thread() -> bool {
    true
}

#[pyfunction]
#[pyo3(name = "_doctor")]
pub fn doctor() -> Vec<(String, String)> {
    session::doctor()
}

/// Whether this interpreter was built without a GIL.
pub fn is_free_threaded(py: Python<'_>) -> PyResult<bool> {
    let sys = py.import("sys")?;
    match sys.getattr_opt("abiflags")? {
        Some(flags) => Ok(flags.extract::<String>()?.contains('t')),
        None => Ok(false),
    }
}
