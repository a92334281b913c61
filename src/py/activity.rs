//! Tasks and intervals of a trace as Python objects.

use super::text::to_python;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use spprof_model::{NodeId, Profile, SpanKind};

pub fn contexts<'py>(py: Python<'py>, profile: &Profile) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for (i, node) in profile.nodes().iter().enumerate().skip(1) {
        let function = profile.function_info(node.function);
        let values = PyDict::new(py);
        for column in profile.columns() {
            values.set_item(column.name(), profile.value(column, NodeId::from_index(i as u32)))?;
        }
        let parent = node.parent.index().checked_sub(1);
        let (module, name) =
            (to_python(py, profile.bytes(function.module))?, to_python(py, profile.bytes(function.name))?);
        list.append((parent, module, name, values))?;
    }
    Ok(list)
}

pub fn tasks<'py>(py: Python<'py>, profile: &Profile) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for task in &profile.activity.tasks {
        let function = profile.function_info(task.function);
        let dict = PyDict::new(py);
        dict.set_item("name", to_python(py, profile.bytes(task.name))?)?;
        dict.set_item("parent", task.parent)?;
        dict.set_item("function", to_python(py, profile.bytes(function.name))?)?;
        dict.set_item("module", to_python(py, profile.bytes(function.module))?)?;
        dict.set_item("file", to_python(py, profile.bytes(function.file))?)?;
        dict.set_item("line", function.first_line)?;
        dict.set_item("thread_id", profile.threads()[task.thread.index()].os_id)?;
        dict.set_item("start_ns", task.start_ns)?;
        dict.set_item("end_ns", task.end_ns)?;
        dict.set_item("run_ns", task.run_ns)?;
        dict.set_item("wait_ns", task.wait_ns)?;
        dict.set_item("queued_ns", task.queued_ns)?;
        dict.set_item("steps", task.steps)?;
        dict.set_item("outcome", task.outcome.name())?;
        list.append(dict)?;
    }
    Ok(list)
}

pub fn spans<'py>(py: Python<'py>, profile: &Profile) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for span in &profile.activity.spans {
        let thread_id = profile.threads()[span.thread.index()].os_id;
        let (kind, subject) = match span.kind {
            SpanKind::Call(node) => {
                let function = profile.function_info(profile.node(node).function);
                ("call", to_python(py, profile.bytes(function.name))?.into_any())
            }
            SpanKind::Run(task) => ("run", task.into_pyobject(py)?.into_any()),
            SpanKind::Wait(task) => ("wait", task.into_pyobject(py)?.into_any()),
            SpanKind::Queued(task) => ("queued", task.into_pyobject(py)?.into_any()),
            _ => continue,
        };
        list.append((kind, subject, thread_id, span.start_ns, span.end_ns))?;
    }
    Ok(list)
}

pub fn summary<'py>(py: Python<'py>, profile: &Profile) -> PyResult<Bound<'py, PyDict>> {
    let activity = &profile.activity;
    let dict = PyDict::new(py);
    dict.set_item("tasks", activity.tasks.len())?;
    dict.set_item("spans", activity.spans.len())?;
    dict.set_item("max_unfinished", activity.max_unfinished)?;
    dict.set_item("max_runnable", activity.max_runnable)?;
    dict.set_item("max_lag_ns", activity.max_lag_ns)?;
    Ok(dict)
}
