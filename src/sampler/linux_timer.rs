//! Per-thread CPU-clock timers: `timer_create` with SIGEV_THREAD_ID. Always available; never faster than the kernel's tick.

use super::signals::SAMPLE_SIGNAL;
use spprof_sigsafe::sys::thread_clock;
use spprof_sigsafe::thread::ThreadState;
use std::io;

#[derive(Debug)]
pub struct CpuTimer(libc::timer_t);

// SAFETY: a timer id is a number of the process; any thread may use it.
unsafe impl Send for CpuTimer {}

impl CpuTimer {
    /// Starts signalling thread `tid` every `interval_ns` of its CPU time.
    pub fn arm(tid: i32, state: &'static ThreadState, interval_ns: u64) -> io::Result<Self> {
        // SAFETY: `event` is completely initialised for SIGEV_THREAD_ID, `timer` is an out-pointer; the state outlives the
        // timer because states are never freed.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = SAMPLE_SIGNAL;
            event.sigev_value = libc::sigval { sival_ptr: std::ptr::from_ref(state).cast_mut().cast() };
            event.sigev_notify_thread_id = tid;
            let mut timer: libc::timer_t = std::mem::zeroed();
            if libc::timer_create(thread_clock(tid), &mut event, &mut timer) != 0 {
                return Err(io::Error::last_os_error());
            }
            let armed = Self(timer);
            let interval = libc::timespec {
                tv_sec: (interval_ns / 1_000_000_000) as libc::time_t,
                tv_nsec: (interval_ns % 1_000_000_000) as libc::c_long,
            };
            let every = libc::itimerspec { it_interval: interval, it_value: interval };
            if libc::timer_settime(timer, 0, &every, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(armed)
        }
    }
}

impl Drop for CpuTimer {
    fn drop(&mut self) {
        // SAFETY: the timer is ours and not yet deleted.
        unsafe { libc::timer_delete(self.0) };
    }
}
