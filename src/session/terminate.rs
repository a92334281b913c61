//! SIGTERM with its default action would end the process without a word: a run with an output path is saved first.
//!
//! Only when the host left SIGTERM at its default. The handler wakes the manager, which ends the run, writes the profile
//! without the GIL, and lets the signal do what it would have done.

use super::wake;
use spprof_export::{Format, WriteOptions};
use spprof_model::Profile;
use std::ffi::c_int;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// A run watches.
static WATCHING: AtomicBool = AtomicBool::new(false);
/// The process that SIGTERM came to, or 0: a fork copies the number, not the process.
static ARRIVED: AtomicI32 = AtomicI32::new(0);

unsafe extern "C" fn on_terminate(_signal: c_int) {
    let _errno = spprof_sigsafe::sys::ErrnoGuard::save();
    if WATCHING.load(Ordering::SeqCst) {
        // SAFETY: always callable.
        ARRIVED.store(unsafe { libc::getpid() }, Ordering::SeqCst);
        wake::wake();
    }
}

/// True once SIGTERM has come to a run that watches.
#[must_use]
pub fn arrived() -> bool {
    ARRIVED.load(Ordering::Acquire) != 0
}

fn disposition() -> Option<libc::sigaction> {
    // SAFETY: reads into a zeroed struct.
    unsafe {
        let mut current: libc::sigaction = std::mem::zeroed();
        (libc::sigaction(libc::SIGTERM, std::ptr::null(), &mut current) == 0).then_some(current)
    }
}

/// Watches SIGTERM for the run, if it has its default action.
pub fn watch() {
    ARRIVED.store(0, Ordering::SeqCst);
    WATCHING.store(true, Ordering::SeqCst);
    reclaim();
}

/// Takes SIGTERM (again) where it has its default action.
pub fn reclaim() {
    if !WATCHING.load(Ordering::SeqCst) || disposition().is_none_or(|now| now.sa_sigaction != libc::SIG_DFL) {
        return;
    }
    set(on_terminate as *const () as usize, libc::SA_RESTART | libc::SA_ONSTACK);
}

fn set(handler: usize, flags: c_int) {
    // SAFETY: a complete sigaction, with the default action or a handler of the right type.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        libc::sigaction(libc::SIGTERM, &action, std::ptr::null_mut());
    }
}

/// Puts the default action back, if ours is in place. Async-signal-safe.
pub fn unwatch() {
    WATCHING.store(false, Ordering::SeqCst);
    if disposition().is_some_and(|now| now.sa_sigaction == on_terminate as *const () as usize) {
        set(libc::SIG_DFL, 0);
    }
}

/// In a forked child: as [`unwatch`]; and what came to the child before this, our handler has taken from it. Async-signal-safe.
pub fn after_fork_child() {
    unwatch();
    // SAFETY: getpid and kill are always callable; SIGTERM has the host's disposition by now.
    unsafe {
        let pid = libc::getpid();
        if ARRIVED.swap(0, Ordering::SeqCst) == pid {
            libc::kill(pid, libc::SIGTERM);
        }
    }
}

/// Writes the profile to `path`, then ends the process as SIGTERM would have. If the write fails the journal is what remains,
/// and stderr says so.
pub fn save_and_die(profile: &Profile, path: &Path, format: Format) {
    match spprof_export::write_file(&super::names::named(profile), format, path, &WriteOptions::default()) {
        Ok(()) => drop(std::fs::remove_file(super::journal_path(path))),
        Err(error) => eprintln!("spprof: cannot save {} on SIGTERM: {error}", path.display()),
    }
    unwatch();
    // SAFETY: sends the signal, now with its default action, to this process; signals are blocked on this thread only.
    unsafe { libc::kill(libc::getpid(), libc::SIGTERM) };
}
