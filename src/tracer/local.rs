//! Each thread's recorder: made at its first event of a run, given up when the thread ends.

use super::clock::ticks;
use super::recorder::Recorder;
use super::registry::{EVENTS, MARKS, Registry};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of the run that events belong to; recorders of another one are stale.
static RUN: AtomicU64 = AtomicU64::new(0);

struct Local {
    registry: &'static Registry,
    run: u64,
    /// Between the two sides of a fork.
    paused: bool,
    recorder: Option<Recorder>,
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Some(recorder) = self.recorder.take() {
            self.registry.end_thread(&recorder.shared);
        }
    }
}

thread_local! {
    static OF_EVENTS: RefCell<Local> = const { RefCell::new(Local { registry: &EVENTS, run: 0, paused: false, recorder: None }) };
    static OF_MARKS: RefCell<Local> = const { RefCell::new(Local { registry: &MARKS, run: 0, paused: false, recorder: None }) };
}

/// A new run: all recorders of the one before are stale.
pub fn begin_run() {
    RUN.fetch_add(1, Ordering::AcqRel);
}

/// The calling thread's recorder of events. `None` for an event that happens inside the handling of another, because that
/// runs Python code, and when the thread is about to end.
#[inline]
pub fn with_events<R>(act: impl FnOnce(&mut Recorder) -> R) -> Option<R> {
    let run = RUN.load(Ordering::Relaxed);
    let act = |local: &RefCell<Local>| {
        let mut local = local.try_borrow_mut().ok()?;
        (!local.paused).then(|| act(local.current(run)))
    };
    OF_EVENTS.try_with(act).ok().flatten()
}

/// The calling thread's recorder of marked functions.
pub fn with_marks<R>(act: impl FnOnce(&mut Recorder) -> R) -> Option<R> {
    OF_MARKS.try_with(|local| Some(act(local.try_borrow_mut().ok()?.current(0)))).ok().flatten()
}

/// Whether the calling thread's events go by unheard.
pub fn pause(paused: bool) {
    // In a thread that is about to end there are no more events.
    let _ = OF_EVENTS.try_with(|local| {
        if let Ok(mut local) = local.try_borrow_mut() {
            local.paused = paused;
        }
    });
}

impl Local {
    #[inline]
    fn current(&mut self, run: u64) -> &mut Recorder {
        if self.run != run {
            self.recorder = None;
            self.run = run;
        }
        let registry = self.registry;
        self.recorder.get_or_insert_with(|| make(registry))
    }
}

#[cold]
fn make(registry: &'static Registry) -> Recorder {
    let recorder = Recorder::new(&registry.limits, os_id(), ident(), ticks());
    registry.lock().threads.push(Arc::clone(&recorder.shared));
    recorder
}

fn os_id() -> u64 {
    // SAFETY: no preconditions, and cannot fail.
    unsafe { libc::syscall(libc::SYS_gettid) as u64 }
}

/// What `threading.get_ident()` gives.
fn ident() -> u64 {
    // SAFETY: no preconditions.
    unsafe { libc::pthread_self() as u64 }
}
