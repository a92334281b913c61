//! Fork: the child has one thread, no timers, no manager. It must be inactive, clean, and able to start its own run.

use super::{PHASE, READERS, RUNNING, phase, terminate};
use crate::error::Result;
use crate::resolve::lifetime;
use crate::sampler::native::{modules, phdr};
use crate::sampler::{descriptor, pool, signals};
use spprof_sigsafe::thread::ThreadState;
use spprof_sigsafe::zone::{MAX_FDS, ZONE};
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};

static REGISTERED: Once = Once::new();
static FD_TABLE: AtomicPtr<AtomicPtr<ThreadState>> = AtomicPtr::new(std::ptr::null_mut());

/// Registers the child handler, once per process.
pub fn register() {
    // SAFETY: the handlers are static functions of this library, which is never unloaded.
    REGISTERED.call_once(|| unsafe {
        libc::pthread_atfork(Some(phdr::before_fork), Some(phdr::after_fork), Some(phdr::after_fork));
        libc::pthread_atfork(None, None, Some(in_child));
    });
}

/// The table from descriptors to thread states: address space, touched only where descriptors are.
pub fn prepare_fd_table() -> Result<()> {
    if !FD_TABLE.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    let bytes = MAX_FDS * size_of::<AtomicPtr<ThreadState>>();
    let table = pool::reserve(bytes, "the table of descriptors")?;
    FD_TABLE.store(table.cast(), Ordering::Release);
    // SAFETY: MAX_FDS null pointers, mapped for ever.
    unsafe { ZONE.set_fd_table(table.cast()) };
    Ok(())
}

/// Runs in the child between fork and its return, possibly while the parent's other threads held any lock: only atomics,
/// sigaction and close.
unsafe extern "C" fn in_child() {
    if PHASE.load(Ordering::Acquire) == phase::IDLE {
        return;
    }
    ZONE.active.store(false, Ordering::SeqCst);
    descriptor::close_inherited();
    signals::SignalOwner::restore_current();
    terminate::after_fork_child();
    pool::abandon();
    modules::abandon();
    // SAFETY: this is the child's only thread, before fork returns.
    unsafe { lifetime::after_fork_child() };
    // The parent's run is leaked here: its manager thread does not exist, its locks may be held.
    RUNNING.store(std::ptr::null_mut(), Ordering::Release);
    READERS.store(0, Ordering::Release);
    PHASE.store(phase::IDLE, Ordering::Release);
}
