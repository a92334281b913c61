//! Tasks and intervals of a trace in the lossless format.

use crate::spprof::{SPANS, TASKS, write_chunk};
use prost::Message;
use spprof_model::{FunctionId, Outcome, Profile, SpanKind, StringId, ThreadId};
use std::io::{self, Write};

/// Rows in one chunk at most.
const ROWS: usize = 1 << 16;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Tasks {
    #[prost(message, repeated, tag = "1")]
    pub tasks: Vec<Task>,
    #[prost(uint64, tag = "2")]
    pub max_unfinished: u64,
    #[prost(uint64, tag = "3")]
    pub max_runnable: u64,
    #[prost(uint64, tag = "4")]
    pub max_lag_ns: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Task {
    #[prost(uint32, tag = "1")]
    pub name: u32,
    /// Row plus 1; 0: none.
    #[prost(uint32, tag = "2")]
    pub parent: u32,
    #[prost(uint32, tag = "3")]
    pub function: u32,
    #[prost(uint32, tag = "4")]
    pub thread: u32,
    #[prost(uint64, tag = "5")]
    pub start_ns: u64,
    #[prost(uint64, tag = "6")]
    pub end_ns: u64,
    #[prost(uint64, tag = "7")]
    pub run_ns: u64,
    #[prost(uint64, tag = "8")]
    pub wait_ns: u64,
    #[prost(uint64, tag = "9")]
    pub queued_ns: u64,
    #[prost(uint64, tag = "10")]
    pub steps: u64,
    #[prost(uint32, tag = "11")]
    pub outcome: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Spans {
    /// Differences, the first from 0.
    #[prost(sint64, repeated, tag = "1")]
    pub end_ns: Vec<i64>,
    #[prost(uint64, repeated, tag = "2")]
    pub length_ns: Vec<u64>,
    #[prost(uint32, repeated, tag = "3")]
    pub thread: Vec<u32>,
    #[prost(uint32, repeated, tag = "4")]
    pub kind: Vec<u32>,
    #[prost(uint32, repeated, tag = "5")]
    pub subject: Vec<u32>,
}

pub(crate) fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let activity = &profile.activity;
    if !activity.tasks.is_empty() {
        let row = |task: &spprof_model::Task| Task {
            name: task.name.index() as u32,
            parent: task.parent.map_or(0, |parent| parent + 1),
            function: task.function.index() as u32,
            thread: task.thread.index() as u32,
            start_ns: task.start_ns,
            end_ns: task.end_ns,
            run_ns: task.run_ns,
            wait_ns: task.wait_ns,
            queued_ns: task.queued_ns,
            steps: task.steps,
            outcome: Outcome::ALL.iter().position(|&outcome| outcome == task.outcome).unwrap_or(0) as u32,
        };
        let chunk = Tasks {
            tasks: activity.tasks.iter().map(row).collect(),
            max_unfinished: activity.max_unfinished,
            max_runnable: activity.max_runnable,
            max_lag_ns: activity.max_lag_ns,
        };
        write_chunk(out, TASKS, &chunk.encode_to_vec())?;
    }
    for spans in activity.spans.chunks(ROWS) {
        let mut chunk = Spans::default();
        let mut before_ns = 0_u64;
        for span in spans {
            chunk.end_ns.push(span.end_ns.wrapping_sub(before_ns) as i64);
            before_ns = span.end_ns;
            chunk.length_ns.push(span.end_ns.saturating_sub(span.start_ns));
            chunk.thread.push(span.thread.index() as u32);
            let (kind, subject) = match span.kind {
                SpanKind::Call(node) => (0, node.index() as u32),
                SpanKind::Run(task) => (1, task),
                SpanKind::Wait(task) => (2, task),
                SpanKind::Queued(task) => (3, task),
                _ => continue,
            };
            chunk.kind.push(kind);
            chunk.subject.push(subject);
        }
        write_chunk(out, SPANS, &chunk.encode_to_vec())?;
    }
    Ok(())
}

pub(crate) fn task(row: &Task, name: StringId, function: FunctionId, thread: ThreadId) -> Option<spprof_model::Task> {
    Some(spprof_model::Task {
        name,
        parent: row.parent.checked_sub(1),
        function,
        thread,
        start_ns: row.start_ns,
        end_ns: row.end_ns,
        run_ns: row.run_ns,
        wait_ns: row.wait_ns,
        queued_ns: row.queued_ns,
        steps: row.steps,
        outcome: *Outcome::ALL.get(row.outcome as usize)?,
    })
}

pub(crate) fn task_span(kind: u32, task: u32, tasks: usize) -> Option<SpanKind> {
    let kind: fn(u32) -> SpanKind = match kind {
        1 => SpanKind::Run,
        2 => SpanKind::Wait,
        3 => SpanKind::Queued,
        _ => return None,
    };
    ((task as usize) < tasks).then(|| kind(task))
}
