//! A profile from the caller's own samples: for `Profile` objects that a program put together itself.

use super::profile::NativeProfile;
use super::text::to_wtf8;
use pyo3::prelude::*;
use pyo3::types::PyString;
use spprof_model::{Function, FunctionKind, NodeId, Profile, Sample, StringId, Thread, ThreadId};
use std::collections::HashMap;

/// (timestamp_ns, thread_id, thread_name, frames leaf first, weight_ns, count)
type Row<'py> = (u64, u64, Option<Bound<'py, PyString>>, Vec<Frame<'py>>, u64, u64);
/// (name, file, line, is_native, module)
type Frame<'py> = (Bound<'py, PyString>, Bound<'py, PyString>, i64, bool, Bound<'py, PyString>);

#[pyfunction]
#[pyo3(name = "_build_profile")]
#[pyo3(signature = (rows, *, interval_ns, start_unix_ns, duration_ns, dropped_samples, python_version, platform, clock))]
#[allow(clippy::too_many_arguments)]
pub fn build_profile(
    rows: &Bound<'_, PyAny>,
    interval_ns: u64,
    start_unix_ns: u64,
    duration_ns: u64,
    dropped_samples: u64,
    python_version: String,
    platform: String,
    clock: String,
) -> PyResult<NativeProfile> {
    let mut profile = Profile::unlimited();
    profile.meta.interval_ns = interval_ns;
    profile.meta.start_unix_ns = start_unix_ns;
    profile.meta.duration_ns = duration_ns;
    profile.meta.python_version = python_version;
    profile.meta.platform = platform;
    // Before the first sample: it decides which column the weights go to.
    profile.meta.clock = clock;
    if dropped_samples > 0 {
        profile.meta.losses.push(("dropped".to_owned(), dropped_samples));
    }
    let mut threads: HashMap<(u64, Option<StringId>), ThreadId> = HashMap::new();
    for row in rows.try_iter()? {
        let (time_ns, os_id, name, frames, weight_ns, count): Row = row?.extract()?;
        let name = name.map(|name| Ok::<_, PyErr>(profile.intern(&to_wtf8(&name)?))).transpose()?;
        let thread = *threads
            .entry((os_id, name))
            .or_insert_with(|| profile.thread(Thread { os_id, name, start_ns: time_ns, ..Thread::default() }));
        let end_ns = &mut profile.thread_mut(thread).end_ns;
        *end_ns = time_ns.max(*end_ns);
        let mut node = NodeId::ROOT;
        for frame in frames.iter().rev() {
            node = child(&mut profile, node, frame)?;
        }
        profile.record_merged(&Sample { time_ns, thread, node, weight_ns, count });
        profile.meta.weight_ns += weight_ns;
    }
    Ok(NativeProfile::new(profile))
}

/// The node of a frame. Its first line is unknown, so that equal names in equal files are one function.
fn child(profile: &mut Profile, parent: NodeId, frame: &Frame<'_>) -> PyResult<NodeId> {
    let (name, file, line, is_native, module) = frame;
    let name = profile.intern(&to_wtf8(name)?);
    let file = profile.intern(&to_wtf8(file)?);
    let module = profile.intern(&to_wtf8(module)?);
    let kind = if *is_native { FunctionKind::Native } else { FunctionKind::Python };
    let function = profile.function(Function { name, file, module, first_line: 0, kind, discriminator: 0 });
    // Lines below 1 mean "unknown".
    let line = u32::try_from((*line).max(0)).unwrap_or(u32::MAX);
    Ok(profile.child(parent, function, line))
}
