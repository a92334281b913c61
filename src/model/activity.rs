//! What a trace knows beyond the tree: tasks, and intervals of calls and tasks in time.

use crate::ids::{FunctionId, NodeId, StringId, ThreadId};

/// How a task stands at the end of the profile.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum Outcome {
    #[default]
    Unfinished,
    Finished,
    Failed,
    Cancelled,
}

impl Outcome {
    /// In the order of their numbers in files.
    pub const ALL: [Self; 4] = [Self::Unfinished, Self::Finished, Self::Failed, Self::Cancelled];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unfinished => "unfinished",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// An asyncio task, as far as it lies inside the profile. Times since the profile's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Task {
    pub name: StringId,
    /// Row of the task that created it.
    pub parent: Option<u32>,
    /// Its coroutine.
    pub function: FunctionId,
    pub thread: ThreadId,
    /// When it was made ready for its first step.
    pub start_ns: u64,
    pub end_ns: u64,
    /// In steps; suspended until made ready; ready until resumed.
    pub run_ns: u64,
    pub wait_ns: u64,
    pub queued_ns: u64,
    pub steps: u64,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SpanKind {
    /// A function on its thread's stack.
    Call(NodeId),
    /// A step of this row of the table of tasks.
    Run(u32),
    Wait(u32),
    Queued(u32),
}

/// An interval. Those of the calls of one thread lie beside or inside each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    pub start_ns: u64,
    pub end_ns: u64,
    pub thread: ThreadId,
    pub kind: SpanKind,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Activity {
    pub tasks: Vec<Task>,
    /// In order of their ends, by thread.
    pub spans: Vec<Span>,
    /// Tasks at once: begun and not finished; running or ready. Those that began before the profile are not among the former.
    pub max_unfinished: u64,
    pub max_runnable: u64,
    /// Longest time a ready task stood in its loop's queue.
    pub max_lag_ns: u64,
}
