//! `NativeProfile`: a profile behind a Python object. Nothing of it becomes Python objects before it is asked for.

use super::text::to_python;
use crate::analysis::aggregate;
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use spprof_export::{Format, LoadError, WriteOptions};
use spprof_model::{FunctionKind, HotRow, NodeId, Profile, Selection, ThreadId, Values};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Losses that are samples which were due and not taken. (Others, as a truncated stack, concern samples that were.)
const DROPPED: [&str; 2] = ["dropped", "ring_full"];

#[derive(Clone)]
#[pyclass(frozen, module = "spprof._native")]
pub struct NativeProfile {
    profile: Arc<Profile>,
    /// The output path of the run it comes from, beside which the run's journal lies; empty when there is none.
    journalled: PathBuf,
}

type SampleRow<'py> = (u64, u64, Option<Bound<'py, PyString>>, usize, u64, u64);
type FrameRow<'py> = (Bound<'py, PyString>, Bound<'py, PyString>, u32, bool);
type StackRow<'py> = (u64, Option<Bound<'py, PyString>>, usize, u64, u64);

impl NativeProfile {
    pub fn new(profile: Profile) -> Self {
        Self { profile: Arc::new(profile), journalled: PathBuf::new() }
    }

    pub fn of_run(profile: Profile, output: Option<PathBuf>) -> Self {
        Self { profile: Arc::new(profile), journalled: output.unwrap_or_default() }
    }

    pub(super) fn shared(&self) -> Arc<Profile> {
        Arc::clone(&self.profile)
    }

    fn thread_name<'py>(&self, py: Python<'py>, thread: ThreadId) -> PyResult<Option<Bound<'py, PyString>>> {
        let name = self.profile.threads()[thread.index()].name;
        name.map(|name| to_python(py, self.profile.bytes(name))).transpose()
    }

    fn os_id(&self, thread: ThreadId) -> u64 {
        self.profile.threads()[thread.index()].os_id
    }

    fn selected(&self, threads: Option<Vec<u32>>, from_ns: u64, to_ns: u64) -> Profile {
        let rows: Option<Vec<ThreadId>> = threads.map(|rows| rows.into_iter().map(ThreadId::from_index).collect());
        spprof_model::filter(
            &self.profile,
            &Selection { threads: rows.as_deref(), time_ns: Some(from_ns..to_ns), frame: None },
        )
    }

    fn hot<'py>(
        &self,
        py: Python<'py>,
        threads: Option<Vec<u32>>,
        rows: fn(&Profile, &Values) -> Vec<HotRow>,
    ) -> PyResult<Bound<'py, PyList>> {
        let filtered;
        let profile: &Profile = match threads {
            None => &self.profile,
            Some(_) => {
                filtered = py.detach(|| self.selected(threads, 0, u64::MAX));
                &filtered
            }
        };
        let list = PyList::empty(py);
        for row in py.detach(|| rows(profile, &Values::of_profile(profile))) {
            let function = profile.function_info(row.function);
            let dict = PyDict::new(py);
            dict.set_item("name", to_python(py, profile.bytes(function.name))?)?;
            dict.set_item("file", to_python(py, profile.bytes(function.file))?)?;
            dict.set_item("first_line", function.first_line)?;
            dict.set_item("line", row.line)?;
            dict.set_item("kind", function.kind.name())?;
            dict.set_item("self_samples", row.self_samples)?;
            dict.set_item("total_samples", row.total_samples)?;
            dict.set_item("self_ns", row.self_ns)?;
            dict.set_item("total_ns", row.total_ns)?;
            list.append(dict)?;
        }
        Ok(list)
    }
}

#[pymethods]
impl NativeProfile {
    fn __len__(&self) -> usize {
        self.profile.retained_samples()
    }

    #[getter]
    fn sample_count(&self) -> u64 {
        self.profile.sample_count()
    }

    /// (timestamp_ns, thread_id, thread_name, stack_id, weight_ns, count)
    fn sample<'py>(&self, py: Python<'py>, index: usize) -> PyResult<SampleRow<'py>> {
        let sample = self.profile.sample(index).ok_or_else(|| PyIndexError::new_err("sample index out of range"))?;
        let name = self.thread_name(py, sample.thread)?;
        Ok((sample.time_ns, self.os_id(sample.thread), name, sample.node.index(), sample.weight_ns, sample.count))
    }

    /// Frames (name, file, line, is_native), leaf first.
    fn stack<'py>(&self, py: Python<'py>, stack_id: u32) -> PyResult<Vec<FrameRow<'py>>> {
        if stack_id as usize >= self.profile.nodes().len() {
            return Err(PyIndexError::new_err("no such stack"));
        }
        let frames = self.profile.stack(NodeId::from_index(stack_id)).map(|node| {
            let node = self.profile.node(node);
            let function = self.profile.function_info(node.function);
            let name = to_python(py, self.profile.bytes(function.name))?;
            let file = to_python(py, self.profile.bytes(function.file))?;
            Ok((name, file, node.line, function.kind == FunctionKind::Native))
        });
        frames.collect()
    }

    /// Rows (thread_id, thread_name, stack_id, count, weight_ns), one a thread and stack.
    fn aggregate<'py>(&self, py: Python<'py>) -> PyResult<Vec<StackRow<'py>>> {
        let rows = py.detach(|| aggregate(&self.profile));
        let convert = |row: crate::analysis::AggregatedStack| {
            let name = self.thread_name(py, row.thread)?;
            Ok((self.os_id(row.thread), name, row.node.index(), row.count, row.weight_ns))
        };
        rows.into_iter().map(convert).collect()
    }

    /// One dictionary a thread, those with most time first.
    fn threads<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let mut sums = vec![(0_u64, 0_u64); self.profile.threads().len()];
        for sample in self.profile.samples() {
            let (count, weight_ns) = &mut sums[sample.thread.index()];
            *count += sample.count;
            *weight_ns += sample.weight_ns;
        }
        let mut order: Vec<usize> = (0..sums.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(sums[i].1));
        let list = PyList::empty(py);
        for i in order {
            let thread = &self.profile.threads()[i];
            let dict = PyDict::new(py);
            dict.set_item("row", i)?;
            dict.set_item("thread_id", thread.os_id)?;
            dict.set_item("python_ident", thread.python_ident)?;
            dict.set_item("name", self.thread_name(py, ThreadId::from_index(i as u32))?)?;
            dict.set_item("samples", sums[i].0)?;
            dict.set_item("weight_ns", sums[i].1)?;
            dict.set_item("cpu_ns", thread.cpu_ns)?;
            dict.set_item("unattributed_ns", thread.unattributed_ns)?;
            dict.set_item("start_ns", thread.start_ns)?;
            dict.set_item("end_ns", thread.end_ns)?;
            list.append(dict)?;
        }
        Ok(list)
    }

    /// Self and total of every function, hottest first; of these rows of the thread table only, if given.
    #[pyo3(signature = (threads=None))]
    fn functions<'py>(&self, py: Python<'py>, threads: Option<Vec<u32>>) -> PyResult<Bound<'py, PyList>> {
        self.hot(py, threads, spprof_model::hot_functions)
    }

    /// As `functions`, by line.
    #[pyo3(signature = (threads=None))]
    fn lines<'py>(&self, py: Python<'py>, threads: Option<Vec<u32>>) -> PyResult<Bound<'py, PyList>> {
        self.hot(py, threads, spprof_model::hot_lines)
    }

    /// The samples of these rows of the thread table in [from_ns, to_ns), as a profile that states what it left out.
    #[pyo3(signature = (threads=None, from_ns=0, to_ns=u64::MAX))]
    fn filter(&self, py: Python<'_>, threads: Option<Vec<u32>>, from_ns: u64, to_ns: u64) -> Self {
        Self::new(py.detach(|| self.selected(threads, from_ns, to_ns)))
    }

    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let meta = &self.profile.meta;
        let losses = self.profile.losses();
        let dropped: u64 =
            losses.iter().filter(|(reason, _)| DROPPED.contains(&reason.as_str())).map(|(_, count)| count).sum();
        let dict = PyDict::new(py);
        dict.set_item("interval_ns", meta.interval_ns)?;
        dict.set_item("clock", &meta.clock)?;
        dict.set_item("engine", &meta.engine)?;
        dict.set_item("engine_reason", &meta.engine_reason)?;
        dict.set_item("start_unix_ns", meta.start_unix_ns)?;
        dict.set_item("duration_ns", meta.duration_ns)?;
        dict.set_item("python_version", &meta.python_version)?;
        dict.set_item("platform", &meta.platform)?;
        dict.set_item("argv", &meta.argv)?;
        dict.set_item("pid", meta.pid)?;
        dict.set_item("requested_rate_hz", meta.requested_rate_hz)?;
        dict.set_item("delivered_rate_hz", meta.delivered_rate_hz)?;
        dict.set_item("handler_ns", meta.handler_ns)?;
        dict.set_item("profiler_cpu_ns", meta.profiler_cpu_ns)?;
        dict.set_item("process_cpu_ns", meta.process_cpu_ns)?;
        dict.set_item("weight_ns", meta.weight_ns)?;
        dict.set_item("unattributed_ns", meta.unattributed_ns)?;
        dict.set_item("dropped_samples", dropped)?;
        let by_reason = PyDict::new(py);
        for (reason, count) in &losses {
            by_reason.set_item(reason, count)?;
        }
        dict.set_item("losses", by_reason)?;
        dict.set_item("notes", &meta.notes)?;
        dict.set_item("overhead_ns_per_call", meta.overhead_ns_per_call)?;
        dict.set_item("overhead_ns", meta.overhead_ns)?;
        dict.set_item("max_depth", meta.max_depth)?;
        dict.set_item("coarsened", self.profile.is_coarsened())?;
        dict.set_item("incomplete", meta.incomplete)?;
        dict.set_item("schema_version", meta.schema_version)?;
        dict.set_item("exporter", &meta.exporter)?;
        Ok(dict)
    }

    /// Writes a file, whole or not at all; `format` None goes by the suffix.
    #[pyo3(signature = (path, format=None, *, mark_native=true))]
    fn write(&self, py: Python<'_>, path: PathBuf, format: Option<&str>, mark_native: bool) -> PyResult<()> {
        let format = chosen_format(format, Some(&path))?;
        py.detach(|| {
            spprof_export::write_file(&self.profile, format, &path, &options(mark_native))?;
            // Saved: what the run had flushed for the case that it is killed is of no use any more.
            if path == self.journalled {
                drop(std::fs::remove_file(crate::session::journal_path(&path)));
            }
            Ok(())
        })
        .map_err(|error| super::os_error(error, &path))
    }

    #[pyo3(signature = (format, *, mark_native=true))]
    fn to_bytes<'py>(&self, py: Python<'py>, format: &str, mark_native: bool) -> PyResult<Bound<'py, PyBytes>> {
        let format = chosen_format(Some(format), None)?;
        let mut bytes = Vec::new();
        py.detach(|| spprof_export::write(&self.profile, format, &mut bytes, &options(mark_native)))?;
        Ok(PyBytes::new(py, &bytes))
    }
}

fn options(mark_native: bool) -> WriteOptions {
    WriteOptions { mark_native, ..WriteOptions::default() }
}

/// The format asked for, else the one of the path's suffix.
pub fn chosen_format(name: Option<&str>, path: Option<&Path>) -> PyResult<Format> {
    match (name, path) {
        (Some(name), _) => {
            Format::from_name(name).ok_or_else(|| PyValueError::new_err(format!("Unknown format: {name}")))
        }
        (None, Some(path)) => Ok(Format::from_path(path)),
        (None, None) => Ok(Format::Speedscope),
    }
}

#[pyfunction]
#[pyo3(name = "_format_of")]
pub fn format_of(path: PathBuf) -> &'static str {
    Format::from_path(&path).name()
}

/// Bytes into a file, whole or not at all.
#[pyfunction]
#[pyo3(name = "_write_whole")]
pub fn write_whole(py: Python<'_>, path: PathBuf, data: &[u8]) -> PyResult<()> {
    py.detach(|| spprof_export::write_whole(&path, |out| out.write_all(data)))
        .map_err(|error| super::os_error(error, &path))
}

#[pyfunction]
#[pyo3(name = "_load")]
pub fn load(py: Python<'_>, path: PathBuf) -> PyResult<NativeProfile> {
    opened(py.detach(|| spprof_export::load(&path)))
}

#[pyfunction]
#[pyo3(name = "_load_bytes")]
pub fn load_bytes(py: Python<'_>, data: &[u8]) -> PyResult<NativeProfile> {
    opened(py.detach(|| spprof_export::read(data, Path::new("<bytes>"))))
}

fn opened(loaded: Result<Profile, LoadError>) -> PyResult<NativeProfile> {
    match loaded {
        Ok(profile) => Ok(NativeProfile::new(profile)),
        Err(LoadError { source: Some(error), path, .. }) => Err(super::os_error(error, &path)),
        Err(error) => Err(PyValueError::new_err(error.to_string())),
    }
}
