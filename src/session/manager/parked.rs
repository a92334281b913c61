//! Threads that are looked at from outside: those that do not run (by the wall clock), and those that block the signal.

use super::{Manager, PENDING_ROUNDS, now_ns};
use crate::sampler::remote::{self, RemoteOutcome};
use crate::sampler::signals::SAMPLE_SIGNAL;
use crate::sampler::source::Engine;
use crate::sampler::{linux_tick, tasks};
use spprof_model::NodeId;
use std::sync::atomic::Ordering;

impl Manager {
    /// Wall clock: threads on a processor are signalled, all others are walked where they stand.
    pub(super) fn wall_tick(&mut self, now: u64) {
        for index in 0..self.threads.len() {
            let Some(thread) = self.threads.get_mut(index) else { break };
            let Some(cpu) = thread.cpu_ns() else { continue };
            let ran = cpu != thread.seen_cpu_ns;
            thread.seen_cpu_ns = cpu;
            // Of a thread on a processor the clock moves from one reading to the next. One that only waits for a processor may
            // just have been woken: a signal would interrupt the call in which it slept, a walk from here does not.
            if ran && !thread.blocked && thread.cpu_ns().is_some_and(|again| again != cpu) {
                if !thread.state.pending.load(Ordering::Acquire) {
                    linux_tick::signal(thread.tid, thread.state);
                }
                continue;
            }
            self.sample_parked(index, now, cpu);
        }
    }

    /// Records where a thread that is not running stands.
    fn sample_parked(&mut self, index: usize, now: u64, cpu: u64) {
        let node = match self.threads.get(index).and_then(|thread| thread.parked) {
            Some((at, node)) if at == cpu => Some((node, true)),
            _ => self.walk_remote(index),
        };
        let Some(thread) = self.threads.get_mut(index) else { return };
        let Some((node, is_python)) = node else {
            self.remote_discarded += 1;
            return;
        };
        // The lists of thread states change while they are read: a Python thread that was not found is looked for again.
        thread.parked = (is_python || thread.python_ident == 0).then_some((cpu, node));
        thread.drain(&mut self.sink, self.start_ns);
        let weight = now.saturating_sub(thread.state.last_wall_ns.swap(now, Ordering::AcqRel));
        // A CPU weight must not be claimed again by the thread's next own sample.
        thread.state.last_cpu_ns.store(cpu, Ordering::Relaxed);
        thread.record_remote(&mut self.sink, now.saturating_sub(self.start_ns), node, weight);
    }

    /// The node where thread `index` is blocked, and whether that is in Python code; `None` when nothing can be said now.
    fn walk_remote(&mut self, index: usize) -> Option<(NodeId, bool)> {
        let (tid, hint) = {
            let thread = self.threads.get(index)?;
            (thread.tid, thread.state.tstate.load(Ordering::Relaxed))
        };
        if hint != 0 && remote::belongs(self.runtime, hint, tid) {
            match remote::walk_blocked(self.runtime, tid, hint, &mut self.scratch.0) {
                RemoteOutcome::Stack { .. } if !self.scratch.0.frames().is_empty() => {
                    return Some((self.sink.node_of(&self.scratch.0, false), true));
                }
                RemoteOutcome::Ran => return None,
                _ => {}
            }
        }
        let fresh = self.refresh_tstates();
        let candidates = self.tstates.get(&tid).cloned().unwrap_or_default();
        if candidates.is_empty() && !fresh {
            return None;
        }
        let mut broken = false;
        // The newest interpreter's state comes last: a thread inside a sub-interpreter runs there.
        for tstate in candidates.into_iter().rev().filter(|at| remote::belongs(self.runtime, *at, tid)) {
            match remote::walk_blocked(self.runtime, tid, tstate, &mut self.scratch.0) {
                RemoteOutcome::Stack { .. } if !self.scratch.0.frames().is_empty() => {
                    return Some((self.sink.node_of(&self.scratch.0, false), true));
                }
                RemoteOutcome::Stack { .. } => {}
                RemoteOutcome::Ran => return None,
                RemoteOutcome::Broken => broken = true,
            }
        }
        match remote::walk_blocked(self.runtime, tid, 0, &mut self.scratch.0) {
            RemoteOutcome::Stack { .. } => Some((self.sink.node_of(&self.scratch.0, broken), false)),
            _ => None,
        }
    }

    /// Reads the lists of thread states; false when the last reading is so recent that it has to do.
    fn refresh_tstates(&mut self) -> bool {
        let now = now_ns();
        // Many threads may ask in one tick; the lists do not change that fast.
        if now.saturating_sub(self.tstates_at_ns) < 500_000 && self.tstates_at_ns != 0 {
            return false;
        }
        self.tstates_at_ns = now;
        let mut found = Vec::new();
        remote::thread_states(self.runtime, crate::session::interpreters_head(), &mut found);
        self.tstates.clear();
        for (tid, tstate) in found {
            self.tstates.entry(tid).or_default().push(tstate);
        }
        true
    }

    /// Threads that block the sampling signal never answer; they are sampled from outside.
    pub(super) fn find_blocked(&mut self) {
        for index in 0..self.threads.len() {
            let Some(thread) = self.threads.get_mut(index) else { break };
            let Some(cpu) = thread.cpu_ns() else { continue };
            if self.engine != Engine::Tick {
                // Once the thread is gone nobody can read its clock; ticks keep this value for themselves.
                thread.seen_cpu_ns = cpu;
            }
            let owed = cpu.saturating_sub(thread.state.last_cpu_ns.load(Ordering::Acquire));
            if owed < 2 * self.options.interval_ns + 5_000_000 {
                thread.pending_rounds = 0;
                continue;
            }
            thread.pending_rounds += 1;
            if thread.pending_rounds < PENDING_ROUNDS && !thread.blocked {
                continue;
            }
            // The handler blocks the signal as well: a thread that was preempted there is not meant.
            let entered = thread.state.entered.load(Ordering::Acquire);
            let quiet = thread.state.is_quiet();
            let blocked = tasks::blocks(thread.tid, SAMPLE_SIGNAL);
            if !quiet || thread.state.entered.load(Ordering::Acquire) != entered {
                continue;
            }
            if blocked && !thread.blocked {
                self.blocked_threads += 1;
            }
            thread.blocked = blocked;
            if !blocked {
                // A lost signal must not keep the thread from being signalled again.
                thread.state.pending.store(false, Ordering::Release);
                continue;
            }
            if !self.wall {
                self.sample_blocked(index, cpu, owed);
            }
        }
    }

    /// A running thread cannot be walked between two equal clock reads; two equal walks show that its Python frames stood
    /// still (it is inside a C call) long enough to be read whole.
    fn sample_blocked(&mut self, index: usize, cpu: u64, owed: u64) {
        let Some(thread) = self.threads.get(index) else { return };
        let tid = thread.tid;
        self.refresh_tstates();
        let tstate = self.tstates.get(&tid).and_then(|all| all.last()).copied().unwrap_or(0);
        let node = if tstate == 0 {
            self.scratch.0.clear();
            self.sink.node_of(&self.scratch.0, false)
        } else {
            use spprof_sigsafe::pywalk::{Interrupted, Verified, WalkOutcome, walk};
            let (one, two) = &mut *self.scratch;
            let same = (0..8).any(|_| {
                walk(self.runtime, &mut Verified::new(), tstate, Interrupted::default(), one) == WalkOutcome::Complete
                    && walk(self.runtime, &mut Verified::new(), tstate, Interrupted::default(), two)
                        == WalkOutcome::Complete
                    && one.frames() == two.frames()
                    && one.omitted == two.omitted
            });
            if !same {
                one.clear();
            }
            self.sink.node_of(one, !same)
        };
        let now = now_ns().saturating_sub(self.start_ns);
        let Some(thread) = self.threads.get_mut(index) else { return };
        thread.state.last_cpu_ns.store(cpu, Ordering::Relaxed);
        thread.record_remote(&mut self.sink, now, node, owed);
    }
}
