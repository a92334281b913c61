//! Ownership of signals: the sampling signal, and SIGSEGV/SIGBUS for guarded loads.
//!
//! The sampling signal is SIGURG: its default action is to be ignored, so a signal that arrives late, in a child, across an
//! exec, or after the host reset the disposition can never kill the host, as SIGPROF would; and the host's own SIGPROF,
//! `setitimer(ITIMER_PROF)` and handlers stay untouched. What was installed before us is chained and put back; what the
//! host installs over us while we run is found by [`SignalOwner::reclaim`] and chained in turn.

use crate::error::{Error, Result};
use spprof_sigsafe::handler::{absorb_fault, on_sample};
use spprof_sigsafe::zone::ZONE;
use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

pub const SAMPLE_SIGNAL: c_int = libc::SIGURG;

/// What a handler of ours replaced. Read inside handlers, so plain atomics.
struct Chained {
    handler: AtomicUsize,
    siginfo: AtomicBool,
}

impl Chained {
    const fn unset() -> Self {
        Self { handler: AtomicUsize::new(libc::SIG_DFL), siginfo: AtomicBool::new(false) }
    }

    /// Ends up in `other`; here is the default action then.
    fn move_to(&self, other: &Self) {
        other.siginfo.store(self.siginfo.load(Ordering::Acquire), Ordering::Release);
        other.handler.store(self.handler.swap(libc::SIG_DFL, Ordering::AcqRel), Ordering::Release);
    }
}

static FAULTS: [Chained; 2] = [Chained::unset(), Chained::unset()];
/// What was chained when the host put a handler of its own over ours: that one believes ours to be the one before it, so
/// what it passes on belongs there.
static BELOW: [Chained; 2] = [Chained::unset(), Chained::unset()];
const FAULT_SIGNALS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];
/// Our handlers are installed.
static INSTALLED: AtomicBool = AtomicBool::new(false);
/// Where on its stack a thread is passing a fault on. A chained handler that raises the signal again (faulthandler does)
/// must not come back to itself; one that leaves by `longjmp` must not make us believe that it is still running.
static PASSING_ON: AtomicUsize = AtomicUsize::new(0);
/// A raise inside a handler comes back this close below it.
const NESTED_BYTES: usize = 256 * 1024;

unsafe extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's arguments.
    if unsafe { absorb_fault(context) } {
        return;
    }
    let index = usize::from(signal == libc::SIGBUS);
    let local = 0_u8;
    let here = &raw const local as usize;
    let outer = PASSING_ON.swap(here, Ordering::AcqRel);
    let nested = here < outer && outer - here < NESTED_BYTES;
    // Not installed and yet called: by a handler of the host's that took our place, and passes on what it does not want.
    let from_above = nested || !INSTALLED.load(Ordering::Acquire);
    let chained = if from_above { &BELOW[index] } else { &FAULTS[index] };
    let handler = chained.handler.load(Ordering::Acquire);
    // SAFETY: `handler` came out of sigaction, with the flag that says which type it has; signal() and raise are
    // async-signal-safe.
    unsafe {
        if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
            // The default action: a fault repeats on return and ends the process; a sent signal is sent again.
            libc::signal(signal, libc::SIG_DFL);
            if (*info).si_code <= 0 {
                libc::raise(signal);
            }
        } else if chained.siginfo.load(Ordering::Acquire) {
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = std::mem::transmute(handler);
            handler(signal, info, context);
        } else {
            let handler: extern "C" fn(c_int) = std::mem::transmute(handler);
            handler(signal);
        }
    }
    PASSING_ON.store(0, Ordering::Release);
}

fn get(signal: c_int) -> Result<libc::sigaction> {
    // SAFETY: reads the current disposition into a zeroed struct.
    unsafe {
        let mut current: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal, std::ptr::null(), &mut current) != 0 {
            return Err(Error::os("cannot read a signal's disposition", &std::io::Error::last_os_error()));
        }
        Ok(current)
    }
}

fn set(signal: c_int, action: &libc::sigaction) -> Result<()> {
    // SAFETY: `action` is a complete sigaction.
    if unsafe { libc::sigaction(signal, action, std::ptr::null_mut()) } != 0 {
        return Err(Error::os("cannot install a signal handler", &std::io::Error::last_os_error()));
    }
    Ok(())
}

fn sample_action() -> libc::sigaction {
    // SAFETY: an all-zero sigaction is valid; sigfillset/sigdelset get a valid set.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sample as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigfillset(&mut action.sa_mask);
        for fault in FAULT_SIGNALS {
            libc::sigdelset(&mut action.sa_mask, fault);
        }
        action
    }
}

fn fault_action() -> libc::sigaction {
    // SAFETY: an all-zero sigaction is valid; sigemptyset gets a valid set.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        // SA_NODEFER: a guarded load may fault inside a handler that a fault handler runs.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        action
    }
}

/// Puts `ours` on top of whatever is there now, remembering that as what to chain to. True when something was there.
fn take(signal: c_int, ours: &libc::sigaction, remember: impl Fn(&libc::sigaction)) -> Result<bool> {
    let current = get(signal)?;
    if current.sa_sigaction == ours.sa_sigaction {
        return Ok(false);
    }
    // Before ours is in place, so that it never runs without knowing where to pass on to.
    remember(&current);
    set(signal, ours)?;
    Ok(true)
}

fn remember_sample(old: &libc::sigaction) {
    ZONE.chained_is_siginfo.store(old.sa_flags & libc::SA_SIGINFO != 0, Ordering::Release);
    ZONE.chained.store(old.sa_sigaction, Ordering::Release);
}

fn remember_fault(index: usize) -> impl Fn(&libc::sigaction) {
    move |old| {
        // Taken out and put in again between two looks of ours, a handler is not below itself.
        if FAULTS[index].handler.load(Ordering::Acquire) != old.sa_sigaction {
            FAULTS[index].move_to(&BELOW[index]);
        }
        FAULTS[index].siginfo.store(old.sa_flags & libc::SA_SIGINFO != 0, Ordering::Release);
        FAULTS[index].handler.store(old.sa_sigaction, Ordering::Release);
    }
}

/// The dispositions as they were, for putting back. The handlers chain by the statics above.
#[derive(Clone, Copy)]
pub struct SignalOwner {
    sample: libc::sigaction,
    faults: [libc::sigaction; 2],
}

impl std::fmt::Debug for SignalOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignalOwner")
    }
}

impl SignalOwner {
    /// Installs all handlers.
    pub fn install() -> Result<Self> {
        let owner = Self { sample: get(SAMPLE_SIGNAL)?, faults: [get(FAULT_SIGNALS[0])?, get(FAULT_SIGNALS[1])?] };
        ZONE.fault_handler.store(on_fault as *const () as usize, Ordering::Release);
        for (index, signal) in FAULT_SIGNALS.into_iter().enumerate() {
            // Twice: neither what is chained nor what is below it is of an earlier run.
            FAULTS[index].move_to(&BELOW[index]);
            FAULTS[index].move_to(&BELOW[index]);
            take(signal, &fault_action(), remember_fault(index))?;
        }
        INSTALLED.store(true, Ordering::Release);
        take(SAMPLE_SIGNAL, &sample_action(), remember_sample)?;
        owner.publish();
        Ok(owner)
    }

    /// Makes this owner the one that [`Self::restore_current`] uses.
    fn publish(self) {
        let next = CURRENT.load(Ordering::Acquire).wrapping_add(1);
        // SAFETY: readers use the other slot until the store below, and only a run, one at a time, publishes.
        unsafe { PUBLISHED[next % 2].0.get().write(Some(self)) };
        CURRENT.store(next, Ordering::Release);
    }

    /// Puts back what the latest owner replaced. Async-signal-safe.
    pub fn restore_current() {
        // SAFETY: `publish` writes to the slot that is not current.
        if let Some(owner) = unsafe { &*PUBLISHED[CURRENT.load(Ordering::Acquire) % 2].0.get() } {
            owner.restore();
        }
    }

    /// Takes back what the host replaced while we run; what it installed is chained and put back at the end instead.
    pub fn reclaim(&mut self) {
        let mut changed = false;
        for (index, signal) in FAULT_SIGNALS.into_iter().enumerate() {
            if let Ok(current) = get(signal)
                && take(signal, &fault_action(), remember_fault(index)).unwrap_or(false)
            {
                self.faults[index] = current;
                changed = true;
            }
        }
        if let Ok(current) = get(SAMPLE_SIGNAL)
            && take(SAMPLE_SIGNAL, &sample_action(), remember_sample).unwrap_or(false)
        {
            self.sample = current;
            changed = true;
        }
        if changed {
            self.publish();
        }
    }

    /// Puts the old dispositions back, where ours are still in place. Async-signal-safe (used in a forked child).
    pub fn restore(&self) {
        let put_back = |signal, ours: usize, old: &libc::sigaction| {
            if get(signal).is_ok_and(|current| current.sa_sigaction == ours) {
                let _ = set(signal, old);
            }
        };
        INSTALLED.store(false, Ordering::Release);
        put_back(SAMPLE_SIGNAL, on_sample as *const () as usize, &self.sample);
        for (index, (signal, old)) in FAULT_SIGNALS.into_iter().zip(&self.faults).enumerate() {
            let ours = on_fault as *const () as usize;
            if get(signal).is_ok_and(|current| current.sa_sigaction != ours) {
                // Replaced since the last look: to that handler ours is what was chained by us.
                FAULTS[index].move_to(&BELOW[index]);
            }
            put_back(signal, ours, old);
        }
    }
}

struct Slot(UnsafeCell<Option<SignalOwner>>);
// SAFETY: see `publish`.
unsafe impl Sync for Slot {}
/// The latest owner, for a forked child that cannot reach the manager's; the slot that counts is CURRENT modulo 2.
static PUBLISHED: [Slot; 2] = [Slot(UnsafeCell::new(None)), Slot(UnsafeCell::new(None))];
static CURRENT: AtomicUsize = AtomicUsize::new(0);

/// Blocks every signal on the calling thread until dropped: for starting a thread that inherits an empty set of them.
#[derive(Debug)]
pub struct AllBlocked(libc::sigset_t);

impl AllBlocked {
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: valid sets; pthread_sigmask affects the calling thread only.
        unsafe {
            let mut all = std::mem::zeroed();
            let mut old = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &all, &mut old);
            Self(old)
        }
    }
}

impl Default for AllBlocked {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for AllBlocked {
    fn drop(&mut self) {
        // SAFETY: restores the mask read in `new`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}
