//! Manager ticks: the manager reads a thread's CPU clock, and signals it only if it used its share and is running now.
//!
//! No privilege, no limit on timers, any interval; a sleeping thread is never signalled, so its system calls are not
//! interrupted (a thread that goes to sleep between the check and the signal is: measured in docs/benchmarks.md).

use super::signals::SAMPLE_SIGNAL;
use spprof_sigsafe::thread::ThreadState;
use std::sync::atomic::Ordering;

/// Sends the sampling signal to thread `tid` with its state's address. False when it cannot be delivered.
pub fn signal(tid: i32, state: &'static ThreadState) -> bool {
    // The layout of siginfo_t for SI_QUEUE: signo, errno, code, pad, pid, uid, value.
    #[repr(C)]
    struct Queued {
        signo: i32,
        errno: i32,
        code: i32,
        pad: i32,
        pid: i32,
        uid: u32,
        value: usize,
        rest: [u64; 12],
    }
    const _: () = assert!(size_of::<Queued>() == size_of::<libc::siginfo_t>());
    state.pending.store(true, Ordering::Release);
    // SAFETY: getpid and getuid cannot fail.
    let (pid, uid) = unsafe { (libc::getpid(), libc::getuid()) };
    let info = Queued {
        signo: SAMPLE_SIGNAL,
        errno: 0,
        code: libc::SI_QUEUE,
        pad: 0,
        pid,
        uid,
        value: std::ptr::from_ref(state) as usize,
        rest: [0; 12],
    };
    // SAFETY: `info` is a complete siginfo of the kernel's size; the target is a thread of this process or nobody.
    let sent = unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, SAMPLE_SIGNAL, &raw const info) } == 0;
    if !sent {
        state.pending.store(false, Ordering::Release);
    }
    sent
}
