//! A Python extension for tests only: shows the resolver's inside to tests/resolve/*.py, on whatever Python runs them.
//! Built as a cargo example, never shipped.

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use spprof_model::Profile;
use spprof_native::resolve::limbo::Batch;
use spprof_native::resolve::lines::LineMap;
use spprof_native::resolve::memory::Process;
use spprof_native::resolve::{Resolver, code, lifetime};
use spprof_native::sampler::runtime::runtime;
use spprof_sigsafe::layout::LineTable;
use spprof_sigsafe::pywalk::{Interrupted, Verified, WalkOutcome, walk};
use spprof_sigsafe::stack::Stack;
use spprof_sigsafe::zone::Runtime;
use std::sync::Mutex;

/// (name, file, first line, discriminator, line of each offset asked for)
type Answer<'py> = (Bound<'py, PyBytes>, Bound<'py, PyBytes>, u32, u64, Vec<Option<u32>>);

static TAKEN: Mutex<Vec<Batch>> = Mutex::new(Vec::new());

fn the_runtime() -> PyResult<&'static Runtime> {
    runtime().map_err(|error| PyRuntimeError::new_err(error.message))
}

/// What the resolver reads out of the object at `address`.
#[pyfunction]
fn read(py: Python<'_>, address: usize, offsets: Vec<i64>) -> PyResult<Answer<'_>> {
    let runtime = the_runtime()?;
    // Without the GIL, as on the resolver thread.
    let info = py
        .detach(|| code::read(&Process, runtime.layout, runtime.code_type, address))
        .map_err(|reason| PyValueError::new_err(format!("{reason:?}")))?;
    let lines = offsets.iter().map(|offset| info.lines.line_at(*offset)).collect();
    let (name, file) = (PyBytes::new(py, &info.name), PyBytes::new(py, &info.file));
    Ok((name, file, info.first_line, info.discriminator, lines))
}

/// The lines of `offsets` by a table of any format.
#[pyfunction]
fn decode(kind: &str, table: &[u8], first_line: u32, offsets: Vec<i64>) -> PyResult<Vec<Option<u32>>> {
    let kind = match kind {
        "lnotab" => LineTable::Lnotab,
        "linetable" => LineTable::Linetable310,
        "locations" => LineTable::Locations,
        _ => return Err(PyValueError::new_err("unknown kind")),
    };
    let map = LineMap::decode(kind, table, first_line);
    Ok(offsets.iter().map(|offset| map.line_at(*offset)).collect())
}

/// The caller's stack as the profiler sees it: (address of the code object, name, line), innermost first.
#[pyfunction]
fn stack(py: Python<'_>) -> PyResult<Vec<(usize, Bound<'_, PyBytes>, u32)>> {
    let runtime = the_runtime()?;
    let mut raw = Stack::new();
    // SAFETY: attached, as every Python function is.
    let tstate = unsafe { ffi::PyThreadState_Get() } as usize;
    if walk(runtime, &mut Verified::new(), tstate, Interrupted::default(), &mut raw) != WalkOutcome::Complete {
        return Err(PyRuntimeError::new_err("the walk failed"));
    }
    let mut profile = Profile::unlimited();
    let mut resolver = Resolver::new(runtime.layout, runtime.code_type);
    let frames = raw.frames().iter().map(|frame| {
        let (function, line) = resolver.frame(&mut profile, frame.code, frame.offset);
        let name = profile.bytes(profile.function_info(function).name);
        (frame.code, PyBytes::new(py, name), line)
    });
    Ok(frames.collect())
}

/// Nanoseconds per frame of a known code object.
#[pyfunction]
fn cost(address: usize, offset: i64, turns: u32) -> PyResult<f64> {
    let runtime = the_runtime()?;
    let mut profile = Profile::unlimited();
    let mut resolver = Resolver::new(runtime.layout, runtime.code_type);
    let start = std::time::Instant::now();
    for _ in 0..turns {
        std::hint::black_box(resolver.frame(&mut profile, std::hint::black_box(address), offset));
    }
    Ok(start.elapsed().as_nanos() as f64 / f64::from(turns))
}

#[pyfunction]
fn install() -> PyResult<()> {
    let runtime = the_runtime()?;
    lifetime::install(lifetime::User::Cpu, runtime.layout, runtime.code_type)
        .map_err(|error| PyRuntimeError::new_err(error.message))
}

#[pyfunction]
fn uninstall() -> PyResult<()> {
    let runtime = the_runtime()?;
    lifetime::uninstall(lifetime::User::Cpu, runtime.layout, runtime.code_type);
    Ok(())
}

/// Takes a batch and keeps it; gives the addresses in it.
#[pyfunction]
fn take() -> Vec<usize> {
    let batch = lifetime::take_aged();
    let codes = batch.iter().flat_map(Batch::codes).collect();
    TAKEN.lock().unwrap().extend(batch);
    codes
}

/// Releases the batches that `take` kept.
#[pyfunction]
fn release() {
    let taken = std::mem::take(&mut *TAKEN.lock().unwrap());
    taken.into_iter().for_each(lifetime::release);
}

/// From a thread that is not Python's, as the resolver does.
#[pyfunction]
fn nudge(py: Python<'_>) {
    py.detach(|| std::thread::spawn(lifetime::nudge).join().unwrap());
}

/// (deferred, freed, in limbo)
#[pyfunction]
fn counts() -> (u64, u64, u64) {
    let limbo = lifetime::stats().limbo;
    (limbo.deferred, limbo.freed, limbo.in_limbo)
}

/// What the fork handler of the session does.
#[pyfunction]
fn after_fork_child() {
    // SAFETY: called in a child just forked, which has one thread.
    unsafe { lifetime::after_fork_child() }
}

/// The value of `PyCode_Type.tp_dealloc`.
#[pyfunction]
fn dealloc_slot() -> PyResult<usize> {
    let runtime = the_runtime()?;
    // SAFETY: a pointer-sized field of a static object.
    Ok(unsafe { ((runtime.code_type + runtime.layout.type_dealloc) as *const usize).read_volatile() })
}

#[pymodule(gil_used = false)]
fn resolve_probe(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(read, module)?)?;
    module.add_function(wrap_pyfunction!(decode, module)?)?;
    module.add_function(wrap_pyfunction!(stack, module)?)?;
    module.add_function(wrap_pyfunction!(cost, module)?)?;
    module.add_function(wrap_pyfunction!(install, module)?)?;
    module.add_function(wrap_pyfunction!(uninstall, module)?)?;
    module.add_function(wrap_pyfunction!(take, module)?)?;
    module.add_function(wrap_pyfunction!(release, module)?)?;
    module.add_function(wrap_pyfunction!(nudge, module)?)?;
    module.add_function(wrap_pyfunction!(counts, module)?)?;
    module.add_function(wrap_pyfunction!(after_fork_child, module)?)?;
    module.add_function(wrap_pyfunction!(dealloc_slot, module)?)?;
    Ok(())
}
