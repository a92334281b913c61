//! Scopes of the call tracer, and functions that programs mark themselves.

use super::profile::NativeProfile;
use super::text::to_wtf8;
use crate::error::Error;
use crate::sampler::runtime;
use crate::tracer::filter::Filter;
use crate::tracer::names;
use crate::tracer::recorder::{Entry as Entered, Exit, Site};
use crate::tracer::registry::{EVENTS, Entry, Known, MARKS};
use crate::tracer::scope::{self, Cost, Options, Scope};
use crate::tracer::{clock, fork, local, monitoring, setprofile, tasks};
use pyo3::prelude::*;
use pyo3::types::PyString;
use spprof_model::{Profile, ThreadId};
use spprof_sigsafe::layout::Layout;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

fn layout() -> PyResult<&'static Layout> {
    Ok(runtime::runtime()?.layout)
}

fn engine_name(layout: &Layout) -> &'static str {
    if layout.minor >= 12 { "monitoring" } else { "setprofile" }
}

/// An open scope, or one that was closed.
#[pyclass(frozen, module = "spprof._native")]
pub struct TraceScope {
    scope: Mutex<Option<Scope>>,
    marks: bool,
}

impl TraceScope {
    fn lock(&self) -> MutexGuard<'_, Option<Scope>> {
        self.scope.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, py: Python<'_>, scope: &Scope) -> PyResult<NativeProfile> {
        scope.settle();
        let layout = layout()?;
        let engine = if self.marks { "marks" } else { engine_name(layout) };
        let mut profile = py.detach(|| scope.profile(engine));
        profile.meta.engine_reason = match engine {
            "monitoring" => "CPython 3.12 or later: sys.monitoring",
            "setprofile" => "CPython before 3.12: the profile hook",
            _ => "functions that the program marked, outside of any scope",
        }
        .to_owned();
        runtime::describe_process(&mut profile.meta);
        name_threads(py, &mut profile);
        Ok(NativeProfile::new(profile))
    }
}

#[pymethods]
impl TraceScope {
    /// What was traced so far.
    fn profile(&self, py: Python<'_>) -> PyResult<NativeProfile> {
        let scope = self.lock();
        let scope = scope.as_ref().ok_or_else(closed)?;
        self.read(py, scope)
    }

    /// Closes the scope; what it traced.
    fn close(&self, py: Python<'_>) -> PyResult<NativeProfile> {
        let scope = self.lock().take().ok_or_else(closed)?;
        let profile = self.read(py, &scope);
        scope.close(py, layout()?);
        profile
    }

    /// Forgets what was traced so far.
    fn restart(&self) -> PyResult<()> {
        self.lock().as_mut().ok_or_else(closed)?.restart();
        Ok(())
    }
}

/// Names of the threads that run now, where there are any. By dictionaries alone: functions of `threading` would be traced.
fn name_threads(py: Python<'_>, profile: &mut Profile) {
    let Ok(active) = py.import("threading").and_then(|threading| threading.getattr("_active")) else { return };
    for row in 0..profile.threads().len() as u32 {
        let row = ThreadId::from_index(row);
        let ident = profile.threads()[row.index()].python_ident;
        let name = active.get_item(ident).and_then(|thread| thread.getattr("_name"));
        if let Some(name) = name.ok().and_then(|name| names::wtf8(&name).ok()) {
            profile.thread_mut(row).name = Some(profile.intern(&name));
        }
    }
}

fn closed() -> PyErr {
    Error::runtime("this scope is closed").into()
}

#[pyfunction]
#[pyo3(name = "_trace_open", signature = (frame, *, include, exclude, max_depth, min_duration_ns, builtins, current_thread, intervals, memory_limit_bytes))]
#[allow(clippy::too_many_arguments)]
pub fn trace_open(
    py: Python<'_>,
    frame: &Bound<'_, PyAny>,
    include: Vec<String>,
    exclude: Vec<String>,
    max_depth: Option<u32>,
    min_duration_ns: u64,
    builtins: bool,
    current_thread: bool,
    intervals: u32,
    memory_limit_bytes: u64,
) -> PyResult<TraceScope> {
    let options = Options {
        filter: Filter { include, exclude },
        max_depth,
        min_duration_ns,
        builtins,
        current_thread,
        intervals,
        memory_limit_bytes,
    };
    // The profile hook reads a field of the frame on old Pythons: the self-test has compared the layout.
    super::selftest::verdict(py)?;
    let scope = scope::open(py, layout()?, options, frame)?;
    Ok(TraceScope { scope: Mutex::new(Some(scope)), marks: false })
}

/// A scope over the functions that the program marked itself.
#[pyfunction]
#[pyo3(name = "_trace_marks")]
pub fn trace_marks() -> PyResult<TraceScope> {
    let scope = Scope::of_marks(&MARKS).ok_or_else(|| Error::runtime("the thread is about to end"))?;
    Ok(TraceScope { scope: Mutex::new(Some(scope)), marks: true })
}

#[pyfunction]
#[pyo3(name = "_trace_is_armed")]
pub fn trace_is_armed() -> bool {
    scope::is_armed()
}

/// The name of the engine that this interpreter gets.
#[pyfunction]
#[pyo3(name = "_trace_engine")]
pub fn trace_engine() -> PyResult<&'static str> {
    Ok(engine_name(layout()?))
}

/// What a call costs, in nanoseconds: inside its own self time, and inside its caller's.
#[pyfunction]
#[pyo3(name = "_trace_set_cost")]
pub fn trace_set_cost(inside_ns: f64, outside_ns: f64) {
    scope::set_cost(Cost { inside_ns, outside_ns });
}

/// `sys.setprofile` in a new thread: replaces itself by the native hook.
#[pyfunction]
#[pyo3(name = "_trace_bootstrap")]
pub fn trace_bootstrap(
    _frame: &Bound<'_, PyAny>,
    _event: &Bound<'_, PyAny>,
    _argument: &Bound<'_, PyAny>,
) -> PyResult<()> {
    if scope::is_armed() {
        setprofile::arm_current()?;
    }
    Ok(())
}

/// Qualified names by address of the code object.
#[pyfunction]
#[pyo3(name = "_trace_rename")]
pub fn trace_rename(names: Vec<(usize, Bound<'_, PyString>)>) -> PyResult<()> {
    let names = names.iter().map(|(key, name)| Ok((*key, to_wtf8(name)?.into_owned())));
    EVENTS.rename(names.collect::<PyResult<_>>()?);
    Ok(())
}

/// A task was put into its loop's queue.
#[pyfunction]
#[pyo3(name = "_trace_task_ready")]
pub fn trace_task_ready(task: &Bound<'_, PyAny>) {
    tasks::ready(task.as_ptr() as usize, clock::ticks());
}

/// `callback()` is called on a loop's thread when a task is seen there first.
#[pyfunction]
#[pyo3(name = "_trace_on_task")]
pub fn trace_on_task(py: Python<'_>, callback: Py<PyAny>) {
    tasks::set_on_task(py, callback);
}

/// `callback(frame)` is called at every traced call of Python code, while one is set.
#[pyfunction]
#[pyo3(name = "_trace_on_call")]
pub fn trace_on_call(callback: Option<Py<PyAny>>) {
    monitoring::set_capture(callback);
}

#[pyfunction]
#[pyo3(name = "_trace_before_fork")]
pub fn trace_before_fork() {
    fork::before();
}

#[pyfunction]
#[pyo3(name = "_trace_after_fork")]
pub fn trace_after_fork(py: Python<'_>, in_child: bool) {
    fork::after();
    if in_child {
        scope::after_fork_child(py);
    }
}

/// A function that the program marked, for the profile of marks.
#[pyclass(frozen, module = "spprof._native")]
pub struct Mark {
    key: usize,
    known: Known,
}

impl Site for Mark {
    fn describe(&self) -> Known {
        self.known
    }

    fn callers(&self) -> Vec<(usize, Known)> {
        Vec::new()
    }

    fn activation(&self) -> usize {
        0
    }
}

#[pymethods]
impl Mark {
    /// Marks of equal (code, name) are one function.
    #[new]
    fn new(code: &Bound<'_, PyAny>, module: &Bound<'_, PyString>, name: &Bound<'_, PyString>) -> PyResult<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let entry = Entry {
            name: to_wtf8(name)?.into_owned(),
            module: to_wtf8(module)?.into_owned(),
            object: 0,
            ..names::describe(code, None)?
        };
        let key = NEXT.fetch_add(1, Ordering::Relaxed);
        let (known, _) = MARKS.insert(key, entry);
        Ok(Self { key, known })
    }

    fn enter(&self, resumed: bool) {
        let now = clock::ticks();
        let entry = if resumed { Entered::Resume } else { Entered::Call };
        local::with_marks(|recorder| recorder.enter(self, self.key, now, entry));
    }

    /// `how`: "return", "yield", "raised" or "cancelled".
    fn leave(&self, how: &str) {
        let now = clock::ticks();
        let exit = match how {
            "yield" => Exit::Yield,
            "raised" => Exit::Raised,
            "cancelled" => Exit::Cancelled,
            _ => Exit::Return,
        };
        local::with_marks(|recorder| recorder.leave(self, self.key, now, exit));
    }
}
