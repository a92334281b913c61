//! The memory of the process, for `spprof.profiling`.

use crate::rss::{Watch, resident};
use pyo3::prelude::*;
use std::sync::Mutex;

/// Bytes the process holds in memory now.
#[pyfunction]
#[pyo3(name = "_resident_bytes")]
pub fn resident_bytes(py: Python<'_>) -> PyResult<u64> {
    Ok(py.detach(resident)?)
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
