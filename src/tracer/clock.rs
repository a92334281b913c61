//! The tracer's clock: ticks that are cheap to read, and what they are in nanoseconds.
//!
//! On x86-64 with an invariant time-stamp counter a tick is one of the counter's, measured against `CLOCK_MONOTONIC` from the
//! first use on; everywhere else it is a nanosecond of `CLOCK_MONOTONIC`.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The same moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub ticks: u64,
    pub monotonic_ns: u64,
}

static COUNTER: AtomicBool = AtomicBool::new(false);
static ORIGIN: OnceLock<Moment> = OnceLock::new();

/// The present, in ticks.
#[inline]
#[must_use]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    if COUNTER.load(Ordering::Relaxed) {
        // SAFETY: every x86-64 processor has the instruction; it has no effect but its result.
        return unsafe { std::arch::x86_64::_rdtsc() };
    }
    monotonic_ns()
}

/// The first moment known to the tracer; chooses the counter.
pub fn origin() -> Moment {
    *ORIGIN.get_or_init(|| {
        COUNTER.store(invariant_counter(), Ordering::Relaxed);
        moment()
    })
}

/// The present on both clocks: of a few tries, the one that took least.
#[must_use]
pub fn moment() -> Moment {
    const TRIES: usize = 5;
    let mut best = (u64::MAX, Moment { ticks: 0, monotonic_ns: 0 });
    for _ in 0..TRIES {
        let before = ticks();
        let monotonic_ns = monotonic_ns();
        let took = ticks().saturating_sub(before);
        if took < best.0 {
            best = (took, Moment { ticks: before + took / 2, monotonic_ns });
        }
    }
    best.1
}

/// Nanoseconds of one tick, by the time from the first moment to `now`.
#[must_use]
pub fn ns_per_tick(now: Moment) -> f64 {
    let origin = origin();
    let ticks = now.ticks.saturating_sub(origin.ticks);
    if !COUNTER.load(Ordering::Relaxed) || ticks == 0 {
        return 1.0;
    }
    now.monotonic_ns.saturating_sub(origin.monotonic_ns) as f64 / ticks as f64
}

fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills a timespec of ours; the clock exists on every kernel.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Whether the counter runs at one rate whatever the processor does, the same on every core.
#[cfg(target_arch = "x86_64")]
fn invariant_counter() -> bool {
    use std::arch::x86_64::__cpuid;
    const POWER_MANAGEMENT: u32 = 0x8000_0007;
    const INVARIANT: u32 = 1 << 8;
    #[allow(unused_unsafe)] // Safe since Rust 1.94.
    // SAFETY: the instruction exists on every x86-64 processor; the leaf is asked for only if it is there.
    unsafe {
        __cpuid(0x8000_0000).eax >= POWER_MANAGEMENT && __cpuid(POWER_MANAGEMENT).edx & INVARIANT != 0
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn invariant_counter() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wait measured in ticks is as long as the same wait on the system's clock.
    #[test]
    fn ticks_are_time() {
        origin();
        let start = moment();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let end = moment();
        let by_ticks = (end.ticks - start.ticks) as f64 * ns_per_tick(end);
        let by_clock = (end.monotonic_ns - start.monotonic_ns) as f64;
        assert!((by_ticks / by_clock - 1.0).abs() < 0.01, "{by_ticks} ns, {by_clock} ns");
    }
}
