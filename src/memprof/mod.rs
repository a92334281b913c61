//! A heap run: fronts, tables, the keeper's thread, snapshots. Composition root of `heap`, `sampler` and `resolve`.
//!
//! `start`, `stop` and `shutdown` are called with the GIL (an attached thread state); snapshots and figures without. Once
//! started, hooks stay in until `shutdown`, so that frees are followed after `stop`; the tables are never unmapped.

mod fork;
pub mod fronts;
mod history;
mod keeper;
mod names;
mod python;
mod relocations;
mod snapshot;

pub use fronts::Uncounted;
pub use history::Point;
pub use snapshot::{Figures, HeapSample, HeapSnapshot, Site, Total, figures, take};

use crate::error::{Error, Result};
use crate::resolve::lifetime::{self, User};
use crate::sampler::{pool, runtime};
use fronts::MallocHooks;
use history::History;
use keeper::Keeper;
use names::{Names, OVERFLOW};
use spprof_heap::hooks::now_ns;
use spprof_heap::stacks::MAX_STACKS;
use spprof_heap::state::{HEAP, Tables};
use spprof_sigsafe::stack::Stack;
use spprof_sigsafe::zone::ZONE;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Mean distance of two samples in bytes, at least 1.
    pub rate_bytes: u64,
    /// Beyond it the rate is made coarser; 0: no bound.
    pub max_samples_per_second: u64,
    /// Different stacks at most; `None`: all the table holds.
    pub max_stacks: Option<u32>,
}

/// What is known beside the tables.
#[derive(Default)]
pub struct State {
    names: Option<Names>,
    history: History,
    keeper: Option<Keeper>,
    malloc: Option<MallocHooks>,
    /// The hooks are in.
    is_hooked: bool,
    /// Sampling is on.
    is_running: bool,
    is_shut_down: bool,
    pass: relocations::Pass,
    /// The largest size each of CPython's domains serves itself: raw, mem, object.
    splits: Vec<usize>,
    notes: Vec<String>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<State>> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the state to `work`. Not to be nested, and no Python code runs within.
fn state<T>(work: impl FnOnce(&mut State) -> T) -> T {
    work(lock().get_or_insert_default())
}

fn tables() -> Result<&'static Tables> {
    if let Some(tables) = HEAP.tables() {
        return Ok(tables);
    }
    let memory = pool::reserve(size_of::<Tables>(), "the tables of the heap profiler")?.cast::<Tables>();
    // SAFETY: zeroed memory that stays mapped for ever; page-aligned, which is more than the tables need.
    unsafe { HEAP.set_tables(memory) };
    HEAP.tables().ok_or_else(|| Error::runtime("the tables of the heap profiler cannot be used"))
}

/// Starts sampling allocations. Needs the GIL.
pub fn start(options: Options) -> Result<()> {
    // Before the lock: what it allocates in here is the profiler's own.
    let result = state(|state| {
        if state.is_shut_down {
            return Err(Error::runtime("Cannot restart after shutdown"));
        }
        if state.is_running {
            return Err(Error::runtime("Memory profiler is already running"));
        }
        state.begin(options)
    });
    result.map_err(|error| Error { message: format!("Failed to start memory profiler: {}", error.message), ..error })
}

impl State {
    fn begin(&mut self, options: Options) -> Result<()> {
        let runtime = runtime::runtime()?;
        let tables = tables()?;
        ZONE.set_runtime(runtime);
        lifetime::install(User::Heap, runtime.layout, runtime.code_type)?;
        lifetime::before_release(forget);
        let begun = self.hook(runtime.layout.free_threaded).and_then(|()| match self.keeper {
            Some(_) => Ok(()),
            None => Keeper::start().map(|keeper| self.keeper = Some(keeper)),
        });
        if let Err(error) = begun {
            lifetime::uninstall(User::Heap, runtime.layout, runtime.code_type);
            return Err(error);
        }
        fork::register();
        match &mut self.names {
            Some(names) => names.renew(runtime),
            None => self.names = Some(Names::new(runtime)),
        }
        let run = HEAP.run.fetch_add(1, Ordering::AcqRel) + 1;
        HEAP.overflow.store(tables.stacks.intern(run, OVERFLOW, &Stack::new(), MAX_STACKS as u32), Ordering::Release);
        // One entry is the one for those without room.
        let most = options.max_stacks.unwrap_or(u32::MAX).min(MAX_STACKS as u32 - 1);
        HEAP.stack_limit.store(most, Ordering::Release);
        HEAP.max_per_second.store(options.max_samples_per_second, Ordering::Release);
        HEAP.base_rate.store(options.rate_bytes, Ordering::Release);
        HEAP.walks.store(true, Ordering::Release);
        self.note_history(now_ns());
        HEAP.set_rate(options.rate_bytes);
        self.is_running = true;
        Ok(())
    }

    /// Puts the hooks in, once in the life of a process.
    fn hook(&mut self, free_threaded: bool) -> Result<()> {
        if self.is_hooked {
            return Ok(());
        }
        let own = fronts::in_process();
        fronts::find_real();
        fronts::attach(own);
        let mut malloc = own;
        if let Some(preloaded) = fronts::preloaded()? {
            if fronts::is_in_front(preloaded) {
                fronts::attach(preloaded);
                malloc = preloaded;
                self.malloc = Some(MallocHooks::Preloaded);
            } else {
                self.notes.push(
                    "libspprof_alloc.so is loaded, but another allocator comes before it; preload it first".to_owned(),
                );
            }
        }
        if self.malloc != Some(MallocHooks::Preloaded) {
            self.malloc = Some(MallocHooks::Relocations);
            self.pass = relocations::put_in();
            self.notes.push(
                "native allocations are seen from start() on, and those of libraries loaded later within 20 ms of their \
                 loading; `spprof run --memory` or LD_PRELOAD sees all"
                    .to_owned(),
            );
            if self.pass.foreign > 0 {
                self.notes
                    .push(format!("{} places that call an allocator of their own are not seen", self.pass.foreign));
            }
        }
        fronts::set_malloc_front(malloc);
        self.splits = python::put_in(malloc, free_threaded)?;
        self.is_hooked = true;
        Ok(())
    }

    fn resolve(&mut self) {
        if let (Some(names), Some(tables)) = (&mut self.names, HEAP.tables())
            && lifetime::is_used_by(User::Heap)
        {
            names.resolve(&tables.stacks);
        }
    }

    fn note_history(&mut self, time_ns: u64) {
        let totals = &HEAP.totals;
        let load = |total: &std::sync::atomic::AtomicU64| total.load(Ordering::Relaxed);
        let alloc_bytes = load(&totals.alloc_bytes);
        self.history.note(Point {
            time_ns,
            live_bytes: alloc_bytes.saturating_sub(load(&totals.freed_bytes)),
            live_count: load(&totals.alloc_count).saturating_sub(load(&totals.freed_count)),
            alloc_bytes,
        });
    }
}

/// Dead code objects are about to be freed.
fn forget(batch: &crate::resolve::limbo::Batch) {
    let _uncounted = Uncounted::new();
    state(|state| {
        if let (Some(names), Some(tables)) = (&mut state.names, HEAP.tables()) {
            names.forget(&tables.stacks, batch);
        }
    });
}

/// Samples no more; frees are followed on. Needs the GIL. Nothing to do is no error.
pub fn stop() {
    let was_running = state(|state| {
        let was_running = std::mem::take(&mut state.is_running);
        if was_running {
            HEAP.set_rate(0);
            state.resolve();
        }
        was_running
    });
    if was_running && let Ok(runtime) = runtime::runtime() {
        // Without the lock: it frees code objects, which runs Python code.
        lifetime::uninstall(User::Heap, runtime.layout, runtime.code_type);
    }
}

/// Ends it for good: everything is as if we had never been there, but for the tables. Needs the GIL.
pub fn shutdown() -> Result<()> {
    stop();
    let (was_hooked, keeper) = state(|state| {
        state.is_shut_down = true;
        (std::mem::take(&mut state.is_hooked), state.keeper.take())
    });
    if let Some(keeper) = keeper {
        keeper.end();
    }
    if was_hooked {
        HEAP.walks.store(false, Ordering::Release);
        python::take_out()?;
        relocations::take_out();
        fronts::detach();
    }
    Ok(())
}

/// The interpreter is ending: no frame is looked at any more, and our thread ends. Needs the GIL.
pub fn at_exit() {
    stop();
    HEAP.walks.store(false, Ordering::Release);
    if let Some(keeper) = state(|state| state.keeper.take()) {
        keeper.end();
    }
}

/// In a forked child, with the GIL: takes up the parent's run.
pub fn after_fork_child() -> Result<()> {
    if !state(|state| std::mem::take(&mut state.is_running)) {
        return Ok(());
    }
    let rate_bytes = HEAP.base_rate.load(Ordering::Acquire);
    let max_samples_per_second = HEAP.max_per_second.load(Ordering::Acquire);
    let max_stacks = Some(HEAP.stack_limit.load(Ordering::Acquire));
    state(|state| state.begin(Options { rate_bytes, max_samples_per_second, max_stacks }))
}

/// Whether sampling is on, whether it ever was, and whether it was shut down.
#[must_use]
pub fn phase() -> (bool, bool, bool) {
    state(|state| (state.is_running, state.names.is_some(), state.is_shut_down))
}

/// Bytes for the names of stacks, from malloc and not counted.
#[must_use]
pub fn names_bytes() -> u64 {
    state(|state| state.names.as_ref().map_or(0, Names::memory_bytes))
}

/// A collection of the garbage collector ended.
pub fn note_gc() {
    HEAP.gc_epoch.fetch_add(1, Ordering::Relaxed);
}
