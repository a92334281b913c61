//! Scopes: from when to when, and what of it. The first one to open arms the interpreter's events, the last one to close
//! switches them off.
//!
//! A scope remembers how the counters stood when it was opened; its profile is how they stand now, less that, folded by its
//! own filter and depth. Opened and closed with the interpreter attached; the profile is made without.

use super::clock::{self, Moment};
use super::filter::Filter;
use super::recorder::{Ring, Shared, What};
use super::registry::{DEFAULT_ROWS, EVENTS, Entry, Inner, Known, Registry};
use super::rows::{AWAIT_TICKS, BYTES_PER_ROW, CALLS, CANCELLATIONS, Copied, EXCEPTIONS, RESUMES, ROOT, SELF_TICKS};
use super::tasks::{self, State, Totals, Watch};
use super::tree::Tree;
use super::{local, monitoring, setprofile};
use crate::error::Error;
use pyo3::ffi;
use pyo3::prelude::*;
use spprof_model::{Column, Function, FunctionId, NodeId, Outcome, Profile, Span, SpanKind, Task, Thread, ThreadId};
use spprof_sigsafe::layout::Layout;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Clone, Debug)]
pub struct Options {
    pub filter: Filter,
    /// Functions on top of each other, counted from the scope's own.
    pub max_depth: Option<u32>,
    pub min_duration_ns: u64,
    /// Calls into C, too.
    pub builtins: bool,
    /// Only the thread that opened it.
    pub current_thread: bool,
    /// Intervals kept; 0: no timeline.
    pub intervals: u32,
    pub memory_limit_bytes: u64,
}

/// What tracing costs, as calibrated: per call, inside its own self time and inside its caller's.
#[derive(Clone, Copy, Default, Debug)]
pub struct Cost {
    pub inside_ns: f64,
    pub outside_ns: f64,
}

/// How the counters stood.
#[derive(Clone, Default, Debug)]
struct Standing {
    threads: Vec<(Arc<Shared>, Vec<Copied>)>,
    ended: Vec<Copied>,
    tasks: Vec<Totals>,
}

#[derive(Debug)]
pub struct Scope {
    registry: &'static Registry,
    id: u64,
    options: Options,
    before: Standing,
    start: Moment,
    start_unix_ns: u64,
    own: Arc<Shared>,
    /// The row of the function that opened it, and its depth.
    base: (u32, u32),
    first_task: u32,
    losses: Vec<(&'static str, u64)>,
}

#[derive(Clone, Copy, Debug)]
enum Engine {
    Monitoring(u8),
    SetProfile,
}

#[derive(Debug)]
struct Armed {
    engine: Engine,
    builtins: bool,
    open: Vec<(u64, Options, u32)>,
}

static ARMED: Mutex<Option<Armed>> = Mutex::new(None);
static NEXT: AtomicU64 = AtomicU64::new(1);
static COST: Mutex<Cost> = Mutex::new(Cost { inside_ns: 0.0, outside_ns: 0.0 });

pub fn set_cost(cost: Cost) {
    *COST.lock().unwrap_or_else(PoisonError::into_inner) = cost;
}

fn armed() -> std::sync::MutexGuard<'static, Option<Armed>> {
    ARMED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[must_use]
pub fn is_armed() -> bool {
    armed().is_some()
}

/// Opens a scope in the function that runs `frame`. Attached.
pub fn open(py: Python<'_>, layout: &Layout, options: Options, frame: &Bound<'_, PyAny>) -> PyResult<Scope> {
    clock::origin();
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let code = frame.getattr("f_code")?;
    if !is_armed() {
        local::begin_run();
        tasks::begin();
        release(EVENTS.clear());
        let engine = if layout.minor >= 12 { Engine::Monitoring(monitoring::attach(py)?) } else { Engine::SetProfile };
        *armed() = Some(Armed { engine, builtins: false, open: Vec::new() });
    }
    let known = monitoring::describe_code(&code, Some(frame));
    EVENTS.lock().filters.push((id, options.filter.clone()));
    // The function it is opened in stands whatever the filter says: it holds the time of what is filtered out.
    let standing = match known {
        Known::Unwanted => EVENTS.find_whatever(code.as_ptr() as usize),
        known => Some(known),
    };
    let mut chain = monitoring::callers(frame);
    if let Some(known) = standing {
        chain.insert(0, (code.as_ptr() as usize, known));
    }
    let now = clock::ticks();
    let stood = local::with_events(|recorder| {
        recorder.stand_on(&chain, now);
        (Arc::clone(&recorder.shared), recorder.top(), recorder.depth())
    });
    let Some((own, top, depth)) = stood else {
        EVENTS.lock().filters.retain(|(other, _)| *other != id);
        return Err(Error::runtime("a scope cannot be opened inside the handling of a trace event").into());
    };
    if let Some(armed) = armed().as_mut() {
        armed.open.push((id, options.clone(), depth));
    }
    if let Err(error) = apply(py, layout, true) {
        withdraw(py, layout, id);
        return Err(error);
    }
    let start = clock::moment();
    local::with_events(|recorder| recorder.charge(start.ticks));
    let first_task = watch_tasks(id);
    let mut scope = Scope {
        registry: &EVENTS,
        id,
        options,
        before: Standing::default(),
        start,
        start_unix_ns: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64),
        own,
        base: (top, depth),
        first_task,
        losses: Vec::new(),
    };
    scope.before = scope.standing(start.ticks);
    scope.losses = losses(&EVENTS.lock());
    Ok(scope)
}

fn watch_tasks(id: u64) -> u32 {
    let mut tasks = tasks::lock();
    let Some(inner) = tasks.as_mut() else { return 0 };
    let first = inner.records.len() as u32;
    inner.watches.push(Watch { scope: id, first, ..Watch::default() });
    first
}

/// Brings limits and events to what the open scopes want together. Attached.
fn apply(py: Python<'_>, layout: &Layout, opened: bool) -> PyResult<()> {
    let (engine, builtins, first, changed) = {
        let mut armed = armed();
        let Some(armed) = armed.as_mut() else { return Ok(()) };
        let open = &armed.open;
        let depth = open
            .iter()
            .map(|(_, options, base)| options.max_depth.map_or(u32::MAX, |depth| base.saturating_add(depth)));
        let rows =
            open.iter().map(|(_, options, _)| (options.memory_limit_bytes / BYTES_PER_ROW).clamp(64, 1 << 30) as u32);
        let intervals = open.iter().map(|(_, options, _)| options.intervals).max().unwrap_or(0);
        let shortest_ns = open.iter().map(|(_, options, _)| options.min_duration_ns).min().unwrap_or(0);
        let min_ticks = shortest_ns as f64 / clock::ns_per_tick(clock::moment());
        EVENTS.limits.set(
            depth.max().unwrap_or(u32::MAX),
            rows.max().unwrap_or(DEFAULT_ROWS),
            intervals,
            min_ticks as u64,
        );
        let builtins = open.iter().any(|(_, options, _)| options.builtins);
        let changed = builtins != armed.builtins;
        armed.builtins = builtins;
        (armed.engine, builtins, armed.open.len() == 1, changed)
    };
    match engine {
        // What was switched off for the others may be wanted now.
        Engine::Monitoring(slot) if opened || changed => monitoring::arm(py, slot, builtins),
        Engine::SetProfile if opened && first => setprofile::arm(py, layout, builtins),
        Engine::SetProfile => {
            setprofile::set_builtins(builtins);
            Ok(())
        }
        Engine::Monitoring(_) => Ok(()),
    }
}

/// Takes a scope out of those that are open; the last one switches everything off. Attached.
fn withdraw(py: Python<'_>, layout: &Layout, id: u64) {
    let last = {
        let mut guard = armed();
        let Some(armed) = guard.as_mut() else { return };
        armed.open.retain(|(other, _, _)| *other != id);
        let last = armed.open.is_empty().then_some(armed.engine);
        if last.is_some() {
            *guard = None;
        }
        last
    };
    EVENTS.lock().filters.retain(|(other, _)| *other != id);
    if let Some(inner) = tasks::lock().as_mut() {
        inner.watches.retain(|watch| watch.scope != id);
    }
    if last.is_some() {
        tasks::end();
    }
    match last {
        None => drop(apply(py, layout, false)),
        // What cannot be switched off is not ours any more.
        Some(Engine::Monitoring(slot)) => drop(monitoring::detach(py, slot)),
        Some(Engine::SetProfile) => drop(setprofile::detach()),
    }
}

/// Objects that a run kept. Attached.
fn release(objects: Vec<usize>) {
    for object in objects {
        // SAFETY: the registry held a reference to each.
        unsafe { ffi::Py_DecRef(object as *mut ffi::PyObject) };
    }
}

/// In a forked child: the trace is its parent's; here events are off. Attached, and the only thread.
pub fn after_fork_child(py: Python<'_>) {
    let engine = armed().take().map(|armed| armed.engine);
    match engine {
        Some(Engine::Monitoring(slot)) => drop(monitoring::detach(py, slot)),
        Some(Engine::SetProfile) => drop(setprofile::detach()),
        None => {}
    }
}

/// What was lost so far on all threads of a run.
fn losses(inner: &Inner) -> Vec<(&'static str, u64)> {
    let sum = |pick: fn(&super::recorder::Losses) -> &AtomicU64| {
        inner.threads.iter().map(|thread| pick(&thread.losses).load(Ordering::Relaxed)).sum()
    };
    vec![
        ("tree_full", sum(|losses| &losses.tree_full)),
        ("unseen_exits", sum(|losses| &losses.unseen_exits)),
        ("short_calls", sum(|losses| &losses.short_calls)),
        ("deep_calls", sum(|losses| &losses.deep_calls)),
        ("functions_full", inner.functions_full),
    ]
}

impl Scope {
    /// Everything that the program marked itself, outside of scopes, from now on.
    #[must_use]
    pub fn of_marks(registry: &'static Registry) -> Option<Self> {
        clock::origin();
        let own = local::with_marks(|recorder| Arc::clone(&recorder.shared))?;
        let start = clock::moment();
        let options = Options {
            filter: Filter::default(),
            max_depth: None,
            min_duration_ns: 0,
            builtins: false,
            current_thread: false,
            intervals: 0,
            memory_limit_bytes: 0,
        };
        let mut scope = Self {
            registry,
            id: 0,
            options,
            before: Standing::default(),
            start,
            start_unix_ns: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64),
            own,
            base: (ROOT, 0),
            first_task: u32::MAX,
            losses: Vec::new(),
        };
        scope.before = scope.standing(start.ticks);
        Some(scope)
    }

    /// Closes it; events end with the last one. Attached.
    pub fn close(&self, py: Python<'_>, layout: &Layout) {
        withdraw(py, layout, self.id);
    }

    /// Brings the calling thread's counters to now.
    pub fn settle(&self) {
        let now = clock::ticks();
        if self.id == 0 {
            local::with_marks(|recorder| recorder.charge(now));
        } else {
            local::with_events(|recorder| recorder.charge(now));
        }
    }

    /// Everything before now is not its any more.
    pub fn restart(&mut self) {
        self.settle();
        self.start = clock::moment();
        self.before = self.standing(self.start.ticks);
        self.losses = losses(&self.registry.lock());
        self.first_task = watch_again(self.id);
    }

    fn standing(&self, now: u64) -> Standing {
        let inner = self.registry.lock();
        let threads = inner.threads.iter().filter(|thread| self.is_mine(thread));
        let threads = threads.map(|thread| (Arc::clone(thread), settled(thread, now))).collect();
        let ended = if self.options.current_thread { Vec::new() } else { inner.ended.with_root() };
        drop(inner);
        let tasks = tasks::lock();
        let records = tasks.as_ref().map_or(&[][..], |inner| &inner.records[..]);
        Standing { threads, ended, tasks: records.iter().map(|record| record.totals_at(now)).collect() }
    }

    fn is_mine(&self, thread: &Arc<Shared>) -> bool {
        !self.options.current_thread || Arc::ptr_eq(thread, &self.own)
    }

    /// The profile from when it was opened until now. Without the interpreter.
    #[must_use]
    pub fn profile(&self, engine: &str) -> Profile {
        let end = clock::moment();
        let now = self.standing(end.ticks);
        let mut tree = Tree::new();
        let nodes: Vec<Vec<u32>> = now.threads.iter().map(|(_, rows)| tree.add(rows)).collect();
        let ended = tree.add(&now.ended);
        tree.subtract(&self.before.ended);
        for (_, rows) in &self.before.threads {
            tree.subtract(rows);
        }
        let base = now.threads.iter().position(|(thread, _)| Arc::ptr_eq(thread, &self.own));
        let base = base.map_or(ROOT, |own| nodes[own][self.base.0 as usize]);
        let mut making = Making {
            scope: self,
            ns_per_tick: clock::ns_per_tick(end),
            cost: *COST.lock().unwrap_or_else(PoisonError::into_inner),
            functions: Vec::new(),
            task_rows: Vec::new(),
            profile: Profile::unlimited(),
        };
        let meta = &mut making.profile.meta;
        meta.clock = "wall".to_owned();
        meta.engine = engine.to_owned();
        meta.start_unix_ns = self.start_unix_ns;
        meta.duration_ns = end.monotonic_ns.saturating_sub(self.start.monotonic_ns);
        meta.pid = std::process::id();
        meta.overhead_ns_per_call = making.cost.inside_ns + making.cost.outside_ns;
        let inner = self.registry.lock();
        for (now, before) in losses(&inner).iter().zip(self.losses.iter().chain(std::iter::repeat(&("", 0)))) {
            if now.1 > before.1 {
                meta.losses.push((now.0.to_owned(), now.1 - before.1));
            }
        }
        let placed = making.tree(&inner.functions, &tree, base);
        let threads = making.threads(&now);
        making.tasks(&inner.functions, &now);
        making.spans(&now, &nodes, &placed, &threads);
        if !self.options.current_thread {
            making.ended_spans(&inner, &ended, &placed);
        }
        making.profile
    }
}

fn watch_again(id: u64) -> u32 {
    let mut tasks = tasks::lock();
    let Some(inner) = tasks.as_mut() else { return 0 };
    let first = inner.records.len() as u32;
    if let Some(watch) = inner.watches.iter_mut().find(|watch| watch.scope == id) {
        *watch = Watch { scope: id, first, ..Watch::default() };
    }
    first
}

/// A thread's rows with the time since its last event.
fn settled(thread: &Shared, now: u64) -> Vec<Copied> {
    let mut rows = thread.rows.copy();
    if let Some((top, last)) = thread.pending()
        && let Some(row) = rows.get_mut(top as usize)
    {
        row.counts[SELF_TICKS] = row.counts[SELF_TICKS].wrapping_add(now.saturating_sub(last));
    }
    rows
}

/// A profile in the making.
struct Making<'a> {
    scope: &'a Scope,
    ns_per_tick: f64,
    cost: Cost,
    /// The profile's ids by the registry's, where there are any.
    functions: Vec<Option<FunctionId>>,
    /// The profile's rows of tasks by number.
    task_rows: Vec<Option<u32>>,
    profile: Profile,
}

impl Making<'_> {
    fn ns(&self, ticks: u64) -> u64 {
        (ticks as f64 * self.ns_per_tick).round() as u64
    }

    /// Since the scope's start; 0 for what was before.
    fn time(&self, ticks: u64) -> u64 {
        self.ns(ticks.saturating_sub(self.scope.start.ticks))
    }

    fn function(&mut self, entries: &[Entry], function: u32) -> FunctionId {
        let index = function as usize;
        if self.functions.len() <= index {
            self.functions.resize(entries.len().max(index + 1), None);
        }
        if let Some(id) = self.functions[index] {
            return id;
        }
        let profile = &mut self.profile;
        let entry = &entries[index];
        let function = Function {
            name: profile.intern(&entry.name),
            file: profile.intern(&entry.file),
            module: profile.intern(&entry.module),
            first_line: entry.first_line,
            kind: entry.kind,
            discriminator: entry.discriminator,
        };
        let id = profile.function(function);
        self.functions[index] = Some(id);
        id
    }

    /// Gives, for every node of the tree (root first), the profile's node that holds its time, if any does.
    fn tree(&mut self, entries: &[Entry], tree: &Tree, base: u32) -> Vec<Option<NodeId>> {
        let rows = &tree.rows;
        let row = |node: u32| &rows[node as usize - 1];
        let happened = |row: &Copied| row.counts.iter().any(|&count| count != 0);
        // Nodes with something in or below them, and the callers of the function that opened the scope.
        let mut alive: Vec<bool> = std::iter::once(true).chain(rows.iter().map(happened)).collect();
        for node in (1..alive.len()).rev() {
            if alive[node] {
                alive[row(node as u32).parent as usize] = true;
            }
        }
        let mut outside = vec![false; alive.len()];
        let mut at = base;
        while at != ROOT {
            at = row(at).parent;
            outside[at as usize] = at != ROOT && !happened(row(at));
        }
        if base != ROOT {
            alive[base as usize] = true;
        }
        let self_ns = self.self_times(rows);
        let limit = self.scope.options.max_depth.unwrap_or(u32::MAX);
        let mut placed: Vec<Option<NodeId>> = vec![None; alive.len()];
        let mut depth = vec![0_u32; alive.len()];
        for (i, row) in rows.iter().enumerate() {
            let node = i + 1;
            if !alive[node] || outside[node] {
                continue;
            }
            let entry = &entries[row.function as usize];
            let parent = placed[row.parent as usize];
            let is_base = node == base as usize;
            let below = depth[row.parent as usize] + 1;
            let folded = !is_base && (below > limit || !entry.wanted_by(&self.scope.options.filter));
            if folded {
                placed[node] = parent;
                depth[node] = depth[row.parent as usize];
                if let Some(parent) = parent {
                    self.profile.add(Column::SelfNs, parent, self_ns[i]);
                }
                continue;
            }
            depth[node] = if is_base { 0 } else { below };
            let function = self.function(entries, row.function);
            let id = self.profile.child(parent.unwrap_or(NodeId::ROOT), function, entry.first_line);
            placed[node] = Some(id);
            self.profile.add(Column::SelfNs, id, self_ns[i]);
            let await_ns = self.ns(row.counts[AWAIT_TICKS]);
            self.profile.add(Column::AwaitNs, id, await_ns);
            self.profile.add(Column::Calls, id, row.counts[CALLS]);
            self.profile.add(Column::Resumes, id, row.counts[RESUMES]);
            self.profile.add(Column::Exceptions, id, row.counts[EXCEPTIONS]);
            self.profile.add(Column::Cancellations, id, row.counts[CANCELLATIONS]);
        }
        self.profile.meta.max_depth = u64::from(depth.into_iter().max().unwrap_or(0));
        placed
    }

    /// Self times less the tracer's own: what a call costs inside itself, and what the calls that it makes cost in it.
    fn self_times(&mut self, rows: &[Copied]) -> Vec<u64> {
        let mut own: Vec<f64> = rows.iter().map(|row| steps(row) * self.cost.inside_ns).collect();
        for row in rows {
            if let Some(parent) = own.get_mut((row.parent as usize).wrapping_sub(1)) {
                *parent += steps(row) * self.cost.outside_ns;
            }
        }
        let mut overhead_ns = 0;
        let times = rows.iter().zip(own).map(|(row, own)| {
            let raw = self.ns(row.counts[SELF_TICKS]);
            let own = (own as u64).min(raw);
            overhead_ns += own;
            raw - own
        });
        let times = times.collect();
        self.profile.meta.overhead_ns = overhead_ns;
        times
    }

    fn threads(&mut self, now: &Standing) -> Vec<ThreadId> {
        let threads = now.threads.iter().map(|(thread, _)| Thread {
            os_id: thread.os_id,
            python_ident: thread.python_ident,
            name: None,
            start_ns: self.time(thread.began),
            end_ns: self.time(thread.last_event()),
            ..Thread::default()
        });
        let threads: Vec<Thread> = threads.collect();
        threads.into_iter().map(|thread| self.profile.thread(thread)).collect()
    }

    fn thread_of(&mut self, os_id: u64) -> ThreadId {
        let known = self.profile.threads().iter().position(|thread| thread.os_id == os_id);
        match known {
            Some(row) => ThreadId::from_index(row as u32),
            None => self.profile.thread(Thread { os_id, ..Thread::default() }),
        }
    }

    fn tasks(&mut self, entries: &[Entry], now: &Standing) {
        let guard = tasks::lock();
        let Some(inner) = guard.as_ref() else { return };
        if self.scope.id == 0 {
            return;
        }
        let start = self.scope.start.ticks;
        // Places in the profile by number.
        let mut rows: Vec<Option<u32>> = vec![None; inner.records.len()];
        for (number, record) in inner.records.iter().enumerate() {
            let over = matches!(record.state, State::Ended(_)) && record.since <= start;
            let elsewhere = self.scope.options.current_thread && record.os_id != self.scope.own.os_id;
            let Some(totals) = now.tasks.get(number).filter(|_| !over && !elsewhere) else { continue };
            let before = self.scope.before.tasks.get(number).copied().unwrap_or_default();
            rows[number] = Some(self.profile.activity.tasks.len() as u32);
            let (end, outcome) = match record.state {
                State::Ended(ending) => (
                    record.since,
                    match ending {
                        tasks::Ending::Failed => Outcome::Failed,
                        tasks::Ending::Cancelled => Outcome::Cancelled,
                        _ => Outcome::Finished,
                    },
                ),
                _ => (u64::MAX, Outcome::Unfinished),
            };
            let task = Task {
                name: self.profile.intern(&record.name),
                parent: record.parent.and_then(|parent| *rows.get(parent as usize)?),
                function: self.function(entries, record.function),
                thread: self.thread_of(record.os_id),
                start_ns: self.time(record.began),
                end_ns: if end == u64::MAX { self.profile.meta.duration_ns } else { self.time(end) },
                run_ns: self.ns(totals.run - before.run.min(totals.run)),
                wait_ns: self.ns(totals.wait - before.wait.min(totals.wait)),
                queued_ns: self.ns(totals.queued - before.queued.min(totals.queued)),
                steps: totals.steps - before.steps.min(totals.steps),
                outcome,
            };
            self.profile.activity.tasks.push(task);
        }
        if let Some(watch) = inner.watches.iter().find(|watch| watch.scope == self.scope.id) {
            let max_lag_ns = self.ns(watch.max_lag);
            let activity = &mut self.profile.activity;
            activity.max_unfinished = u64::from(watch.max_unfinished);
            activity.max_runnable = u64::from(watch.max_runnable);
            activity.max_lag_ns = max_lag_ns;
        }
        if inner.full > 0 {
            self.profile.meta.losses.push(("tasks_full".to_owned(), inner.full));
        }
        self.task_rows = rows;
    }

    fn spans(&mut self, now: &Standing, nodes: &[Vec<u32>], placed: &[Option<NodeId>], threads: &[ThreadId]) {
        for (i, (thread, _)) in now.threads.iter().enumerate() {
            let ring = thread.ring.lock().unwrap_or_else(PoisonError::into_inner);
            self.ring(&ring, &nodes[i], placed, threads[i]);
        }
    }

    fn ended_spans(&mut self, inner: &Inner, nodes: &[u32], placed: &[Option<NodeId>]) {
        for thread in inner.ended_threads.iter().filter(|thread| thread.last > self.scope.start.ticks) {
            let row = Thread {
                os_id: thread.os_id,
                python_ident: thread.python_ident,
                start_ns: self.time(thread.began),
                end_ns: self.time(thread.last),
                ..Thread::default()
            };
            let row = self.profile.thread(row);
            self.ring(&thread.ring, nodes, placed, row);
        }
        self.dropped(inner.ended_dropped);
    }

    /// The intervals of a thread, whose rows are these nodes of the tree.
    fn ring(&mut self, ring: &Ring, nodes: &[u32], placed: &[Option<NodeId>], thread: ThreadId) {
        if self.scope.options.intervals == 0 {
            return;
        }
        self.dropped(ring.dropped);
        for interval in ring.intervals.iter().filter(|interval| interval.to > self.scope.start.ticks) {
            let task = |number: u32| self.task_rows.get(number as usize).copied().flatten();
            let kind = match interval.what {
                // A call recorded after this look began has a row that is not in it.
                What::Call(row) => nodes.get(row as usize).and_then(|&node| placed[node as usize]).map(SpanKind::Call),
                What::Run(number) => task(number).map(SpanKind::Run),
                What::Wait(number) => task(number).map(SpanKind::Wait),
                What::Queued(number) => task(number).map(SpanKind::Queued),
            };
            let Some(kind) = kind else { continue };
            let (start_ns, end_ns) = (self.time(interval.from), self.time(interval.to));
            self.profile.activity.spans.push(Span { start_ns, end_ns, thread, kind });
        }
    }

    fn dropped(&mut self, count: u64) {
        if count == 0 || self.scope.options.intervals == 0 {
            return;
        }
        let losses = &mut self.profile.meta.losses;
        match losses.iter_mut().find(|(reason, _)| reason == "timeline_full") {
            Some((_, known)) => *known += count,
            None => losses.push(("timeline_full".to_owned(), count)),
        }
    }
}

/// Events of a row that have a cost: pairs of entry and exit.
fn steps(row: &Copied) -> f64 {
    row.counts[CALLS].wrapping_add(row.counts[RESUMES]) as i64 as f64
}
