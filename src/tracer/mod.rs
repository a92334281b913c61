//! Deterministic tracing: every call, return, suspension and unwinding of Python code, as counters on a calling-context tree.
//!
//! [`monitoring`] (3.12+) and [`setprofile`] (3.9 to 3.11) turn the interpreter's events into calls of the [`recorder`] of
//! the thread they happen on, which owns its tree and its shadow stack and shares counters ([`rows`]) with whoever reads.
//! [`registry`] knows what the keys in those trees mean. A [`scope`] is two looks at the counters: what lies between them
//! is its profile, so scopes may be nested, overlap and be read while they run. [`tasks`] follows asyncio tasks.

pub mod callable;
pub mod clock;
pub mod filter;
pub mod fork;
pub mod local;
pub mod monitoring;
pub mod names;
pub mod recorder;
pub mod registry;
pub mod rows;
pub mod scope;
pub mod setprofile;
pub mod tasks;
pub mod tree;
