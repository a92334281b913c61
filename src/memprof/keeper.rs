//! The thread that keeps a heap run: names for new stacks while their code is alive, objects that were loaded meanwhile, the rate, the
//! history. Never takes the GIL; what it allocates is not counted.

use super::fronts::{MallocHooks, Uncounted};
use super::{State, relocations, state};
use crate::error::{Error, Result};
use crate::resolve::lifetime::{self, User};
use crate::sampler::signals::AllBlocked;
use spprof_heap::hooks::now_ns;
use spprof_heap::state::HEAP;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const ROUND: Duration = Duration::from_millis(20);
/// When nothing is sampled there are only objects to look for.
const IDLE_ROUND: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub struct Keeper {
    thread: JoinHandle<()>,
    ending: &'static Ending,
}

#[derive(Debug, Default)]
struct Ending {
    asked: AtomicBool,
    lock: Mutex<()>,
    bell: Condvar,
}

impl Keeper {
    pub fn start() -> Result<Self> {
        // Leaked: a forked child forgets its parent's.
        let ending: &'static Ending = Box::leak(Box::default());
        let _blocked = AllBlocked::new();
        let thread = std::thread::Builder::new()
            .name("spprof-heap".into())
            .stack_size(256 * 1024)
            .spawn(move || keep(ending))
            .map_err(|error| Error::os("cannot start the heap profiler's thread", &error))?;
        Ok(Self { thread, ending })
    }

    /// Ends the thread and waits until it has ended. The caller does not hold the state.
    pub fn end(self) {
        self.ending.asked.store(true, Ordering::Release);
        drop(self.ending.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.ending.bell.notify_all();
        // It has nothing to tell; a panic of it was told on stderr.
        let _ = self.thread.join();
    }
}

fn keep(ending: &'static Ending) {
    let _uncounted = Uncounted::new();
    let mut guard = ending.lock.lock().unwrap_or_else(PoisonError::into_inner);
    while !ending.asked.load(Ordering::Acquire) {
        let round = if HEAP.rate.load(Ordering::Relaxed) == 0 { IDLE_ROUND } else { ROUND };
        guard = ending.bell.wait_timeout(guard, round).unwrap_or_else(PoisonError::into_inner).0;
        if !ending.asked.load(Ordering::Acquire) {
            round_of_work();
        }
    }
}

fn round_of_work() {
    HEAP.relax(now_ns());
    state(|state| {
        state.look_for_objects();
        state.resolve();
        state.note_history(now_ns());
    });
    // The manager of a CPU run does this when there is one; it asks us to forget, by `lifetime::release`.
    if lifetime::is_used_by(User::Heap) && !lifetime::is_used_by(User::Cpu) {
        lifetime::nudge();
        if let Some(batch) = lifetime::take_aged() {
            lifetime::release(batch);
        }
    }
}

impl State {
    /// Hooks what was loaded since the last look.
    pub fn look_for_objects(&mut self) {
        if self.malloc != Some(MallocHooks::Relocations) || !self.is_hooked {
            return;
        }
        if relocations::loads() != self.pass.loads {
            self.pass = relocations::put_in();
        }
    }
}
