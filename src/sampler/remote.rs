//! Walking a thread that is blocked, from the manager thread, without disturbing it.
//!
//! The walk is valid only if the thread did not run meanwhile: its CPU clock reads the same before and after. The chain of a
//! thread that does not run does not change, and its frames keep their code objects alive.

use spprof_sigsafe::mem::{is_plausible, load_word};
use spprof_sigsafe::pywalk::{Interrupted, Verified, WalkOutcome, walk};
use spprof_sigsafe::stack::Stack;
use spprof_sigsafe::sys::{clock_ns, thread_clock};
use spprof_sigsafe::zone::Runtime;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemoteOutcome {
    /// `out` is the thread's stack; the flag says whether it is a Python thread.
    Stack { python: bool },
    /// The thread ran during the walk: nothing can be said.
    Ran,
    /// The chain could not be followed.
    Broken,
}

/// Interpreters and thread states looked at: bounds a list that changes under us.
const MAX_LIST: usize = 1 << 15;

/// Walks thread `tid`, whose thread state is `tstate` (0: not a Python thread).
pub fn walk_blocked(runtime: &Runtime, tid: i32, tstate: usize, out: &mut Stack) -> RemoteOutcome {
    let clock = thread_clock(tid);
    let before = clock_ns(clock);
    out.clear();
    let outcome = if tstate == 0 {
        WalkOutcome::Complete
    } else {
        walk(runtime, &mut Verified::new(), tstate, Interrupted::default(), out)
    };
    if clock_ns(clock) != before {
        return RemoteOutcome::Ran;
    }
    match outcome {
        WalkOutcome::Broken => RemoteOutcome::Broken,
        _ => RemoteOutcome::Stack { python: tstate != 0 },
    }
}

/// Which thread states exist: (kernel thread id, thread state), read from the interpreters' lists by guarded loads.
///
/// The lists change while they are read; an entry is only a hint, to be verified by [`belongs`] while its thread is blocked.
/// A thread inside a sub-interpreter has several: the sub-interpreter's comes last.
pub fn thread_states(runtime: &Runtime, interpreters_head: usize, out: &mut Vec<(i32, usize)>) {
    out.clear();
    let layout = runtime.layout;
    // `interpreters.head` is the newest interpreter; the main one is last.
    let mut interpreter = interpreters_head;
    let mut left = MAX_LIST;
    while is_plausible(interpreter) && left > 0 {
        let mut tstate = load_word(interpreter.wrapping_add(layout.interp_threads_head)).unwrap_or(0);
        while is_plausible(tstate) && left > 0 {
            if let Some(tid) = kernel_id(runtime, tstate) {
                out.push((tid, tstate));
            }
            tstate = load_word(tstate.wrapping_add(layout.tstate_next)).unwrap_or(0);
            left -= 1;
        }
        interpreter = load_word(interpreter.wrapping_add(layout.interp_next)).unwrap_or(0);
        left = left.saturating_sub(1);
    }
    out.reverse();
}

/// True when `tstate` still says it is thread `tid`'s.
#[must_use]
pub fn belongs(runtime: &Runtime, tstate: usize, tid: i32) -> bool {
    kernel_id(runtime, tstate) == Some(tid)
}

fn kernel_id(runtime: &Runtime, tstate: usize) -> Option<i32> {
    if !is_plausible(tstate) {
        return None;
    }
    let id = match runtime.layout.tstate_native_thread_id {
        Some(field) => load_word(tstate.wrapping_add(field))? as i32,
        None => pthread_kernel_id(load_word(tstate.wrapping_add(runtime.layout.tstate_thread_id))?)?,
    };
    (id > 0).then_some(id)
}

/// CPYTHON 3.9, 3.10: only the pthread handle is kept. glibc's `struct pthread` has the kernel id at a fixed place.
fn pthread_kernel_id(pthread: usize) -> Option<i32> {
    #[cfg(target_arch = "x86_64")]
    const TID: usize = 720;
    #[cfg(target_arch = "aarch64")]
    const TID: usize = 208;
    // Never guess: the place is used only if it is right for the thread that asks.
    let own = spprof_sigsafe::sys::pthread_self();
    if spprof_sigsafe::mem::load_u32(own.wrapping_add(TID))? as i32 != super::tasks::gettid() {
        return None;
    }
    spprof_sigsafe::mem::load_u32(pthread.wrapping_add(TID)).map(|tid| tid as i32)
}
