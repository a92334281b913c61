//! What the API's callers and the manager thread share during a run.

use super::Stats;
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
pub struct Shared {
    pub stop: AtomicBool,
    names: Mutex<Names>,
    stats: Mutex<Stats>,
}

#[derive(Debug, Default)]
struct Names {
    /// Kernel thread id to (Python ident, name).
    known: HashMap<i32, (u64, Vec<u8>)>,
    started: Vec<i32>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new() -> Self {
        Self { stop: AtomicBool::new(false), names: Mutex::default(), stats: Mutex::default() }
    }

    /// Python tells that thread `tid` exists and what it is called.
    pub fn note_thread(&self, tid: i32, ident: u64, name: &[u8]) {
        let mut names = lock(&self.names);
        names.known.insert(tid, (ident, name.to_vec()));
        names.started.push(tid);
    }

    pub fn take_started(&self) -> Vec<i32> {
        std::mem::take(&mut lock(&self.names).started)
    }

    pub fn name_of(&self, tid: i32) -> Option<(u64, Vec<u8>)> {
        lock(&self.names).known.get(&tid).cloned()
    }

    pub fn forget_name(&self, tid: i32) {
        lock(&self.names).known.remove(&tid);
    }

    pub fn publish(&self, stats: Stats) {
        *lock(&self.stats) = stats;
    }

    pub fn stats(&self) -> Stats {
        lock(&self.stats).clone()
    }
}
