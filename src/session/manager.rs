//! The manager thread: finds threads, arms and ticks them, drains rings into the model, releases code objects.
//!
//! It owns everything mutable of a run, blocks all signals, never takes the GIL and never waits for a sampled thread.

use super::drain::Sink;
use super::shared::Shared;
use super::thread::Tracked;
use super::tick::{self, Found};
use super::{Options, Stats};
use crate::resolve::lifetime;
use crate::resolve::limbo::Batch;
use crate::sampler::linux_perf::MIN_PERIOD_NS;
use crate::sampler::remote::{self, RemoteOutcome};
use crate::sampler::signals::{SAMPLE_SIGNAL, SignalOwner};
use crate::sampler::source::{Engine, Source};
use crate::sampler::tasks::{self, TaskList};
use crate::sampler::{linux_tick, pool};
use spprof_export::{Format, Journal};
use spprof_model::{NodeId, Profile};
use spprof_sigsafe::stack::Stack;
use spprof_sigsafe::sys::clock_ns;
use spprof_sigsafe::thread::{Durations, ThreadState};
use spprof_sigsafe::zone::{Runtime, ZONE};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A thread whose CPU clock did not move for this many ticks is looked at only when somebody else used CPU time.
const IDLE_TICKS: u32 = 32;
/// CPU time nobody accounted for that makes the manager look at idle threads.
const UNEXPLAINED_NS: u64 = 20_000;
/// A thread that begins during the run is sampled so many times as often at first: one that ends soon (a thread a request) has
/// samples, too. Weights are CPU time whatever the rate.
const YOUNG_RATE: u64 = 4;
/// For how long.
const YOUNG_NS: u64 = 50_000_000;
/// A signal still pending after this many rounds: the thread may be blocking it.
const PENDING_ROUNDS: u32 = 3;
/// How often a profile in progress reaches the disk, when it has an output path.
const FLUSH_NS: u64 = 1_000_000_000;
/// How long the end of a run waits for handlers that are still inside.
const QUIET_NS: u64 = 500_000_000;

/// What is lost or odd, over all threads that have ended.
#[derive(Debug, Clone, Copy)]
struct Totals {
    samples: u64,
    handler_ns: u64,
    weight_ns: u64,
    ring_full: u64,
    dropped_ns: u64,
    broken_stack: u64,
    truncated: u64,
    restarted: u64,
    rested: u64,
    stale: u64,
    threads: u64,
    durations: [u64; Durations::CLASSES],
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

    fn add(&mut self, thread: &Tracked) {
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
        self.threads += 1;
        for (sum, count) in self.durations.iter_mut().zip(state.durations.counts()) {
            *sum += count;
        }
    }
}

/// Code objects waiting for every ring to be drained past the point where they could be named.
#[derive(Debug)]
struct Waiting {
    batch: Batch,
    rings: Vec<(&'static ThreadState, u64, u64)>,
}

pub struct Manager {
    runtime: &'static Runtime,
    options: Options,
    engine: Engine,
    engine_reason: String,
    output_format: Format,
    wall: bool,
    shared: Arc<Shared>,
    signals: SignalOwner,
    tasks: TaskList,
    own_tid: i32,
    threads: Vec<Tracked>,
    sink: Sink,
    start_ns: u64,
    start_process_cpu_ns: u64,
    start_unix_ns: u64,
    /// Process and own CPU time at the last tick.
    tick_process_cpu_ns: u64,
    tick_own_cpu_ns: u64,
    ticked_ns: u64,
    /// Whether a thread was owed more than one sample then.
    behind: bool,
    random: u64,
    ended: Totals,
    waiting: Option<Waiting>,
    tstates: HashMap<i32, Vec<usize>>,
    tstates_at_ns: u64,
    journal: Option<Journal>,
    flushed_ns: u64,
    not_armed: u64,
    blocked_threads: u64,
    remote_discarded: u64,
    notes: Vec<String>,
    descriptor_budget: usize,
    scratch: Box<(Stack, Stack)>,
    tids: Vec<i32>,
}

fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// A quarter of the descriptors the host may open is all that threads' sources may take.
fn descriptor_budget() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: an out-pointer.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    (limit.rlim_cur / 4).min(spprof_sigsafe::zone::MAX_FDS as u64) as usize
}

/// What `start` has prepared.
pub struct Setup {
    pub runtime: &'static Runtime,
    pub options: Options,
    pub engine: Engine,
    pub engine_reason: String,
    pub output_format: Format,
    pub shared: Arc<Shared>,
    pub signals: SignalOwner,
    pub sink: Sink,
    pub tasks: TaskList,
    pub journal: Option<Journal>,
}

impl Manager {
    pub fn new(setup: Setup) -> Self {
        let Setup { runtime, options, engine, engine_reason, output_format, shared, signals, sink, tasks, journal } = setup;
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            wall: options.clock == super::Clock::Wall,
            runtime,
            options,
            engine,
            engine_reason,
            output_format,
            shared,
            signals,
            tasks,
            own_tid: tasks::gettid(),
            threads: Vec::new(),
            sink,
            start_ns: now_ns(),
            start_process_cpu_ns: clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID),
            start_unix_ns: unix.as_nanos() as u64,
            tick_process_cpu_ns: 0,
            tick_own_cpu_ns: 0,
            ticked_ns: 0,
            behind: false,
            random: now_ns() | 1,
            ended: Totals::default(),
            waiting: None,
            tstates: HashMap::new(),
            tstates_at_ns: 0,
            journal,
            flushed_ns: 0,
            not_armed: 0,
            blocked_threads: 0,
            remote_discarded: 0,
            notes: Vec::new(),
            descriptor_budget: descriptor_budget(),
            scratch: Box::default(),
            tids: Vec::new(),
        }
    }

    /// Arms every thread that exists; sampling is on when this returns.
    pub fn arm_all(&mut self) {
        ZONE.wall.store(self.wall, Ordering::Relaxed);
        ZONE.active.store(true, Ordering::SeqCst);
        self.scan(true);
        self.publish();
    }

    /// Runs until told to stop; gives the profile.
    pub fn run(mut self) -> (Profile, SignalOwner) {
        let round_ns = (self.options.interval_ns * 20).clamp(10_000_000, 50_000_000);
        let mut next_round = now_ns();
        let mut next_tick = next_round;
        loop {
            let now = now_ns();
            if self.shared.stop.load(Ordering::Acquire) {
                return self.finish();
            }
            if super::terminate::arrived()
                && let Some(path) = self.options.output.clone()
            {
                let format = self.output_format;
                let ended = self.finish();
                super::terminate::save_and_die(&ended.0, &path, format);
                return ended;
            }
            self.take_notices();
            if self.engine == Engine::Tick && now >= next_tick {
                if self.wall { self.wall_tick(now) } else { self.cpu_tick(now) }
                next_tick = now.max(next_tick) + self.tick_gap();
            }
            if now >= next_round {
                self.round(now);
                next_round = now + round_ns;
            }
            let next = if self.engine == Engine::Tick { next_tick.min(next_round) } else { next_round };
            super::wake::wait(Duration::from_nanos(next.saturating_sub(now_ns())));
        }
    }

    /// Ticks come a little more often than samples are due, at varied distances: in step with nothing, and a late tick
    /// is made up for.
    fn tick_gap(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let mean = if self.wall { self.options.interval_ns } else { tick::mean_gap_ns(self.options.interval_ns) };
        let mean = if self.behind { mean / 2 } else { mean };
        let young = !self.wall && self.threads.iter().any(|thread| thread.young);
        let mean = if young { mean.min(self.options.interval_ns / YOUNG_RATE) } else { mean };
        mean / 2 + self.random % mean.max(1)
    }

    /// The regular work: new and ended threads, samples, code objects, signals, disk, figures.
    fn round(&mut self, now: u64) {
        self.signals.reclaim();
        super::terminate::reclaim();
        self.scan(false);
        self.rearm();
        for thread in &mut self.threads {
            thread.drain(&mut self.sink, self.start_ns);
        }
        self.find_blocked();
        self.release_code();
        self.flush(now);
        self.publish();
    }

    fn scan(&mut self, first: bool) {
        let mut tids = std::mem::take(&mut self.tids);
        tids.clear();
        if !self.tasks.read(&mut tids) {
            self.tids = tids;
            return;
        }
        for tid in &tids {
            if *tid != self.own_tid && !self.threads.iter().any(|thread| thread.tid == *tid) {
                self.track(*tid, first);
            }
        }
        let mut position = 0;
        while let Some(thread) = self.threads.get(position) {
            // One that is missing may be alive all the same (see `TaskList::read`); its clock tells.
            if tids.contains(&thread.tid) || thread.cpu_ns().is_some() {
                position += 1;
            } else {
                let thread = self.threads.swap_remove(position);
                self.retire(thread);
            }
        }
        self.tids = tids;
    }

    fn track(&mut self, tid: i32, first: bool) {
        let Ok(Some(state)) = pool::acquire() else {
            self.not_armed += 1;
            return;
        };
        // A thread that began during the run owes all its CPU time to it.
        let cpu = clock_ns(spprof_sigsafe::sys::thread_clock(tid));
        let first_cpu = if first { cpu } else { 0 };
        let now = now_ns();
        state.last_cpu_ns.store(first_cpu, Ordering::Relaxed);
        state.last_wall_ns.store(now, Ordering::Relaxed);
        state.tid.store(tid, Ordering::Release);
        let source = self.arm(tid, state, !first);
        let name = self.shared.name_of(tid);
        self.threads.push(Tracked {
            tid,
            state,
            source,
            python_ident: name.as_ref().map_or(0, |(ident, _)| *ident),
            name: name.map(|(_, name)| name),
            model: None,
            path: Vec::new(),
            start_ns: now.saturating_sub(self.start_ns),
            first_cpu_ns: first_cpu,
            seen_cpu_ns: cpu,
            due_cpu_ns: first_cpu + self.random % (self.options.interval_ns / if first { 1 } else { YOUNG_RATE }).max(1),
            young: !first,
            seen_entered: state.entered.load(Ordering::Acquire),
            idle_ticks: 0,
            parked: None,
            blocked: false,
            pending_rounds: 0,
            remote_samples: 0,
            remote_weight_ns: 0,
        });
    }

    fn arm(&mut self, tid: i32, state: &'static ThreadState, young: bool) -> Option<Source> {
        let interval = self.options.interval_ns;
        let mut engine = self.engine;
        let may_keep = self.threads.len() < self.descriptor_budget;
        if engine == Engine::Perf && !may_keep {
            self.note("more threads than perf events may be opened: the others are sampled by CPU timers");
            engine = Engine::Timer;
        }
        if engine == Engine::Perf && interval < MIN_PERIOD_NS {
            self.note("perf events come every 50 us at most: faster, the program might get nothing else done");
        }
        let first_interval = if young && engine == Engine::Perf { interval / YOUNG_RATE } else { interval };
        let mut armed = Source::arm(engine, tid, state, first_interval, self.wall, may_keep);
        if armed.is_err() && engine != Engine::Timer && tasks::name(tid).is_some() {
            armed = Source::arm(Engine::Timer, tid, state, interval, self.wall, false);
        }
        match armed {
            Ok(source) => Some(source),
            Err(error) => {
                if tasks::name(tid).is_some() {
                    self.not_armed += 1;
                    self.note(&format!("a thread could not be armed: {error}"));
                }
                None
            }
        }
    }

    /// Arms anew the threads whose event the host has closed with a descriptor it did not know, and lets young threads grow up.
    fn rearm(&mut self) {
        let grown_up_ns = now_ns().saturating_sub(self.start_ns).saturating_sub(YOUNG_NS);
        for index in 0..self.threads.len() {
            let Some(thread) = self.threads.get_mut(index) else { break };
            if thread.young && thread.start_ns < grown_up_ns {
                thread.young = false;
                if let Some(Source::Perf(event)) = &thread.source {
                    event.set_interval(self.options.interval_ns);
                }
            }
            if thread.source.as_ref().is_some_and(|source| !source.is_alive()) {
                thread.source = None;
                let (tid, state) = (thread.tid, thread.state);
                let source = self.arm(tid, state, false);
                if let Some(thread) = self.threads.get_mut(index) {
                    thread.source = source;
                }
            }
        }
    }

    fn note(&mut self, text: &str) {
        if !self.notes.iter().any(|note| note == text) {
            self.notes.push(text.to_owned());
        }
    }

    fn retire(&mut self, mut thread: Tracked) {
        thread.drain(&mut self.sink, self.start_ns);
        thread.source = None;
        let now = now_ns().saturating_sub(self.start_ns);
        thread.close(&mut self.sink, now);
        self.ended.add(&thread);
        self.shared.forget_name(thread.tid);
        pool::release(thread.state);
    }

    /// Threads that Python announced: their names, and the chance to arm them before the next scan.
    fn take_notices(&mut self) {
        for tid in self.shared.take_started() {
            let Some((ident, name)) = self.shared.name_of(tid) else { continue };
            match self.threads.iter_mut().find(|thread| thread.tid == tid) {
                Some(thread) => {
                    thread.python_ident = ident;
                    thread.name = Some(name);
                }
                // It may have ended meanwhile; then arming fails and the next scan retires it.
                None => self.track(tid, false),
            }
        }
    }

    /// CPU clock: a sample for every thread that has used its share and is running.
    fn cpu_tick(&mut self, now: u64) {
        let process = clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID);
        let own = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        let interval = self.options.interval_ns;
        let wall = now.saturating_sub(self.ticked_ns);
        self.ticked_ns = now;
        let mut found = Found::default();
        for thread in self.threads.iter_mut().filter(|thread| thread.idle_ticks < IDLE_TICKS) {
            found.add(tick::tick(thread, if thread.young { interval / YOUNG_RATE } else { interval }, wall));
        }
        let explained = own.saturating_sub(self.tick_own_cpu_ns) + found.used_ns + UNEXPLAINED_NS;
        if process.saturating_sub(self.tick_process_cpu_ns) > explained {
            for thread in self.threads.iter_mut().filter(|thread| thread.idle_ticks >= IDLE_TICKS) {
                found.add(tick::tick(thread, if thread.young { interval / YOUNG_RATE } else { interval }, wall));
            }
        }
        self.behind = found.behind;
        self.tick_process_cpu_ns = process;
        self.tick_own_cpu_ns = own;
    }

    /// Wall clock: threads on a processor are signalled, all others are walked where they stand.
    fn wall_tick(&mut self, now: u64) {
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
        remote::thread_states(self.runtime, super::interpreters_head(), &mut found);
        self.tstates.clear();
        for (tid, tstate) in found {
            self.tstates.entry(tid).or_default().push(tstate);
        }
        true
    }

    /// Threads that block the sampling signal never answer; they are sampled from outside.
    fn find_blocked(&mut self) {
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
            let blocked = tasks::blocks(thread.tid, SAMPLE_SIGNAL);
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
                    && walk(self.runtime, &mut Verified::new(), tstate, Interrupted::default(), two) == WalkOutcome::Complete
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

    /// Lets go of code objects that no captured frame can name any more.
    fn release_code(&mut self) {
        if let Some(waiting) = &self.waiting {
            let passed = waiting.rings.iter().all(|(state, head, entered)| {
                state.ring.tail() >= *head && state.exited.load(Ordering::Acquire) >= *entered
            });
            if !passed {
                return;
            }
        }
        if let Some(Waiting { batch, .. }) = self.waiting.take() {
            self.sink.resolver.forget(&batch);
            // ORDER: before the memory can be reused: a handler that meets a reused address sees the new generation.
            ZONE.release_generation.fetch_add(1, Ordering::AcqRel);
            lifetime::release(batch);
        }
        lifetime::nudge();
        if let Some(batch) = lifetime::take_aged() {
            let rings = ZONE
                .states()
                .iter()
                .map(|state| (state, state.ring.head(), state.entered.load(Ordering::Acquire)))
                .filter(|(state, head, entered)| {
                    state.ring.tail() < *head || state.exited.load(Ordering::Acquire) < *entered
                })
                .collect();
            self.waiting = Some(Waiting { batch, rings });
        }
    }

    fn flush(&mut self, now: u64) {
        if self.journal.is_none() || now.saturating_sub(self.flushed_ns) < FLUSH_NS {
            return;
        }
        self.flushed_ns = now;
        self.fill_metadata();
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.flush(&self.sink.profile, &self.sink.profile.meta)
            // No descriptor is free at the moment: nothing was written, the next flush writes it too.
            && !matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
        {
            self.journal = None;
            self.note(&format!("the journal could not be written ({error}): a killed run loses its samples"));
        }
    }

    fn totals(&self) -> Totals {
        let mut totals = self.ended;
        for thread in &self.threads {
            totals.add(thread);
        }
        totals
    }

    fn publish(&mut self) {
        let stats = self.stats();
        self.shared.publish(stats);
    }

    fn stats(&self) -> Stats {
        let totals = self.totals();
        let duration = now_ns().saturating_sub(self.start_ns);
        let process = clock_ns(libc::CLOCK_PROCESS_CPUTIME_ID).saturating_sub(self.start_process_cpu_ns);
        let own = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        let measured = totals.weight_ns + totals.dropped_ns;
        let lifetime = lifetime::stats();
        let unresolved = self.sink.resolver.failures();
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

    fn fill_metadata(&mut self) {
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

    /// Ends the run: no signal is sent any more, every handler has left, every record is in the model.
    fn finish(mut self) -> (Profile, SignalOwner) {
        // Threads that began since the last round have a name and CPU time to account for.
        self.take_notices();
        for thread in &mut self.threads {
            thread.source = None;
        }
        ZONE.active.store(false, Ordering::SeqCst);
        let deadline = now_ns() + QUIET_NS;
        while self.threads.iter().any(|thread| !thread.state.is_quiet()) && now_ns() < deadline {
            std::thread::yield_now();
        }
        let now = now_ns().saturating_sub(self.start_ns);
        for thread in &mut self.threads {
            thread.drain(&mut self.sink, self.start_ns);
            thread.close(&mut self.sink, now);
        }
        if let Some(Waiting { batch, .. }) = self.waiting.take() {
            lifetime::release(batch);
        }
        self.fill_metadata();
        if let Some(journal) = &mut self.journal {
            // The profile goes to its output next; if that fails the journal still holds all of it.
            let _ = journal.flush(&self.sink.profile, &self.sink.profile.meta);
        }
        ZONE.release_generation.fetch_add(1, Ordering::AcqRel);
        self.publish();
        for thread in self.threads.drain(..) {
            // A state whose handler never left stays out of use: its thread may still write to it.
            if thread.state.is_quiet() {
                pool::release(thread.state);
            }
        }
        (self.sink.profile, self.signals)
    }
}
