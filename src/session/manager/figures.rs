//! The figures of a run: what its threads add up to, for `stats()` and for the profile.

use super::{Manager, now_ns};
use crate::resolve::lifetime;
use crate::session::Stats;
use crate::session::thread::Tracked;
use spprof_sigsafe::sys::clock_ns;
use spprof_sigsafe::thread::Durations;
use spprof_sigsafe::zone::ZONE;
use std::sync::atomic::Ordering;

/// Ways in which native frames are lost (see `Losses`).
const NATIVE_LOSSES: usize = 5;

/// What is lost or odd, over all threads that have ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Totals {
    pub(super) samples: u64,
    pub(super) handler_ns: u64,
    pub(super) weight_ns: u64,
    pub(super) ring_full: u64,
    pub(super) dropped_ns: u64,
    pub(super) broken_stack: u64,
    pub(super) truncated: u64,
    pub(super) restarted: u64,
    pub(super) rested: u64,
    pub(super) stale: u64,
    pub(super) native: [u64; NATIVE_LOSSES],
    pub(super) threads: u64,
    pub(super) durations: [u64; Durations::CLASSES],
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            samples: 0,
            handler_ns: 0,
            weight_ns: 0,
            ring_full: 0,
            dropped_ns: 0,
            broken_stack: 0,
            truncated: 0,
            restarted: 0,
            rested: 0,
            stale: 0,
            native: [0; NATIVE_LOSSES],
            threads: 0,
            durations: [0; Durations::CLASSES],
        }
    }
}

impl Totals {
    /// The middle of the class that holds the median handler run.
    fn median_handler_ns(&self) -> u64 {
        let half = self.durations.iter().sum::<u64>() / 2;
        let mut seen = 0;
        let class = self.durations.iter().position(|count| {
            seen += count;
            seen > half
        });
        class.map_or(0, |class| class as u64 * Durations::CLASS_NS + Durations::CLASS_NS / 2)
    }

    pub(super) fn add(&mut self, thread: &Tracked) {
        let state = thread.state;
        let losses = &state.losses;
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        self.samples += get(&state.samples) + thread.remote_samples;
        self.handler_ns += get(&state.handler_ns);
        self.weight_ns += get(&state.weight_ns) + thread.remote_weight_ns;
        self.ring_full += get(&losses.ring_full);
        self.dropped_ns += get(&losses.dropped_ns);
        self.broken_stack += get(&losses.broken_stack);
        self.truncated += get(&losses.truncated);
        self.restarted += get(&losses.restarted);
        self.rested += get(&losses.rested);
        self.stale += get(&losses.stale);
        let native = [
            &losses.native_no_rule,
            &losses.native_bad_stack,
            &losses.native_too_deep,
            &losses.native_omitted,
            &losses.native_untried,
        ];
        for (sum, counter) in self.native.iter_mut().zip(native) {
            *sum += get(counter);
        }
        self.threads += 1;
        for (sum, count) in self.durations.iter_mut().zip(state.durations.counts()) {
            *sum += count;
        }
    }
}

impl Manager {
    pub(super) fn totals(&self) -> Totals {
        let mut totals = self.ended;
        for thread in &self.threads {
            totals.add(thread);
        }
        totals
    }

    pub(super) fn publish(&mut self) {
        let stats = self.stats();
        self.shared.publish(stats);
    }

    pub(super) fn stats(&self) -> Stats {
        let totals = self.totals();
        let duration = now_ns().saturating_sub(self.start_ns);
        let process = clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID).saturating_sub(self.start_process_cpu_ns);
        let own = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        let measured = totals.weight_ns + totals.dropped_ns;
        let lifetime = lifetime::stats();
        let unresolved = self.sink.resolver.failures();
        let [native_no_rule, native_bad_stack, native_too_deep, native_omitted, native_untried] = totals.native;
        let losses = vec![
            ("ring_full", totals.ring_full),
            ("broken_stack", totals.broken_stack),
            ("truncated_stack", totals.truncated),
            ("truncated_frames", self.sink.omitted_frames),
            ("restarted_walk", totals.restarted),
            ("rested_signal", totals.rested),
            ("stale_signal", totals.stale),
            ("foreign_signal", ZONE.foreign.load(Ordering::Relaxed)),
            ("thread_not_armed", self.not_armed),
            ("signal_blocked_threads", self.blocked_threads),
            ("remote_walk_discarded", self.remote_discarded),
            ("code_objects_not_kept", lifetime.limbo.overflowed),
            ("native_ends_in_unknown_code", native_no_rule),
            ("native_ends_in_bad_stack", native_bad_stack),
            ("native_ends_too_deep", native_too_deep),
            ("native_frames_omitted", native_omitted),
            ("native_not_tried", native_untried),
            ("unresolved_not_code", unresolved.not_code),
            ("unresolved_unreadable", unresolved.unreadable),
            ("unresolved_name", unresolved.bad_string),
            ("unresolved_line_table", unresolved.bad_table),
        ];
        Stats {
            collected_samples: totals.samples,
            dropped_samples: totals.ring_full,
            duration_ns: duration,
            engine: self.engine.name(),
            engine_reason: self.engine_reason.clone(),
            interval_ns: self.options.interval_ns,
            requested_rate_hz: 1e9 / self.options.interval_ns as f64,
            delivered_rate_hz: if measured == 0 { 0.0 } else { totals.samples as f64 * 1e9 / measured as f64 },
            handler_ns: totals.handler_ns,
            handler_median_ns: totals.median_handler_ns(),
            profiler_cpu_ns: own,
            losses,
            process_cpu_ns: process,
            weight_ns: totals.weight_ns,
            unattributed_ns: if self.wall { totals.dropped_ns } else { process.saturating_sub(totals.weight_ns) },
            threads: self.threads.len() as u64,
            memory_bytes: self.sink.profile.memory_bytes(),
        }
    }

    pub(super) fn fill_metadata(&mut self) {
        let stats = self.stats();
        let meta = &mut self.sink.profile.meta;
        meta.engine = stats.engine.to_owned();
        meta.engine_reason = stats.engine_reason;
        meta.start_unix_ns = self.start_unix_ns;
        meta.duration_ns = stats.duration_ns;
        meta.requested_rate_hz = stats.requested_rate_hz;
        meta.delivered_rate_hz = stats.delivered_rate_hz;
        meta.handler_ns = stats.handler_ns;
        meta.profiler_cpu_ns = stats.profiler_cpu_ns;
        meta.process_cpu_ns = stats.process_cpu_ns;
        meta.weight_ns = stats.weight_ns;
        meta.unattributed_ns = stats.unattributed_ns;
        meta.losses = stats.losses.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect();
        meta.notes.clone_from(&self.notes);
    }
}
