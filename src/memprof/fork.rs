//! Fork: the child has the parent's tables and hooks, but no keeper. It goes on sampling at once; names wait for Python's own
//! after-fork call, which starts a keeper (see `after_fork_child`).
//!
//! The state's lock is held across the fork, so the child finds it whole and free.

use super::{STATE, State};
use crate::resolve::lifetime;
use spprof_heap::state::HEAP;
use std::cell::UnsafeCell;
use std::sync::{MutexGuard, Once, PoisonError};

struct Held(UnsafeCell<Option<MutexGuard<'static, Option<State>>>>);
// SAFETY: touched only by the thread that holds the lock: between `before` and `in_parent` or `in_child`.
unsafe impl Sync for Held {}

static HELD: Held = Held(UnsafeCell::new(None));
static REGISTERED: Once = Once::new();

/// Registers the handlers, once per process.
pub fn register() {
    // SAFETY: the handlers are static functions of this library, which is never unloaded.
    REGISTERED.call_once(|| unsafe {
        libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child));
    });
}

unsafe extern "C" fn before() {
    let guard = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the lock is held by this thread from here on.
    unsafe { *HELD.0.get() = Some(guard) };
}

unsafe extern "C" fn in_parent() {
    // SAFETY: the lock is held by this thread, see `before`.
    drop(unsafe { (*HELD.0.get()).take() });
}

unsafe extern "C" fn in_child() {
    // SAFETY: as in the parent: the child's only thread is the one that forked.
    let mut guard = unsafe { (*HELD.0.get()).take() };
    if let Some(state) = guard.as_mut().and_then(|guard| guard.as_mut()) {
        // The thread does not exist here. Not dropped: that would detach what is not there.
        std::mem::forget(state.keeper.take());
        if state.is_running {
            // Code objects die at once until the run is taken up: no stack of before may be found again.
            HEAP.run.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
            // SAFETY: this is the child's only thread, before fork returns.
            unsafe { lifetime::after_fork_child() };
        }
    }
}
