//! The tick engine's judgement by the CPU clock: which thread is due for a sample, and whether now is a fair moment.
//!
//! Runs on the manager thread. Fair means that the thread is on a processor: a thread that waits for one stands where
//! threads get descheduled (system calls, wake-ups), and would claim there the CPU time it used elsewhere.

use super::thread::Tracked;
use crate::sampler::linux_tick;
use crate::sampler::source::Source;
use std::sync::atomic::Ordering;

/// Samples a thread may be behind; what it missed beyond that is not made up for.
const MOST_OWED: u64 = 8;
/// Ticks in a sampling interval: CPU time is watched so much finer than it is sampled ...
const TICKS_PER_INTERVAL: u64 = 2;
/// ... but not finer than this, unless asked for: each tick wakes the manager.
const SHORTEST_GAP_NS: u64 = 1_000_000;
/// Nor coarser, or a thread that is due would be missed time and again.
const LONGEST_GAP_NS: u64 = 10_000_000;

/// The mean distance of ticks while no thread is behind. At short intervals a little less than the interval, so that a late
/// tick is made up for.
pub fn mean_gap_ns(interval_ns: u64) -> u64 {
    let fine = interval_ns / TICKS_PER_INTERVAL;
    let most = interval_ns * 9 / 10;
    if most < SHORTEST_GAP_NS { most } else { fine.clamp(SHORTEST_GAP_NS, LONGEST_GAP_NS) }
}

/// What a tick found of one thread, or of all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// CPU time used since the last tick.
    pub used_ns: u64,
    /// More than one sample is owed: ticks should come faster.
    pub behind: bool,
}

impl Found {
    pub fn add(&mut self, other: Self) {
        self.used_ns += other.used_ns;
        self.behind |= other.behind;
    }
}

/// One thread's part of a tick, `wall_ns` after the one before.
pub fn tick(thread: &mut Tracked, interval_ns: u64, wall_ns: u64) -> Found {
    let Some(cpu) = thread.cpu_ns() else { return Found::default() };
    let used = cpu.saturating_sub(thread.seen_cpu_ns);
    thread.seen_cpu_ns = cpu;
    if used == 0 {
        thread.idle_ticks = thread.idle_ticks.saturating_add(1);
        return Found::default();
    }
    thread.idle_ticks = 0;
    // Every handler run counts, also one that the thread's own timer made.
    let entered = thread.state.entered.load(Ordering::Acquire);
    thread.due_cpu_ns += entered.saturating_sub(thread.seen_entered) * interval_ns;
    thread.seen_entered = entered;
    thread.due_cpu_ns = thread.due_cpu_ns.max(cpu.saturating_sub(MOST_OWED * interval_ns));
    let due = cpu >= thread.due_cpu_ns && !thread.blocked && !thread.state.pending.load(Ordering::Acquire);
    if due && is_fair(thread, cpu, used, wall_ns) {
        linux_tick::signal(thread.tid, thread.state);
    }
    Found { used_ns: used, behind: !thread.blocked && cpu >= thread.due_cpu_ns + interval_ns }
}

/// True when the thread is on a processor now, or was until the manager's own waking took it away.
fn is_fair(thread: &Tracked, cpu: u64, used: u64, wall_ns: u64) -> bool {
    // The clock of a thread on a processor moves from one reading to the next.
    if thread.cpu_ns().is_some_and(|again| again != cpu) {
        return true;
    }
    // It ran all the time since the last tick, so it did not stop of its own accord: that place is as good as any.
    used >= wall_ns - wall_ns / 8 && matches!(&thread.source, Some(Source::Tick(stat, _)) if stat.state() == Some(b'R'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Finer than the interval where that is cheap, never coarser.
    #[test]
    fn gaps() {
        assert_eq!(mean_gap_ns(100_000_000), 10_000_000);
        assert_eq!(mean_gap_ns(10_000_000), 5_000_000);
        assert_eq!(mean_gap_ns(1_500_000), 1_000_000);
        assert_eq!(mean_gap_ns(1_000_000), 900_000);
        assert_eq!(mean_gap_ns(100_000), 90_000);
    }
}
