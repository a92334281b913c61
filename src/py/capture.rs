//! Native stacks on request.

use crate::session;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// (ip, symbol, module's file, offset from the symbol, whether the symbol is known)
type Frame = (u64, String, String, u64, bool);

#[pyfunction]
#[pyo3(name = "_capture_native_stack")]
pub fn capture_native_stack(py: Python<'_>) -> PyResult<Vec<Frame>> {
    let frames = py.detach(session::native_stack);
    let frames = frames.ok_or_else(|| PyRuntimeError::new_err("Failed to capture native stack"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(frames.into_iter().map(|it| (it.ip, it.symbol, text(&it.module), it.offset, it.is_known)).collect())
}
