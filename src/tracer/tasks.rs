//! Tasks of asyncio: when each ran, waited, and stood in the queue of its loop; who created it; how it ended.
//!
//! A task's step begins where a coroutine is entered from code that is none, and ends where that one is left; which task it
//! is, asyncio tells. When a task becomes ready is told by the loop, whose `call_soon` is watched while a trace runs
//! (`spprof._tasks`); in a loop that is not, all of a suspension counts as waiting. The parent comes down by a context
//! variable, as a new task inherits its creator's context.
#![forbid(unsafe_code)]

use super::recorder::{Interval, Shared, What};
use super::registry::Limits;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use rustc_hash::FxHashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the coroutines of `@trace` are written.
const DECORATORS: &[u8] = b"/spprof/_marks.py";
/// Tasks recorded one by one in a run.
const MAX_TASKS: usize = 200_000;
/// Tasks made ready that have not begun.
const MAX_READY: usize = 100_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    Suspended,
    Finished,
    Failed,
    Cancelled,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Running,
    Waiting,
    Queued,
    Ended(Ending),
}

/// Ticks in each state, and steps.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Totals {
    pub run: u64,
    pub wait: u64,
    pub queued: u64,
    pub steps: u64,
}

#[derive(Clone, Debug)]
pub struct Record {
    pub name: Vec<u8>,
    pub parent: Option<u32>,
    pub function: u32,
    pub os_id: u64,
    pub began: u64,
    pub since: u64,
    pub state: State,
    pub totals: Totals,
    /// The last wait that ended, until the step after it.
    waited: Option<(u64, u64)>,
    /// Address of the code of its own coroutine; 0: unknown.
    code: usize,
    address: usize,
}

impl Record {
    /// The totals with the state it is in.
    #[must_use]
    pub fn totals_at(&self, now: u64) -> Totals {
        let mut totals = self.totals;
        let passed = now.saturating_sub(self.since);
        match self.state {
            State::Running => totals.run += passed,
            State::Waiting => totals.wait += passed,
            State::Queued => totals.queued += passed,
            State::Ended(_) => {}
        }
        totals
    }
}

/// What a scope is told as it happens.
#[derive(Clone, Copy, Default, Debug)]
pub struct Watch {
    pub scope: u64,
    /// Tasks before this one began before the scope.
    pub first: u32,
    pub unfinished: u32,
    pub max_unfinished: u32,
    pub max_runnable: u32,
    /// Longest time that a ready task stood in the queue, in ticks.
    pub max_lag: u64,
}

#[derive(Default, Debug)]
pub struct Inner {
    pub records: Vec<Record>,
    by_address: FxHashMap<usize, u32>,
    ready: FxHashMap<usize, u64>,
    pub watches: Vec<Watch>,
    runnable: u32,
    /// While a run lasts.
    active: bool,
    /// Added to numbers for the context variable, so that those of earlier runs are told apart.
    base: u64,
    pub full: u64,
}

static TASKS: Mutex<Option<Inner>> = Mutex::new(None);
static ASYNCIO: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static VARIABLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
/// Called on the loop's thread when a task is seen first.
static ON_TASK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

pub fn lock() -> MutexGuard<'static, Option<Inner>> {
    TASKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A run begins.
pub fn begin() {
    let mut tasks = lock();
    let base = tasks.as_ref().map_or(1, |inner| inner.base + inner.records.len() as u64 + 1);
    *tasks = Some(Inner { base, active: true, ..Inner::default() });
}

/// The run ends.
pub fn end() {
    if let Some(inner) = lock().as_mut() {
        inner.active = false;
    }
}

pub fn set_on_task(py: Python<'_>, callback: Py<PyAny>) {
    // The first one is as good as any other.
    drop(ON_TASK.set(py, callback));
}

/// A coroutine is entered from code that is none. Gives the number of its task, if the task's step begins with it.
#[cold]
pub fn step_begins(shared: &Shared, limits: &Limits, key: usize, function: u32, now: u64) -> Option<u32> {
    lock().as_ref().filter(|inner| inner.active)?;
    Python::attach(|py| {
        let task = current_task(py)?;
        let address = task.as_ptr() as usize;
        {
            let mut tasks = lock();
            let inner = tasks.as_mut()?;
            if let Some(&number) = inner.by_address.get(&address) {
                let record = &mut inner.records[number as usize];
                return if record.state == State::Running { None } else { inner.resume(number, shared, limits, now) };
            }
        }
        let described = Described::of(&task).unwrap_or_default();
        let parent = inherited(py);
        let number = {
            let mut tasks = lock();
            let inner = tasks.as_mut()?;
            let parent = parent.and_then(|parent| u32::try_from(parent.checked_sub(inner.base)?).ok());
            inner.first_step(described, parent, address, key, function, shared, limits, now)
        };
        let base = lock().as_ref().map_or(0, |inner| inner.base);
        if let Some(number) = number {
            inherit(py, base + u64::from(number));
        }
        if let Some(callback) = ON_TASK.get(py) {
            // It reports nothing; what goes wrong in it is the loss of the queue's times.
            drop(callback.call0(py));
        }
        number
    })
}

/// The coroutine that a task's step began with is left.
#[cold]
pub fn step_ends(shared: &Shared, limits: &Limits, number: u32, key: usize, now: u64, ending: Ending) {
    let mut tasks = lock();
    let Some(inner) = tasks.as_mut() else { return };
    let Some(record) = inner.records.get_mut(number as usize) else { return };
    record.totals = record.totals_at(now);
    push(shared, limits, record.since, now, What::Run(number));
    record.since = now;
    // Below filtered code the step may have begun with a coroutine that the task's own one awaits.
    let own = record.code == 0 || record.code == key;
    record.state = if own && ending != Ending::Suspended { State::Ended(ending) } else { State::Waiting };
    inner.runnable = inner.runnable.saturating_sub(1);
    if let State::Ended(_) = record.state {
        inner.by_address.remove(&record.address);
        for watch in inner.watches.iter_mut().filter(|watch| watch.first <= number) {
            watch.unfinished = watch.unfinished.saturating_sub(1);
        }
    }
}

/// A loop has put a step of this task into its queue.
pub fn ready(address: usize, now: u64) {
    let mut tasks = lock();
    let Some(inner) = tasks.as_mut() else { return };
    let Some(&number) = inner.by_address.get(&address) else {
        if inner.ready.len() < MAX_READY {
            inner.ready.insert(address, now);
        }
        return;
    };
    let record = &mut inner.records[number as usize];
    if record.state == State::Waiting {
        record.totals.wait += now.saturating_sub(record.since);
        record.waited = Some((record.since, now));
        record.state = State::Queued;
        record.since = now;
        inner.one_more_runnable();
    }
}

fn push(shared: &Shared, limits: &Limits, from: u64, to: u64, what: What) {
    let limit = limits.intervals();
    if limit > 0 && to > from {
        shared.ring.lock().unwrap_or_else(PoisonError::into_inner).push(Interval { from, to, what }, limit);
    }
}

impl Inner {
    fn resume(&mut self, number: u32, shared: &Shared, limits: &Limits, now: u64) -> Option<u32> {
        let record = &mut self.records[number as usize];
        let was = record.state;
        record.totals = record.totals_at(now);
        let since = record.since;
        let waited = record.waited.take();
        record.since = now;
        record.state = State::Running;
        record.totals.steps += 1;
        if was == State::Queued {
            if let Some((from, to)) = waited {
                push(shared, limits, from, to, What::Wait(number));
            }
            push(shared, limits, since, now, What::Queued(number));
            self.note_lag(now.saturating_sub(since));
        } else {
            push(shared, limits, since, now, What::Wait(number));
            self.one_more_runnable();
        }
        Some(number)
    }

    #[allow(clippy::too_many_arguments)]
    fn first_step(
        &mut self,
        described: Described,
        parent: Option<u32>,
        address: usize,
        key: usize,
        function: u32,
        shared: &Shared,
        limits: &Limits,
        now: u64,
    ) -> Option<u32> {
        if self.records.len() >= MAX_TASKS {
            self.full += 1;
            return None;
        }
        let number = self.records.len() as u32;
        let created = self.ready.remove(&address).filter(|&created| created <= now);
        let queued = created.map_or(0, |created| now - created);
        self.records.push(Record {
            name: described.name,
            parent,
            function,
            os_id: shared.os_id,
            began: created.unwrap_or(now),
            since: now,
            state: State::Running,
            waited: None,
            totals: Totals { queued, steps: 1, ..Totals::default() },
            code: if described.code == 0 { key } else { described.code },
            address,
        });
        self.by_address.insert(address, number);
        if let Some(created) = created {
            push(shared, limits, created, now, What::Queued(number));
            self.note_lag(queued);
        }
        self.one_more_runnable();
        for watch in &mut self.watches {
            watch.unfinished += 1;
            watch.max_unfinished = watch.max_unfinished.max(watch.unfinished);
        }
        Some(number)
    }

    fn one_more_runnable(&mut self) {
        self.runnable += 1;
        for watch in &mut self.watches {
            watch.max_runnable = watch.max_runnable.max(self.runnable);
        }
    }

    fn note_lag(&mut self, lag: u64) {
        for watch in &mut self.watches {
            watch.max_lag = watch.max_lag.max(lag);
        }
    }
}

#[derive(Default)]
struct Described {
    name: Vec<u8>,
    code: usize,
}

impl Described {
    fn of(task: &Bound<'_, PyAny>) -> PyResult<Self> {
        let name = super::names::wtf8(&task.call_method0("get_name")?)?;
        let code = match task.call_method0("get_coro")?.getattr_opt("cr_code")? {
            // The decorators' own coroutine is not traced; what it awaits stands for it.
            Some(code) if super::names::wtf8(&code.getattr("co_filename")?)?.ends_with(DECORATORS) => 0,
            Some(code) => code.as_ptr() as usize,
            None => 0,
        };
        Ok(Self { name, code })
    }
}

/// The running task of the calling thread's running loop.
fn current_task(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    let function = match ASYNCIO.get(py) {
        Some(function) => function,
        None => {
            let modules = py.import("sys").ok()?.getattr("modules").ok()?;
            // Only once the program has imported it: before, there are no tasks.
            let asyncio = modules.get_item("asyncio.tasks").ok()?;
            let function = asyncio.getattr("current_task").ok()?.unbind();
            ASYNCIO.get_or_init(py, || function)
        }
    };
    let task = function.bind(py).call0().ok()?;
    (!task.is_none()).then_some(task)
}

fn variable(py: Python<'_>) -> Option<&Bound<'_, PyAny>> {
    let made = VARIABLE.get_or_try_init(py, || {
        py.import("contextvars")?.getattr("ContextVar")?.call1(("spprof_task",)).map(Bound::unbind)
    });
    made.ok().map(|variable| variable.bind(py))
}

fn inherited(py: Python<'_>) -> Option<u64> {
    variable(py)?.call_method1("get", (0_u64,)).ok()?.extract().ok()
}

fn inherit(py: Python<'_>, number: u64) {
    if let Some(variable) = variable(py) {
        drop(variable.call_method1("set", (number,)));
    }
}
