//! The heap run and its snapshots, as Python objects. Nothing of a snapshot becomes Python objects before it is asked for.

use super::profile::NativeProfile;
use super::text::{to_python, to_wtf8};
use crate::memprof::{self, Figures, HeapSample, HeapSnapshot, Options, Site};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use rustc_hash::FxHashMap;
use spprof_model::{FunctionKind, NodeId};

#[pyfunction]
#[pyo3(name = "_memprof_start", signature = (rate_bytes, max_samples_per_second, max_stacks=None))]
pub fn memprof_start(
    py: Python<'_>,
    rate_bytes: u64,
    max_samples_per_second: u64,
    max_stacks: Option<u32>,
) -> PyResult<()> {
    super::selftest::verdict(py)?;
    Ok(memprof::start(Options { rate_bytes, max_samples_per_second, max_stacks })?)
}

#[pyfunction]
#[pyo3(name = "_memprof_stop")]
pub fn memprof_stop() {
    memprof::stop();
}

#[pyfunction]
#[pyo3(name = "_memprof_shutdown")]
pub fn memprof_shutdown() -> PyResult<()> {
    Ok(memprof::shutdown()?)
}

#[pyfunction]
#[pyo3(name = "_memprof_at_exit")]
pub fn memprof_at_exit() {
    memprof::at_exit();
}

#[pyfunction]
#[pyo3(name = "_memprof_after_fork")]
pub fn memprof_after_fork() -> PyResult<()> {
    Ok(memprof::after_fork_child()?)
}

/// (running, initialized, shut down)
#[pyfunction]
#[pyo3(name = "_memprof_phase")]
pub fn memprof_phase() -> (bool, bool, bool) {
    memprof::phase()
}

/// For `gc.callbacks`.
#[pyfunction]
#[pyo3(name = "_memprof_note_gc")]
pub fn memprof_note_gc(phase: &Bound<'_, PyString>, _info: &Bound<'_, PyAny>) -> PyResult<()> {
    if phase.to_cow()? == "stop" {
        memprof::note_gc();
    }
    Ok(())
}

#[pyfunction]
#[pyo3(name = "_memprof_stats")]
pub fn memprof_stats(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    figures(py, &memprof::figures()?)
}

fn figures<'py>(py: Python<'py>, figures: &Figures) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("total_samples", figures.total_samples)?;
    dict.set_item("live_samples", figures.live_samples)?;
    dict.set_item("freed_samples", figures.freed_samples)?;
    dict.set_item("unique_stacks", figures.unique_stacks)?;
    dict.set_item("estimated_heap_bytes", figures.live_bytes)?;
    dict.set_item("heap_map_load_percent", figures.table_load_percent)?;
    dict.set_item("sampling_rate_bytes", figures.base_rate_bytes)?;
    dict.set_item("current_rate_bytes", figures.rate_bytes)?;
    dict.set_item("memory_bytes", figures.memory_bytes)?;
    dict.set_item("arena_bytes", figures.arena_bytes)?;
    let losses = PyDict::new(py);
    for (reason, count) in &figures.losses {
        losses.set_item(reason, count)?;
    }
    dict.set_item("losses", losses)?;
    Ok(dict)
}

/// `thread_names`: kernel id to (ident, name), as Python calls its threads.
#[pyfunction]
#[pyo3(name = "_memprof_snapshot")]
pub fn memprof_snapshot(py: Python<'_>, thread_names: &Bound<'_, PyDict>) -> PyResult<NativeHeap> {
    let mut names = FxHashMap::default();
    for (tid, value) in thread_names {
        let (ident, name): (u64, Bound<'_, PyString>) = value.extract()?;
        names.insert(tid.extract::<u32>()?, (ident, to_wtf8(&name)?.into_owned()));
    }
    Ok(NativeHeap::new(py.detach(|| memprof::take(&names))?))
}

#[pyclass(frozen, module = "spprof._native")]
pub struct NativeHeap {
    snapshot: HeapSnapshot,
    /// The snapshot's names, tree and live samples: as a profile for what writes files.
    profile: NativeProfile,
}

/// (address, size, rate, estimated_bytes, estimated_count, timestamp_ns, lifetime_ns, stack_id, thread_id, gc_epoch, domain)
type SampleRow = (u64, u64, u64, u64, u64, u64, Option<u64>, usize, u32, u32, u32);
/// (address, function, file, line, is_python)
type FrameRow<'py> = (u64, Bound<'py, PyString>, Bound<'py, PyString>, u32, bool);

impl NativeHeap {
    fn new(snapshot: HeapSnapshot) -> Self {
        let profile = NativeProfile::new(snapshot.profile.clone());
        Self { snapshot, profile }
    }
}

fn row(samples: &[HeapSample], index: usize) -> PyResult<SampleRow> {
    let HeapSample { sample, node, lifetime_ns } =
        samples.get(index).ok_or_else(|| PyIndexError::new_err("sample index out of range"))?;
    Ok((
        sample.address,
        sample.size,
        sample.rate,
        sample.bytes,
        sample.count,
        sample.time_ns,
        *lifetime_ns,
        node.index(),
        sample.tid,
        sample.gc_epoch,
        sample.domain,
    ))
}

#[pymethods]
impl NativeHeap {
    fn __len__(&self) -> usize {
        self.snapshot.live.len()
    }

    #[getter]
    fn freed_count(&self) -> usize {
        self.snapshot.freed.len()
    }

    fn sample(&self, index: usize) -> PyResult<SampleRow> {
        row(&self.snapshot.live, index)
    }

    /// The last samples that were freed.
    fn freed(&self, index: usize) -> PyResult<SampleRow> {
        row(&self.snapshot.freed, index)
    }

    /// Leaf first.
    fn stack<'py>(&self, py: Python<'py>, stack_id: u32) -> PyResult<Vec<FrameRow<'py>>> {
        let profile = &self.snapshot.profile;
        if stack_id as usize >= profile.nodes().len() {
            return Err(PyIndexError::new_err("no such stack"));
        }
        let frames = profile.stack(NodeId::from_index(stack_id)).map(|node| {
            let node = profile.node(node);
            let function = profile.function_info(node.function);
            let name = to_python(py, profile.bytes(function.name))?;
            let file = to_python(py, profile.bytes(function.file))?;
            let address = if function.kind == FunctionKind::Native { function.discriminator } else { 0 };
            Ok((address, name, file, node.line, function.kind == FunctionKind::Python))
        });
        frames.collect()
    }

    /// (stack_id, figures) of every stack that ever allocated, those that hold most first.
    fn sites<'py>(&self, py: Python<'py>) -> PyResult<Vec<(usize, Bound<'py, PyDict>)>> {
        self.snapshot.sites.iter().map(|(node, it)| Ok((node.index(), site(py, it)?))).collect()
    }

    /// (time_ns, live_bytes, live_count, alloc_bytes) since the first start, at most some thousand points.
    fn history(&self) -> Vec<(u64, u64, u64, u64)> {
        let points = self.snapshot.history.iter();
        points.map(|point| (point.time_ns, point.live_bytes, point.live_count, point.alloc_bytes)).collect()
    }

    fn totals<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let snapshot = &self.snapshot;
        let dict = figures(py, &snapshot.figures)?;
        for (name, total) in [
            ("live_bytes", snapshot.live_bytes),
            ("live_count", snapshot.live_count),
            ("alloc_bytes", snapshot.alloc_bytes),
            ("alloc_count", snapshot.alloc_count),
        ] {
            dict.set_item(name, (total.value, total.standard_error()))?;
        }
        dict.set_item("by_domain", snapshot.by_domain)?;
        dict.set_item("time_ns", snapshot.time_ns)?;
        dict.set_item("peak_bytes", snapshot.peak_bytes)?;
        dict.set_item("peak_time_ns", snapshot.peak_time_ns)?;
        dict.set_item("malloc_hooks", snapshot.malloc)?;
        dict.set_item("python_splits", &snapshot.splits)?;
        dict.set_item("notes", &snapshot.notes)?;
        Ok(dict)
    }

    /// The live samples as a profile whose weights are estimated bytes.
    fn profile(&self) -> NativeProfile {
        self.profile.clone()
    }
}

fn site<'py>(py: Python<'py>, site: &Site) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("samples", site.samples)?;
    dict.set_item("alloc_bytes", site.alloc_bytes)?;
    dict.set_item("alloc_count", site.alloc_count)?;
    dict.set_item("freed_samples", site.freed_samples)?;
    dict.set_item("freed_bytes", site.freed_bytes)?;
    dict.set_item("freed_count", site.freed_count)?;
    dict.set_item("live_bytes", site.live_bytes)?;
    dict.set_item("live_count", site.live_count)?;
    dict.set_item("lifetime_ns", site.lifetime_ns)?;
    dict.set_item("temporary_bytes", site.temporary_bytes)?;
    dict.set_item("temporary_count", site.temporary_count)?;
    dict.set_item("peak_bytes", site.peak_bytes)?;
    dict.set_item("peak_count", site.peak_count)?;
    Ok(dict)
}
