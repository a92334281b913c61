//! The data model: what a profile is, once captured and resolved. No I/O, no signals, no Python.
//!
//! Definitions (strings, functions, the calling-context tree, threads) are interned and only grow; metric columns hang on
//! the tree's nodes; the timeline keeps the samples in order. Views are pure functions that own nothing of the profile.
#![forbid(unsafe_code)]

mod activity;
mod columns;
mod filter;
mod functions;
mod graph;
mod hot;
mod ids;
mod merge;
mod metadata;
mod modules;
mod native;
mod profile;
mod rewrite;
mod strings;
mod threads;
mod timeline;
mod tree;

pub use activity::{Activity, Outcome, Span, SpanKind, Task};
pub use columns::Column;
pub use filter::{Selection, filter};
pub use functions::{Function, FunctionKind};
pub use graph::{Amounts, CallGraph, GraphEdge, GraphNode, TreeNode, full_names, module_of, time_of};
pub use hot::{HotRow, Values, hot_functions, hot_lines};
pub use ids::{FunctionId, NodeId, StringId, ThreadId};
pub use merge::merge;
pub use metadata::{Metadata, SCHEMA_VERSION};
pub use modules::Module;
pub use native::{NO_NATIVE_CALLER, native_only, through_modules, without_native};
pub use profile::{HEAP, MIN_MEMORY_LIMIT_BYTES, Profile, StackIter};
pub use rewrite::{Copies, rewrite};
pub use threads::Thread;
pub use timeline::Sample;
pub use tree::Node;
