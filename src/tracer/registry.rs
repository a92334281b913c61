//! What the keys of a run's trees mean, and which threads have trees. One registry serves the events of the interpreter,
//! another the functions that programs mark themselves (`@trace` outside of any scope).
//!
//! The lock is never held while Python code may run: whoever has it waits for nobody.
#![forbid(unsafe_code)]

use super::filter::Filter;
use super::recorder::{Ring, Shared, What};
use super::tree::Tree;
use rustc_hash::FxHashMap;
use spprof_model::FunctionKind;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    Traced { function: u32, kind: FunctionKind },
    Unwanted,
}

/// A function as a trace knows it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The qualified name, as far as the interpreter tells it.
    pub name: Vec<u8>,
    pub file: Vec<u8>,
    pub module: Vec<u8>,
    pub first_line: u32,
    pub kind: FunctionKind,
    pub discriminator: u64,
    /// The object that the key is the address of, kept alive so that it stays so; 0: none.
    pub object: usize,
}

/// Limits of recorders: read at events, so in words of their own.
#[derive(Debug)]
pub struct Limits {
    epoch: AtomicU32,
    max_depth: AtomicU32,
    max_rows: AtomicU32,
    intervals: AtomicU32,
    min_ticks: AtomicU64,
    captures: AtomicBool,
}

impl Limits {
    const fn new() -> Self {
        Self {
            epoch: AtomicU32::new(0),
            max_depth: AtomicU32::new(u32::MAX),
            max_rows: AtomicU32::new(DEFAULT_ROWS),
            intervals: AtomicU32::new(0),
            min_ticks: AtomicU64::new(0),
            captures: AtomicBool::new(false),
        }
    }

    #[inline]
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    #[inline]
    pub fn max_depth(&self) -> usize {
        self.max_depth.load(Ordering::Relaxed) as usize
    }

    #[inline]
    pub fn max_rows(&self) -> u32 {
        self.max_rows.load(Ordering::Relaxed)
    }

    /// Intervals kept a thread; 0: no timeline.
    #[inline]
    pub fn intervals(&self) -> usize {
        self.intervals.load(Ordering::Relaxed) as usize
    }

    #[inline]
    pub fn min_ticks(&self) -> u64 {
        self.min_ticks.load(Ordering::Relaxed)
    }

    #[inline]
    pub fn captures(&self) -> bool {
        self.captures.load(Ordering::Relaxed)
    }

    pub fn set_captures(&self, captures: bool) {
        self.captures.store(captures, Ordering::Relaxed);
    }

    pub fn set(&self, max_depth: u32, max_rows: u32, intervals: u32, min_ticks: u64) {
        self.max_depth.store(max_depth, Ordering::Relaxed);
        self.max_rows.store(max_rows, Ordering::Relaxed);
        self.intervals.store(intervals, Ordering::Relaxed);
        self.min_ticks.store(min_ticks, Ordering::Relaxed);
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }
}

/// Rows of a thread's tree at most, where nobody says otherwise.
pub const DEFAULT_ROWS: u32 = 500_000;
/// Of threads that ended, intervals and threads kept at most.
const ENDED_INTERVALS: usize = 1_000_000;
const ENDED_THREADS: usize = 1000;
/// Functions at most: programs may compile without end, and every code object is kept.
const MAX_FUNCTIONS: usize = 200_000;

#[derive(Default, Debug)]
pub struct Inner {
    keys: FxHashMap<usize, u32>,
    pub functions: Vec<Entry>,
    pub threads: Vec<Arc<Shared>>,
    /// The trees of threads that ended.
    pub ended: Tree,
    /// The timelines of threads that ended, the newest; their rows are those of `ended`.
    pub ended_threads: VecDeque<EndedThread>,
    pub ended_dropped: u64,
    /// What open scopes want; a function that none wants is switched off.
    pub filters: Vec<(u64, Filter)>,
    pub functions_full: u64,
}

#[derive(Debug)]
pub struct Registry {
    inner: Mutex<Inner>,
    pub limits: Limits,
}

/// The interpreter's events.
pub static EVENTS: Registry = Registry::new();
/// Functions marked by the program.
pub static MARKS: Registry = Registry::new();

impl Registry {
    const fn new() -> Self {
        let inner = Inner {
            keys: FxHashMap::with_hasher(rustc_hash::FxBuildHasher),
            functions: Vec::new(),
            threads: Vec::new(),
            ended: Tree::new(),
            ended_threads: VecDeque::new(),
            ended_dropped: 0,
            filters: Vec::new(),
            functions_full: 0,
        };
        Self { inner: Mutex::new(inner), limits: Limits::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a key stands for, if it was seen before.
    pub fn find(&self, key: usize) -> Option<Known> {
        let inner = self.lock();
        inner.keys.get(&key).map(|&function| inner.known(function))
    }

    /// The same, as if every scope wanted it.
    pub fn find_whatever(&self, key: usize) -> Option<Known> {
        let inner = self.lock();
        let function = *inner.keys.get(&key)?;
        Some(Known::Traced { function, kind: inner.functions[function as usize].kind })
    }

    /// A key seen for the first time. Says whether the entry's object is kept from now on.
    pub fn insert(&self, key: usize, entry: Entry) -> (Known, bool) {
        let mut inner = self.lock();
        if let Some(&function) = inner.keys.get(&key) {
            return (inner.known(function), false);
        }
        if inner.functions.len() >= MAX_FUNCTIONS {
            inner.functions_full += 1;
            return (Known::Unwanted, false);
        }
        let function = inner.functions.len() as u32;
        inner.functions.push(entry);
        inner.keys.insert(key, function);
        (inner.known(function), true)
    }

    /// Qualified names that became known later, by key.
    pub fn rename(&self, names: Vec<(usize, Vec<u8>)>) {
        let mut inner = self.lock();
        for (key, name) in names {
            if let Some(&function) = inner.keys.get(&key) {
                inner.functions[function as usize].name = name;
            }
        }
    }

    /// A thread with a tree ends.
    pub fn end_thread(&self, shared: &Arc<Shared>) {
        let mut inner = self.lock();
        let before = inner.threads.len();
        inner.threads.retain(|known| !Arc::ptr_eq(known, shared));
        if inner.threads.len() < before {
            let nodes = inner.ended.add(&shared.rows.copy());
            inner.keep_timeline(shared, &nodes);
        }
    }

    /// Forgets everything; gives the objects that were kept.
    pub fn clear(&self) -> Vec<usize> {
        let mut inner = self.lock();
        let inner = std::mem::take(&mut *inner);
        inner.functions.iter().map(|entry| entry.object).filter(|&object| object != 0).collect()
    }
}

/// The timeline of a thread that ended.
#[derive(Debug)]
pub struct EndedThread {
    pub os_id: u64,
    pub python_ident: u64,
    pub began: u64,
    pub last: u64,
    pub ring: Ring,
}

impl Inner {
    fn keep_timeline(&mut self, shared: &Shared, nodes: &[u32]) {
        let mut ring = std::mem::take(&mut *shared.ring.lock().unwrap_or_else(PoisonError::into_inner));
        if ring.intervals.is_empty() {
            return;
        }
        for interval in &mut ring.intervals {
            if let What::Call(row) = &mut interval.what {
                *row = nodes[*row as usize];
            }
        }
        let (began, last) = (shared.began, shared.last_event());
        let (os_id, python_ident) = (shared.os_id, shared.python_ident);
        self.ended_threads.push_back(EndedThread { os_id, python_ident, began, last, ring });
        let mut kept: usize = self.ended_threads.iter().map(|thread| thread.ring.intervals.len()).sum();
        while kept > ENDED_INTERVALS || self.ended_threads.len() > ENDED_THREADS {
            let Some(oldest) = self.ended_threads.pop_front() else { break };
            kept -= oldest.ring.intervals.len();
            self.ended_dropped += oldest.ring.intervals.len() as u64 + oldest.ring.dropped;
        }
    }

    fn known(&self, function: u32) -> Known {
        let entry = &self.functions[function as usize];
        if self.wants(entry) { Known::Traced { function, kind: entry.kind } } else { Known::Unwanted }
    }

    fn wants(&self, entry: &Entry) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|(_, filter)| entry.wanted_by(filter))
    }
}

impl Entry {
    #[must_use]
    pub fn wanted_by(&self, filter: &Filter) -> bool {
        filter.wants(&String::from_utf8_lossy(&self.module), &String::from_utf8_lossy(&self.file))
    }
}
