//! Waking the manager thread: a futex, which a signal handler may use. Not a descriptor: a host that closes what it does not
//! know, and opens a file of its own under that number, would find our wake-ups written into it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// 1 after a wake-up that nobody has waited for yet.
static WOKEN: AtomicU32 = AtomicU32::new(0);

/// Ends the current or the next [`wait`]. Async-signal-safe.
pub fn wake() {
    WOKEN.store(1, Ordering::Release);
    // SAFETY: wakes waiters on the static's address.
    unsafe { libc::syscall(libc::SYS_futex, WOKEN.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
}

/// Waits until woken or until `timeout` has passed. For the one manager thread; the caller looks at everything that may have
/// been the cause afterwards.
pub fn wait(timeout: Duration) {
    if WOKEN.swap(0, Ordering::AcqRel) != 0 {
        return;
    }
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(timeout.subsec_nanos() as i32),
    };
    // SAFETY: waits on the static's address while it holds 0, with a valid relative timeout.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            WOKEN.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            0,
            &raw const timeout,
        )
    };
    // ORDER: pairs with the store in `wake`: its cause is seen by the caller.
    WOKEN.swap(0, Ordering::AcqRel);
}
