//! Making samples happen on Linux: thread registry, signal sources, signal ownership.
//!
//! Everything here but the handlers runs on the session's manager thread. Sources behind one contract ([`source`]):
//! [`linux_perf`], [`linux_timer`], [`linux_tick`]; each makes the sampling signal arrive on a thread with its
//! `ThreadState`'s address.

pub mod debug_offsets;
pub mod descriptor;
pub mod linux_perf;
pub mod linux_tick;
pub mod linux_timer;
pub mod native;
pub mod pool;
pub mod remote;
pub mod runtime;
pub mod signals;
pub mod source;
pub mod tasks;
