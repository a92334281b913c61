//! Perf task-clock events, kernel time included: exact in CPU time at any interval, nothing runs while a thread sleeps.
//!
//! Needs `perf_event_paranoid` <= 1 or CAP_PERFMON: with kernel time excluded (what others may open) its time would be charged
//! to the next user-mode sample, which is precise and wrong.

use super::descriptor::Descriptor;
use spprof_sigsafe::thread::ThreadState;
use spprof_sigsafe::zone::ZONE;
use std::io;

const PERF_TYPE_SOFTWARE: u32 = 1;
const PERF_COUNT_SW_TASK_CLOCK: u64 = 1;
const PERF_FLAG_FD_CLOEXEC: libc::c_ulong = 8;
const PERF_EVENT_IOC_ENABLE: libc::c_ulong = 0x2400;
const PERF_EVENT_IOC_DISABLE: libc::c_ulong = 0x2401;
const PERF_EVENT_IOC_PERIOD: libc::c_ulong = 0x4008_2404;
const F_SETOWN_EX: i32 = 15;
const F_OWNER_TID: i32 = 0;
const DISABLED: u64 = 1;
const EXCLUDE_HV: u64 = 1 << 6;

/// `struct perf_event_attr`, first published size (linux/perf_event.h, PERF_ATTR_SIZE_VER0).
#[repr(C)]
#[derive(Default)]
struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    bits: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
}
const _: () = assert!(size_of::<Attr>() == 64);

#[repr(C)]
struct OwnerEx {
    kind: i32,
    pid: i32,
}

/// A round period runs in step with programs that work in round portions (2 ms bursts, 10 ms period: always the same place).
/// This part of it, a little less than 1 and no simple fraction, drifts through any such pattern; it also makes up for the
/// time between an overflow and its signal.
const PERIOD_MILLIONTHS: u64 = 993_617;

/// Shortest period. An interruption takes some 5 us of the thread, but 20 us on a busy virtual machine, where at that period
/// the thread was seen to get nothing done for as long as it was sampled.
pub const MIN_PERIOD_NS: u64 = 50_000;

#[derive(Debug)]
pub struct PerfEvent(Descriptor);

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn period_ns(interval_ns: u64) -> u64 {
    interval_ns.max(MIN_PERIOD_NS) * PERIOD_MILLIONTHS / 1_000_000
}

fn open(tid: i32, interval_ns: u64) -> io::Result<PerfEvent> {
    let attr = Attr {
        kind: PERF_TYPE_SOFTWARE,
        size: size_of::<Attr>() as u32,
        config: PERF_COUNT_SW_TASK_CLOCK,
        sample_period: period_ns(interval_ns),
        bits: DISABLED | EXCLUDE_HV,
        wakeup_events: 1,
        ..Attr::default()
    };
    // SAFETY: `attr` is complete for its size; the other arguments are numbers.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, tid, -1, -1, PERF_FLAG_FD_CLOEXEC) };
    // Its mark is also what makes the event send the sampling signal.
    Descriptor::adopt(fd).map(PerfEvent)
}

/// Whether this process may open a task-clock event that counts kernel time.
pub fn available() -> io::Result<()> {
    open(super::tasks::gettid(), 10_000_000).map(drop)
}

impl PerfEvent {
    /// Starts signalling thread `tid` every `interval_ns` of its CPU time.
    pub fn arm(tid: i32, state: &'static ThreadState, interval_ns: u64) -> io::Result<Self> {
        let event = open(tid, interval_ns)?;
        let fd = event.0.get().ok_or(io::ErrorKind::NotFound)?;
        if !ZONE.bind_fd(fd, state) {
            return Err(io::Error::other("the descriptor is beyond the table of descriptors"));
        }
        let owner = OwnerEx { kind: F_OWNER_TID, pid: tid };
        // SAFETY: fcntl and ioctl on our own descriptor with the arguments they take.
        unsafe {
            check(libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK))?;
            check(libc::fcntl(fd, F_SETOWN_EX, &raw const owner))?;
            check(libc::ioctl(fd, PERF_EVENT_IOC_ENABLE as _, 0))?;
        }
        Ok(event)
    }

    /// Changes the interval; what has passed of the old one does not count.
    pub fn set_interval(&self, interval_ns: u64) {
        let period = period_ns(interval_ns);
        if let Some(fd) = self.0.get() {
            // SAFETY: reads one u64. A failure leaves the old interval, which only means more samples.
            unsafe { libc::ioctl(fd, PERF_EVENT_IOC_PERIOD as _, &raw const period) };
        }
    }

    /// False when the host has closed the descriptor, which ended the event.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.get().is_some()
    }
}

impl Drop for PerfEvent {
    fn drop(&mut self) {
        if let Some(fd) = self.0.get() {
            // SAFETY: our descriptor. Disabled before it is closed, so that no overflow signals a number that is reused.
            unsafe { libc::ioctl(fd, PERF_EVENT_IOC_DISABLE as _, 0) };
        }
    }
}
