//! Profiles put together without loss: names, threads, samples and columns of one into another.

use crate::activity::{Span, SpanKind, Task};
use crate::columns::Column;
use crate::functions::Function;
use crate::hot::add;
use crate::ids::{FunctionId, NodeId, StringId, ThreadId};
use crate::profile::Profile;
use crate::threads::Thread;
use crate::timeline::Sample;

/// Where the ids of one profile are in another.
pub(crate) struct Translation {
    functions: Vec<FunctionId>,
    nodes: Vec<NodeId>,
}

impl Translation {
    /// Copies functions and tree of `from`, in order.
    pub fn copy(from: &Profile, to: &mut Profile) -> Self {
        let mut this = Self { functions: Vec::new(), nodes: vec![NodeId::ROOT] };
        let modules: Vec<u32> = from.modules().iter().map(|module| to.module(module)).collect();
        for function in from.functions() {
            this.functions.push(copy_function(from, to, &modules, function));
        }
        for node in from.nodes().iter().skip(1) {
            let function = this.functions[node.function.index()];
            this.nodes.push(to.child(this.nodes[node.parent.index()], function, node.line));
        }
        this
    }

    pub fn function(&self, function: FunctionId) -> FunctionId {
        self.functions[function.index()]
    }

    pub fn node(&self, node: NodeId) -> NodeId {
        self.nodes[node.index()]
    }
}

/// `modules`: where the rows of the one's modules are in the other.
pub(crate) fn copy_function(from: &Profile, to: &mut Profile, modules: &[u32], function: &Function) -> FunctionId {
    let function = match function.address() {
        Some((row, address)) => {
            let row = (row as usize).checked_sub(1).and_then(|row| modules.get(row)).copied();
            Function::of_address(row.unwrap_or(0), address)
        }
        None => Function {
            name: string(from, to, function.name),
            file: string(from, to, function.file),
            module: string(from, to, function.module),
            ..*function
        },
    };
    to.function(function)
}

pub(crate) fn string(from: &Profile, to: &mut Profile, id: StringId) -> StringId {
    to.intern(from.bytes(id))
}

/// Copies a thread; times move by `offset_ns`.
pub(crate) fn copy_thread(from: &Profile, to: &mut Profile, thread: &Thread, offset_ns: u64) -> ThreadId {
    let name = thread.name.map(|name| string(from, to, name));
    to.thread(Thread {
        name,
        start_ns: thread.start_ns.saturating_add(offset_ns),
        end_ns: thread.end_ns.saturating_add(offset_ns),
        ..*thread
    })
}

/// Both profiles in one, on one time axis that starts with the earlier. Threads stay apart. Sums of the metadata (CPU time,
/// losses...) are added; what describes one run is the first's.
#[must_use]
pub fn merge(a: &Profile, b: &Profile) -> Profile {
    let mut merged = Profile::unlimited();
    merged.meta = a.meta.clone();
    let start = match (a.meta.start_unix_ns, b.meta.start_unix_ns) {
        (0, other) | (other, 0) => other,
        (a, b) => a.min(b),
    };
    let mut end_ns = 0;
    for profile in [a, b] {
        let offset_ns = profile.meta.start_unix_ns.saturating_sub(start);
        end_ns = end_ns.max(offset_ns.saturating_add(profile.meta.duration_ns));
        let translation = Translation::copy(profile, &mut merged);
        let threads: Vec<ThreadId> =
            profile.threads().iter().map(|thread| copy_thread(profile, &mut merged, thread, offset_ns)).collect();
        for sample in profile.samples() {
            merged.record_merged(&Sample {
                time_ns: sample.time_ns.saturating_add(offset_ns),
                thread: threads[sample.thread.index()],
                node: translation.node(sample.node),
                ..sample
            });
        }
        let first_task = merged.activity.tasks.len() as u32;
        for task in &profile.activity.tasks {
            let task = Task {
                name: string(profile, &mut merged, task.name),
                parent: task.parent.map(|parent| first_task + parent),
                function: translation.function(task.function),
                thread: threads[task.thread.index()],
                start_ns: task.start_ns.saturating_add(offset_ns),
                end_ns: task.end_ns.saturating_add(offset_ns),
                ..*task
            };
            merged.activity.tasks.push(task);
        }
        for span in &profile.activity.spans {
            merged.activity.spans.push(Span {
                start_ns: span.start_ns.saturating_add(offset_ns),
                end_ns: span.end_ns.saturating_add(offset_ns),
                thread: threads[span.thread.index()],
                kind: match span.kind {
                    SpanKind::Call(node) => SpanKind::Call(translation.node(node)),
                    SpanKind::Run(task) => SpanKind::Run(first_task + task),
                    SpanKind::Wait(task) => SpanKind::Wait(first_task + task),
                    SpanKind::Queued(task) => SpanKind::Queued(first_task + task),
                },
            });
        }
        // Of runs that may not have been at the same time.
        let (all, one) = (&mut merged.activity, &profile.activity);
        all.max_unfinished = all.max_unfinished.max(one.max_unfinished);
        all.max_runnable = all.max_runnable.max(one.max_runnable);
        all.max_lag_ns = all.max_lag_ns.max(one.max_lag_ns);
        for column in profile.columns().filter(|&column| column != Column::Samples && column != profile.time_column()) {
            for (i, &value) in profile.column(column).unwrap_or_default().iter().enumerate().filter(|(_, v)| **v > 0) {
                merged.add(column, translation.node(NodeId(i as u32)), value);
            }
        }
    }
    merged.meta.start_unix_ns = start;
    merged.meta.duration_ns = end_ns;
    merged.meta.losses = a.losses();
    for (reason, count) in b.losses() {
        match merged.meta.losses.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, known)) => add(known, count),
            None => merged.meta.losses.push((reason, count)),
        }
    }
    merged.meta.notes.extend(b.meta.notes.iter().cloned());
    add(&mut merged.meta.overhead_ns, b.meta.overhead_ns);
    merged.meta.max_depth = merged.meta.max_depth.max(b.meta.max_depth);
    add(&mut merged.meta.handler_ns, b.meta.handler_ns);
    add(&mut merged.meta.profiler_cpu_ns, b.meta.profiler_cpu_ns);
    add(&mut merged.meta.process_cpu_ns, b.meta.process_cpu_ns);
    add(&mut merged.meta.weight_ns, b.meta.weight_ns);
    add(&mut merged.meta.unattributed_ns, b.meta.unattributed_ns);
    merged.meta.incomplete |= b.meta.incomplete;
    if a.meta.clock != b.meta.clock {
        merged.meta.notes.push(format!(
            "merged from a {} clock profile and a {} clock profile: their weights are not of one kind",
            a.meta.clock, b.meta.clock
        ));
    }
    merged
}
