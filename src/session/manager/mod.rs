//! The manager thread: finds threads, arms and ticks them, drains rings into the model, releases code objects.
//!
//! It owns everything mutable of a run, blocks all signals, never takes the GIL and never waits for a sampled thread.

mod figures;
mod parked;

use super::Options;
use super::drain::Sink;
use super::shared::Shared;
use super::thread::Tracked;
use super::tick::{self, Found};
use crate::resolve::lifetime;
use crate::resolve::limbo::Batch;
use crate::resolve::native::NativeDetail;
use crate::sampler::linux_perf::MIN_PERIOD_NS;
use crate::sampler::native::publish::Publisher;
use crate::sampler::pool;
use crate::sampler::signals::{SAMPLE_SIGNAL, SignalOwner};
use crate::sampler::source::{Engine, Source};
use crate::sampler::tasks::{self, TaskList};
use figures::Totals;
use rustc_hash::FxHashSet;
use spprof_export::{Format, Journal};
use spprof_model::Profile;
use spprof_sigsafe::ring::RING_WORDS;
use spprof_sigsafe::stack::Stack;
use spprof_sigsafe::sys::clock_ns;
use spprof_sigsafe::thread::ThreadState;
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
/// Looking for threads among thousands takes milliseconds; then it is done so seldom that it takes this part of a processor.
const SCAN_REST: u64 = 40;
/// But not more seldom than this.
const LONGEST_SCAN_GAP_NS: u64 = 500_000_000;
/// How often a profile in progress reaches the disk, when it has an output path.
const FLUSH_NS: u64 = 1_000_000_000;
/// Samples after which a ring is looked at: three times as many of the longest fit into it.
const PEEK_SAMPLES: u64 = 10;
/// Rings are not looked at more often than this.
const SHORTEST_PEEK_NS: u64 = 500_000;
/// How long the end of a run waits for handlers that are still inside.
const QUIET_NS: u64 = 500_000_000;

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
    /// `None` when no native frames are wanted.
    modules: Option<Publisher>,
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
    next_scan_ns: u64,
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
        let Setup { runtime, options, engine, engine_reason, output_format, shared, signals, sink, tasks, journal } =
            setup;
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            wall: options.clock == super::Clock::Wall,
            modules: (options.native != NativeDetail::None).then(Publisher::default),
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
            next_scan_ns: 0,
        }
    }

    /// Arms every thread that exists; sampling is on when this returns.
    pub fn arm_all(&mut self) {
        ZONE.wall.store(self.wall, Ordering::Relaxed);
        self.refresh_modules();
        ZONE.active.store(true, Ordering::SeqCst);
        self.scan(true);
        self.publish();
    }

    /// Shows the handlers what was loaded since the last time.
    fn refresh_modules(&mut self) {
        if let Some(modules) = &mut self.modules {
            let natives = &mut self.sink.natives;
            modules.refresh(|now| now.list.iter().for_each(|module| natives.add_module(Arc::clone(module))));
        }
    }

    /// Runs until told to stop; gives the profile.
    pub fn run(mut self) -> (Profile, SignalOwner) {
        let round_ns = (self.options.interval_ns * 20).clamp(10_000_000, 50_000_000);
        let mut next_round = now_ns();
        let mut next_tick = next_round;
        let mut next_peek = next_round;
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
                if self.wall {
                    self.wall_tick(now)
                } else {
                    self.cpu_tick(now)
                }
                next_tick = now.max(next_tick) + self.tick_gap();
            }
            if now >= next_round {
                self.round(now);
                next_round = now + round_ns;
                next_peek = now + self.peek_gap();
            } else if now >= next_peek {
                self.drain_fuller_rings();
                next_peek = now + self.peek_gap();
            }
            let next = next_round.min(next_peek);
            let next = if self.engine == Engine::Tick { next_tick.min(next) } else { next };
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

    /// How long a ring that is one third full is safe: samples of deep stacks fill one much faster than a round comes.
    fn peek_gap(&self) -> u64 {
        let young = self.threads.iter().any(|thread| thread.young);
        let interval = self.options.interval_ns / if young { YOUNG_RATE } else { 1 };
        (interval * PEEK_SAMPLES).max(SHORTEST_PEEK_NS)
    }

    fn drain_fuller_rings(&mut self) {
        for thread in &mut self.threads {
            if thread.state.ring.used() > RING_WORDS as u64 / 3 {
                thread.drain(&mut self.sink, self.start_ns);
            }
        }
    }

    /// The regular work: new and ended threads, samples, code objects, signals, disk, figures.
    fn round(&mut self, now: u64) {
        self.signals.reclaim();
        super::terminate::reclaim();
        self.refresh_modules();
        if now >= self.next_scan_ns {
            let before = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
            self.scan(false);
            let cost = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID).saturating_sub(before);
            self.next_scan_ns = now + (cost * SCAN_REST).min(LONGEST_SCAN_GAP_NS);
        }
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
        // Sets, because there may be thousands: a scan takes as many steps as there are threads.
        let tracked: FxHashSet<i32> = self.threads.iter().map(|thread| thread.tid).collect();
        for tid in &tids {
            if *tid != self.own_tid && !tracked.contains(tid) {
                self.track(*tid, first);
            }
        }
        let listed: FxHashSet<i32> = tids.iter().copied().collect();
        let mut position = 0;
        while let Some(thread) = self.threads.get(position) {
            // One that is missing may be alive all the same (see `TaskList::read`); its clock tells.
            if listed.contains(&thread.tid) || thread.cpu_ns().is_some() {
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
            due_cpu_ns: first_cpu
                + self.random % (self.options.interval_ns / if first { 1 } else { YOUNG_RATE }).max(1),
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

    /// Ends the run: no signal is sent any more, every handler has left, every record is in the model.
    fn finish(mut self) -> (Profile, SignalOwner) {
        // Threads that began since the last round have a name and CPU time to account for.
        self.take_notices();
        for thread in &mut self.threads {
            thread.source = None;
        }
        ZONE.active.store(false, Ordering::SeqCst);
        let deadline = now_ns() + QUIET_NS;
        // A signal of ours that is still on its way must not find the host's handler, which is put back next.
        let is_on_its_way = |thread: &Tracked| !thread.blocked && tasks::is_pending(thread.tid, SAMPLE_SIGNAL);
        let is_hosts_too = ZONE.chained_handler().is_some();
        while self.threads.iter().any(|it| !it.state.is_quiet() || is_hosts_too && is_on_its_way(it))
            && now_ns() < deadline
        {
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
