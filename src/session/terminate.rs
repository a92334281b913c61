//! SIGTERM with its default action would end the process without a word: a run with an output path is saved first.
//!
//! Only when the host left SIGTERM at its default. The handler wakes the manager, which ends the run, writes the profile
//! without the GIL, and lets the signal do what it would have done.

use super::wake::wake_fd;
use spprof_export::{Format, WriteOptions};
use spprof_model::Profile;
use std::ffi::c_int;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

/// The eventfd of the run that watches, or -1.
static WAKE_FD: AtomicI32 = AtomicI32::new(-1);
static ARRIVED: AtomicBool = AtomicBool::new(false);
/// Handlers that may still be using the descriptor.
static INSIDE: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn on_terminate(_signal: c_int) {
    let _errno = spprof_sigsafe::sys::ErrnoGuard::save();
    INSIDE.fetch_add(1, Ordering::SeqCst);
    let fd = WAKE_FD.load(Ordering::SeqCst);
    if fd >= 0 {
        ARRIVED.store(true, Ordering::SeqCst);
        wake_fd(fd);
    }
    INSIDE.fetch_sub(1, Ordering::SeqCst);
}

/// True once SIGTERM has come to a run that watches.
#[must_use]
pub fn arrived() -> bool {
    ARRIVED.load(Ordering::Acquire)
}

fn disposition() -> Option<libc::sigaction> {
    // SAFETY: reads into a zeroed struct.
    unsafe {
        let mut current: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(libc::SIGTERM, std::ptr::null(), &mut current) == 0).then_some(current)
    }
}

/// Watches SIGTERM for the run whose manager waits on `fd`, if it has its default action.
pub fn watch(fd: i32) {
    ARRIVED.store(false, Ordering::SeqCst);
    WAKE_FD.store(fd, Ordering::SeqCst);
    reclaim();
}

/// Takes SIGTERM (again) where it has its default action.
pub fn reclaim() {
    if WAKE_FD.load(Ordering::Acquire) < 0 || disposition().is_none_or(|now| now.sa_sigaction != libc::SIG_DFL) {
        return;
    }
    // SAFETY: a complete sigaction with a handler of the right type.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_terminate as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGTERM, &action, std::ptr::null_mut());
    }
}

/// Puts the default action back, if ours is in place; the run's descriptor is not used any more when this returns.
pub fn unwatch() {
    forget();
    while INSIDE.load(Ordering::SeqCst) != 0 {
        std::thread::yield_now();
    }
}

/// The part of [`unwatch`] that a forked child may do. Async-signal-safe.
pub fn forget() {
    WAKE_FD.store(-1, Ordering::SeqCst);
    if disposition().is_some_and(|now| now.sa_sigaction == on_terminate as *const () as usize) {
        // SAFETY: restores the default.
        unsafe { libc::signal(libc::SIGTERM, libc::SIG_DFL) };
    }
}

/// Writes the profile to `path`, then ends the process as SIGTERM would have. If the write fails the journal is what remains,
/// and stderr says so.
pub fn save_and_die(profile: &Profile, path: &Path, format: Format) {
    match spprof_export::write_file(profile, format, path, &WriteOptions::default()) {
        Ok(()) => drop(std::fs::remove_file(super::journal_path(path))),
        Err(error) => eprintln!("spprof: cannot save {} on SIGTERM: {error}", path.display()),
    }
    unwatch();
    // SAFETY: sends the signal, now with its default action, to this process; signals are blocked on this thread only.
    unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
}
