//! `NativeProfile`: a profile behind a Python object. Nothing of it becomes Python objects before it is asked for.

use super::text::to_python;
use crate::analysis::aggregate;
use crate::resolve::naming;
use crate::session::names;
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use spprof_export::{Format, LoadError, WriteOptions};
use spprof_model::{
    HotRow, NodeId, Profile, Selection, ThreadId, Values, native_only, through_modules, without_native,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Losses that are samples which were due and not taken. (Others, as a truncated stack, concern samples that were.)
const DROPPED: [&str; 2] = ["dropped", "ring_full"];

#[derive(Clone)]
#[pyclass(frozen, module = "spprof._native")]
pub struct NativeProfile {
    /// As captured: native addresses have no names yet.
    captured: Arc<Profile>,
    /// The same with names, made when somebody looks; `captured` itself where there is nothing to name.
    named: OnceLock<Arc<Profile>>,
    /// The output path of the run it comes from, beside which the run's journal lies; empty when there is none.
    journalled: PathBuf,
}

type SampleRow<'py> = (u64, u64, Option<Bound<'py, PyString>>, usize, u64, u64);
type FrameRow<'py> = (Bound<'py, PyString>, Bound<'py, PyString>, u32, bool, Bound<'py, PyString>);
type StackRow<'py> = (u64, Option<Bound<'py, PyString>>, usize, u64, u64);

impl NativeProfile {
    pub fn new(profile: Profile) -> Self {
        Self::of_run(profile, None)
    }

    pub fn of_run(profile: Profile, output: Option<PathBuf>) -> Self {
        let (captured, named) = (Arc::new(profile), OnceLock::new());
        if !naming::has_addresses(&captured) {
            let _ = named.set(Arc::clone(&captured));
        }
        Self { captured, named, journalled: output.unwrap_or_default() }
    }

    /// For what does not depend on names.
    fn any(&self) -> &Profile {
        self.named.get().unwrap_or(&self.captured)
    }

    /// The profile with names for everything. The first call may take a while, in which other threads have the GIL.
    pub(super) fn profile(&self, py: Python<'_>) -> &Arc<Profile> {
        match self.named.get() {
            Some(profile) => profile,
            None => py.detach(|| self.named.get_or_init(|| Arc::new(names::named(&self.captured).into_owned()))),
        }
    }

    fn hot<'py>(
        &self,
        py: Python<'py>,
        threads: Option<Vec<u32>>,
        rows: fn(&Profile, &Values) -> Vec<HotRow>,
    ) -> PyResult<Bound<'py, PyList>> {
        let filtered;
        let profile: &Profile = match threads {
            None => self.profile(py),
            Some(_) => {
                let whole = self.profile(py);
                filtered = py.detach(|| selected(whole, threads, 0, u64::MAX));
                &filtered
            }
        };
        let list = PyList::empty(py);
        for row in py.detach(|| rows(profile, &Values::of_profile(profile))) {
            let function = profile.function_info(row.function);
            let dict = PyDict::new(py);
            dict.set_item("name", to_python(py, profile.bytes(function.name))?)?;
            dict.set_item("file", to_python(py, profile.bytes(profile.place_of(function)))?)?;
            dict.set_item("module", to_python(py, profile.bytes(function.module))?)?;
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
        self.any().retained_samples()
    }

    #[getter]
    fn sample_count(&self) -> u64 {
        self.any().sample_count()
    }

    /// (timestamp_ns, thread_id, thread_name, stack_id, weight_ns, count)
    fn sample<'py>(&self, py: Python<'py>, index: usize) -> PyResult<SampleRow<'py>> {
        let profile = self.profile(py);
        let sample = profile.sample(index).ok_or_else(|| PyIndexError::new_err("sample index out of range"))?;
        let name = thread_name(py, profile, sample.thread)?;
        let os_id = profile.threads()[sample.thread.index()].os_id;
        Ok((sample.time_ns, os_id, name, sample.node.index(), sample.weight_ns, sample.count))
    }

    /// Frames (name, file, line, is_native, module), leaf first.
    fn stack<'py>(&self, py: Python<'py>, stack_id: u32) -> PyResult<Vec<FrameRow<'py>>> {
        let profile = self.profile(py);
        if stack_id as usize >= profile.nodes().len() {
            return Err(PyIndexError::new_err("no such stack"));
        }
        let frames = profile.stack(NodeId::from_index(stack_id)).map(|node| {
            let node = profile.node(node);
            let function = profile.function_info(node.function);
            let name = to_python(py, profile.bytes(function.name))?;
            let file = to_python(py, profile.bytes(profile.place_of(function)))?;
            let module = to_python(py, profile.bytes(function.module))?;
            Ok((name, file, node.line, function.is_native(), module))
        });
        frames.collect()
    }

    /// Rows (thread_id, thread_name, stack_id, count, weight_ns), one a thread and stack.
    fn aggregate<'py>(&self, py: Python<'py>) -> PyResult<Vec<StackRow<'py>>> {
        let profile = self.profile(py);
        let rows = py.detach(|| aggregate(profile));
        let convert = |row: crate::analysis::AggregatedStack| {
            let name = thread_name(py, profile, row.thread)?;
            Ok((profile.threads()[row.thread.index()].os_id, name, row.node.index(), row.count, row.weight_ns))
        };
        rows.into_iter().map(convert).collect()
    }

    /// One dictionary a thread, those with most time first.
    fn threads<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let profile = self.any();
        let mut sums = vec![(0_u64, 0_u64); profile.threads().len()];
        for sample in profile.samples() {
            let (count, weight_ns) = &mut sums[sample.thread.index()];
            *count += sample.count;
            *weight_ns += sample.weight_ns;
        }
        let mut order: Vec<usize> = (0..sums.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(sums[i].1));
        let list = PyList::empty(py);
        for i in order {
            let thread = &profile.threads()[i];
            let dict = PyDict::new(py);
            dict.set_item("row", i)?;
            dict.set_item("thread_id", thread.os_id)?;
            dict.set_item("python_ident", thread.python_ident)?;
            dict.set_item("name", thread_name(py, profile, ThreadId::from_index(i as u32))?)?;
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
        let profile = self.profile(py);
        Self::new(py.detach(|| selected(profile, threads, from_ns, to_ns)))
    }

    /// False: native frames merged into their Python callers. True: native frames alone, and only samples that have one.
    fn by_native(&self, py: Python<'_>, native: bool) -> Self {
        let profile = self.profile(py);
        Self::new(py.detach(|| if native { native_only(profile) } else { without_native(profile) }))
    }

    /// The samples that went through one of these modules.
    fn through_modules(&self, py: Python<'_>, paths: Vec<String>) -> Self {
        let profile = self.profile(py);
        let paths: Vec<Vec<u8>> = paths.into_iter().map(String::into_bytes).collect();
        Self::new(py.detach(|| through_modules(profile, &paths)))
    }

    /// The files of compiled code that frames are in: (path, build id in hexadecimal digits).
    fn modules(&self, py: Python<'_>) -> Vec<(String, String)> {
        let modules = self.profile(py).modules().iter();
        modules.map(|module| (String::from_utf8_lossy(&module.path).into_owned(), module.build_id_hex())).collect()
    }

    /// The tree of a trace: (parent's row or None, module, name, {column: own value}), a parent before its children.
    fn contexts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        super::activity::contexts(py, self.any())
    }

    /// One dictionary a task of a trace.
    fn tasks<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        super::activity::tasks(py, self.any())
    }

    /// Intervals of a trace: (kind, name or row of the task, thread_id, start_ns, end_ns)
    fn spans<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        super::activity::spans(py, self.any())
    }

    /// What a trace knows of its tasks together.
    fn activity<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        super::activity::summary(py, self.any())
    }

    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let profile = self.any();
        let meta = &profile.meta;
        let losses = profile.losses();
        let dropped: u64 =
            losses.iter().filter(|(reason, _)| DROPPED.contains(&reason.as_str())).map(|(_, count)| count).sum();
        let dict = PyDict::new(py);
        dict.set_item("interval_ns", meta.interval_ns)?;
        dict.set_item("clock", &meta.clock)?;
        dict.set_item("native", &meta.native)?;
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
        dict.set_item("coarsened", profile.is_coarsened())?;
        dict.set_item("incomplete", meta.incomplete)?;
        dict.set_item("schema_version", meta.schema_version)?;
        dict.set_item("exporter", &meta.exporter)?;
        Ok(dict)
    }

    /// Writes a file, whole or not at all; `format` None goes by the suffix.
    #[pyo3(signature = (path, format=None, *, mark_native=true))]
    fn write(&self, py: Python<'_>, path: PathBuf, format: Option<&str>, mark_native: bool) -> PyResult<()> {
        let format = chosen_format(format, Some(&path))?;
        let profile = self.profile(py);
        py.detach(|| {
            spprof_export::write_file(profile, format, &path, &options(mark_native))?;
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
        let profile = self.profile(py);
        py.detach(|| spprof_export::write(profile, format, &mut bytes, &options(mark_native)))?;
        Ok(PyBytes::new(py, &bytes))
    }
}

fn thread_name<'py>(py: Python<'py>, profile: &Profile, thread: ThreadId) -> PyResult<Option<Bound<'py, PyString>>> {
    let name = profile.threads()[thread.index()].name;
    name.map(|name| to_python(py, profile.bytes(name))).transpose()
}

fn selected(profile: &Profile, threads: Option<Vec<u32>>, from_ns: u64, to_ns: u64) -> Profile {
    let rows: Option<Vec<ThreadId>> = threads.map(|rows| rows.into_iter().map(ThreadId::from_index).collect());
    spprof_model::filter(profile, &Selection { threads: rows.as_deref(), time_ns: Some(from_ns..to_ns), frame: None })
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
