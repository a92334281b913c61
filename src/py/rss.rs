//! The memory of the process, for `spprof.profiling` and `spprof.memprof.explain_rss`.

use crate::memprof;
use crate::rss::{Watch, malloc_info, resident};
use crate::sampler::pool;
use pyo3::prelude::*;
use std::sync::Mutex;

/// Bytes the process holds in memory now.
#[pyfunction]
#[pyo3(name = "_resident_bytes")]
pub fn resident_bytes(py: Python<'_>) -> PyResult<u64> {
    Ok(py.detach(resident)?)
}

/// The profiler's own memory: address space it has reserved, as (address, bytes), and bytes it has from malloc for names.
#[pyfunction]
#[pyo3(name = "_own_memory")]
pub fn own_memory(py: Python<'_>) -> (Vec<(usize, usize)>, u64) {
    py.detach(|| (pool::reserved().collect(), memprof::names_bytes()))
}

/// What the C library says of its malloc, if it is glibc.
#[pyfunction]
#[pyo3(name = "_malloc_info")]
pub fn malloc_info_text(py: Python<'_>) -> Option<Vec<u8>> {
    py.detach(|| {
        // The C library allocates the text, and we free it: in no hook of ours.
        let _uncounted = memprof::Uncounted::new();
        malloc_info()
    })
}

/// Looks at the process's memory from when it is made until `stop()`.
#[pyclass(frozen, module = "spprof._native")]
pub struct MemoryWatch(Mutex<Watch>);

#[pymethods]
impl MemoryWatch {
    #[new]
    fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self(Mutex::new(py.detach(Watch::start)?)))
    }

    /// The most bytes the process held in memory.
    fn stop(&self, py: Python<'_>) -> u64 {
        py.detach(|| self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).stop())
    }
}
