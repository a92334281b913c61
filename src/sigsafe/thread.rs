//! What the sampler knows of one thread. Lives in a pool that is never unmapped, so a late signal finds valid memory.
//!
//! The manager thread prepares a state, arms the thread's source of signals with its address, and takes it back only when the
//! thread is gone (then nothing can be pending for it). The handler is the single producer of `ring` and the only
//! user of `own`.

use crate::pywalk::Verified;
use crate::ring::{Ring, Word};
use crate::stack::Stack;
use crate::unwind::Trace;
use crate::unwind::map::Cache;
use crate::unwind::merge::Merged;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Why a sample or a part of it was lost, counted by the handler.
#[derive(Default, Debug)]
pub struct Losses {
    /// The ring was full: the record was dropped, its weight goes to `dropped_ns`.
    pub ring_full: AtomicU64,
    pub dropped_ns: AtomicU64,
    /// The chain of frames could not be followed to its root: Python part unresolved.
    pub broken_stack: AtomicU64,
    /// Deeper than the frame buffer: the middle is left out.
    pub truncated: AtomicU64,
    /// The walk was restarted from the calling C frame (CPython 3.11/3.12 call window).
    pub restarted: AtomicU64,
    /// A signal so soon after a long handler run that the thread would have no time for its own work. Its time is not lost: the
    /// next sample claims it.
    pub rested: AtomicU64,
    /// A signal that belonged to an earlier thread or session.
    pub stale: AtomicU64,
    /// The native frames end in code without unwind information.
    pub native_no_rule: AtomicU64,
    /// They end where the stack is not as that information says.
    pub native_bad_stack: AtomicU64,
    pub native_too_deep: AtomicU64,
    /// Native frames left out of deep stacks.
    pub native_omitted: AtomicU64,
    /// None were looked for, because a fault would not have been caught.
    pub native_untried: AtomicU64,
}

/// How long handler runs took, in classes of equal width; the last class also holds everything longer.
#[derive(Debug)]
pub struct Durations([AtomicU32; Self::CLASSES]);

impl Durations {
    pub const CLASSES: usize = 64;
    pub const CLASS_NS: u64 = 64;

    const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; Self::CLASSES])
    }

    #[inline(always)]
    pub fn add(&self, ns: u64) {
        if let Some(count) = self.0.get((ns / Self::CLASS_NS) as usize).or(self.0.last()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts, shortest class first.
    pub fn counts(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().map(|count| u64::from(count.load(Ordering::Relaxed)))
    }
}

/// What only the handler touches.
#[derive(Debug)]
pub(crate) struct Own {
    stacks: [Stack; 2],
    /// Which of the two is the stack of the last record; the other is built next.
    last: bool,
    pub verified: Verified,
}

impl Own {
    /// The stack to build, the stack of the last record, and the addresses known to be code.
    #[inline(always)]
    pub fn parts(&mut self) -> (&mut Stack, &Stack, &mut Verified) {
        let [one, two] = &mut self.stacks;
        if self.last { (one, two, &mut self.verified) } else { (two, one, &mut self.verified) }
    }

    /// The stack just built becomes the last.
    #[inline(always)]
    pub fn turn(&mut self) {
        self.last = !self.last;
    }
}

/// What only the handler touches, in a run that captures native frames. All-zero bytes are a valid one, without content.
#[derive(Debug, Default)]
#[repr(C)]
pub struct NativeOwn {
    pub(crate) cache: Cache,
    pub(crate) trace: Trace,
    stacks: [Merged; 2],
    last: bool,
}

impl NativeOwn {
    /// The native frames, the stack to build and the stack of the last record.
    #[inline(always)]
    pub(crate) fn parts(&mut self) -> (&Trace, &mut Merged, &Merged) {
        let [one, two] = &mut self.stacks;
        if self.last { (&self.trace, one, two) } else { (&self.trace, two, one) }
    }

    /// The stack just built becomes the last.
    #[inline(always)]
    pub(crate) fn turn(&mut self) {
        self.last = !self.last;
    }
}

#[derive(Debug)]
#[repr(C, align(128))]
pub struct ThreadState {
    /// Kernel thread id; 0 while the state is unused.
    pub tid: AtomicI32,
    /// Between a signal's sending and its handling: at most one sample is asked for at a time.
    pub pending: AtomicBool,
    /// The thread's CPU clock at its previous sample (or when sampling began).
    pub last_cpu_ns: AtomicU64,
    /// The CPU clock at which the thread has worked for as long as its last handler run took: before that none is taken.
    pub rest_until_cpu_ns: AtomicU64,
    /// CLOCK_MONOTONIC at its previous sample.
    pub last_wall_ns: AtomicU64,
    /// Handler entries and exits: equal means no handler is inside.
    pub entered: AtomicU64,
    pub exited: AtomicU64,
    /// The Python thread state the last handler run saw; a hint for the remote walk, which verifies it.
    pub tstate: AtomicUsize,
    pub samples: AtomicU64,
    pub handler_ns: AtomicU64,
    pub durations: Durations,
    pub weight_ns: AtomicU64,
    pub losses: Losses,
    /// The release generation the last record was captured under.
    pub(crate) last_generation: AtomicU64,
    pub(crate) own: UnsafeCell<Own>,
    /// Null, or the handler's alone, as `own` is.
    native: AtomicPtr<NativeOwn>,
    pub ring: Ring,
}

// SAFETY: `own` is touched by the handler only, which does not nest (its signal is masked inside it) and
// runs on one thread; everything else is atomic or `Sync`.
unsafe impl Sync for ThreadState {}

impl ThreadState {
    /// # Safety
    /// As [`Ring::new`] for `ring_words`.
    #[must_use]
    pub unsafe fn new(ring_words: *mut Word) -> Self {
        Self {
            tid: AtomicI32::new(0),
            pending: AtomicBool::new(false),
            last_cpu_ns: AtomicU64::new(0),
            rest_until_cpu_ns: AtomicU64::new(0),
            last_wall_ns: AtomicU64::new(0),
            entered: AtomicU64::new(0),
            exited: AtomicU64::new(0),
            tstate: AtomicUsize::new(0),
            samples: AtomicU64::new(0),
            handler_ns: AtomicU64::new(0),
            durations: Durations::new(),
            weight_ns: AtomicU64::new(0),
            losses: Losses::default(),
            last_generation: AtomicU64::new(u64::MAX),
            own: UnsafeCell::new(Own { stacks: [Stack::new(), Stack::new()], last: false, verified: Verified::new() }),
            native: AtomicPtr::new(core::ptr::null_mut()),
            // SAFETY: passed on to the caller.
            ring: unsafe { Ring::new(ring_words) },
        }
    }

    /// Gives the handler what it needs to capture native frames, before it first runs.
    ///
    /// # Safety
    /// `own` points to a valid `NativeOwn` that stays mapped for ever and that nobody else uses.
    pub unsafe fn set_native(&self, own: *mut NativeOwn) {
        self.native.store(own, Ordering::Release);
    }

    /// # Safety
    /// Only for the handler of this state's thread, once at a time.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn native(&self) -> Option<&mut NativeOwn> {
        // SAFETY: `set_native` promised that only this handler uses it.
        unsafe { self.native.load(Ordering::Acquire).as_mut() }
    }

    /// True when no handler is running on this state.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let exited = self.exited.load(Ordering::Acquire);
        // ORDER: `exited` first: an entry after it only makes the answer "not quiet". SeqCst: see `handler::sample`.
        self.entered.load(Ordering::SeqCst) == exited
    }

    /// Forgets the thread; only when no handler can run on this state any more.
    pub fn reset(&self) {
        for counter in [
            &self.last_cpu_ns,
            &self.rest_until_cpu_ns,
            &self.last_wall_ns,
            &self.samples,
            &self.handler_ns,
            &self.weight_ns,
            &self.losses.ring_full,
            &self.losses.dropped_ns,
            &self.losses.broken_stack,
            &self.losses.truncated,
            &self.losses.restarted,
            &self.losses.rested,
            &self.losses.stale,
            &self.losses.native_no_rule,
            &self.losses.native_bad_stack,
            &self.losses.native_too_deep,
            &self.losses.native_omitted,
            &self.losses.native_untried,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
        for count in &self.durations.0 {
            count.store(0, Ordering::Relaxed);
        }
        self.last_generation.store(u64::MAX, Ordering::Relaxed);
        self.tstate.store(0, Ordering::Relaxed);
        self.pending.store(false, Ordering::Relaxed);
        self.exited.store(self.entered.load(Ordering::Relaxed), Ordering::Relaxed);
        self.tid.store(0, Ordering::Release);
    }
}
