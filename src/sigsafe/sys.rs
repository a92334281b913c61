//! The system calls and libc functions the signal zone may use. All are async-signal-safe, none allocates.
//!
//! `clock_gettime`, `pthread_self` and `__errno_location` are bound at load time (full RELRO), never lazily.

/// Keeps the host's errno across the handler.
#[derive(Debug)]
pub struct ErrnoGuard(i32);

impl ErrnoGuard {
    #[inline(always)]
    #[must_use]
    pub fn save() -> Self {
        // SAFETY: `__errno_location` gives the calling thread's errno, valid as long as the thread lives.
        Self(unsafe { *libc::__errno_location() })
    }
}

impl Drop for ErrnoGuard {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: as in `save`; the guard never leaves the handler's frame, so the thread is the same.
        unsafe { *libc::__errno_location() = self.0 }
    }
}

/// Nanoseconds on `clock`; 0 when the clock does not exist (its thread is gone).
#[inline(always)]
#[must_use]
pub fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid out-pointer.
    if unsafe { libc::clock_gettime(clock, &mut ts) } != 0 {
        return 0;
    }
    (ts.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(ts.tv_nsec as u64)
}

/// The CPU clock of thread `tid` of this process, readable from any of its threads (linux/posix-timers.h).
#[inline(always)]
#[must_use]
pub const fn thread_clock(tid: i32) -> libc::clockid_t {
    const CPUCLOCK_PERTHREAD: i32 = 4;
    const CPUCLOCK_SCHED: i32 = 2;
    ((!tid) << 3) | CPUCLOCK_PERTHREAD | CPUCLOCK_SCHED
}

/// The calling thread's pthread handle, which is what CPython keeps in `tstate->thread_id`.
#[inline(always)]
#[must_use]
pub fn pthread_self() -> usize {
    // SAFETY: always callable.
    unsafe { libc::pthread_self() as usize }
}

/// The address of the handler installed for `signal`; 0 when there is none or it cannot be told.
#[inline]
#[must_use]
pub fn handler_of(signal: i32) -> usize {
    // SAFETY: an all-zero sigaction is a valid out-parameter; sigaction is async-signal-safe.
    unsafe {
        let mut current: libc::sigaction = core::mem::zeroed();
        if libc::sigaction(signal, core::ptr::null(), &mut current) != 0 {
            return 0;
        }
        current.sa_sigaction
    }
}
