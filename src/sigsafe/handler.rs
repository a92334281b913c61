//! The sampling signal's handler: from the kernel's call to a record in the thread's ring.
//!
//! Runs on the sampled thread, at any instruction, with all signals but SIGSEGV and SIGBUS blocked. Its stack use is
//! small: stacks are built in the thread's state.

use crate::layout::FrameChain;
use crate::pywalk::{Interrupted, WalkOutcome, walk};
use crate::stack::Stack;
use crate::sys::{self, ErrnoGuard, clock_ns, pthread_self};
use crate::thread::{NativeOwn, ThreadState};
use crate::unwind::map::Map;
use crate::unwind::merge::{merge, merge_by_code};
use crate::unwind::rule::Registers;
use crate::unwind::{Ending, Trace};
use crate::zone::{NotOurs, Runtime, ZONE};
use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering;

/// Facts about a sample that are not frames.
pub mod flags {
    /// The thread had a Python thread state.
    pub const PYTHON: u64 = 1;
    /// It held the GIL (or, free-threaded, was attached).
    pub const ATTACHED: u64 = 2;
    /// The Python frames could not be followed.
    pub const BROKEN: u64 = 4;
    /// Native frames were looked for, and are among the others as far as they were found.
    pub const NATIVE: u64 = 8;
    /// They do not go to the thread's start.
    pub const NATIVE_ENDS: u64 = 16;
}

/// A handler that seems to take longer than this is timed by the thread's CPU clock.
const PREEMPTED_NS: u64 = 10_000;

/// Words of a record before its frames: header, time, weight, omitted frames and before which one (see [`Omitted`]).
pub const HEADER_WORDS: usize = 4;

/// A record's first word. `shared` frames at the root end are those of the thread's previous record.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub flags: u64,
    pub frames: u64,
    pub shared: u64,
}

impl Header {
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        (self.flags & 0xffff) | ((self.frames & 0xffff) << 16) | ((self.shared & 0xffff) << 32)
    }

    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self { flags: word & 0xffff, frames: (word >> 16) & 0xffff, shared: (word >> 32) & 0xffff }
    }
}

/// The thread state of the running thread, or 0 when it is not a Python thread; and whether it is attached.
#[inline(always)]
#[must_use]
pub fn current_tstate(runtime: &Runtime) -> (usize, bool) {
    // SAFETY: both getters only read a thread-specific slot or a static; they are documented to need no GIL.
    let (own, current) = unsafe { ((runtime.gilstate)(), (runtime.unchecked)()) };
    if runtime.layout.minor >= 12 {
        // CPYTHON 3.12+: a sub-interpreter's state may be current while the gilstate slot follows it.
        return if current != 0 { (current, true) } else { (own, false) };
    }
    // CPYTHON 3.9-3.11: `current` is whoever holds the GIL; it is ours only if it says so.
    let thread_id = runtime.layout.tstate_thread_id;
    let is_ours = current != 0 && crate::mem::load_word(current.wrapping_add(thread_id)) == Some(pthread_self());
    if is_ours { (current, true) } else { (own, false) }
}

/// A record's fourth word: how many Python frames are missing, and before which of the record's frames.
#[derive(Clone, Copy, Debug)]
pub struct Omitted {
    pub frames: u32,
    pub gap: u32,
}

impl Omitted {
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u64 {
        self.frames as u64 | (self.gap as u64) << 32
    }

    #[inline(always)]
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self { frames: word as u32, gap: (word >> 32) as u32 }
    }
}

#[inline(always)]
fn interrupted(context: *mut c_void) -> Interrupted {
    if context.is_null() {
        return Interrupted::default();
    }
    // SAFETY: the kernel passes a ucontext to SA_SIGINFO handlers.
    #[cfg(target_arch = "x86_64")]
    let pc = unsafe {
        let gregs = &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        gregs.get(libc::REG_RIP as usize).copied().unwrap_or(0) as usize
    };
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    let pc = unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.pc as usize };
    Interrupted { pc, note_entries: false }
}

/// True when a guarded load may fault here: our SIGSEGV handler is in place and not blocked.
#[inline(always)]
fn faults_are_caught(runtime: &Runtime, native: bool, context: *mut c_void) -> bool {
    if context.is_null() {
        return true;
    }
    // SAFETY: the kernel's ucontext, whose mask is the interrupted thread's; sigismember only reads it.
    let blocked = unsafe {
        let mask = &raw const (*context.cast::<libc::ucontext_t>()).uc_sigmask;
        libc::sigismember(mask, libc::SIGSEGV) == 1 || libc::sigismember(mask, libc::SIGBUS) == 1
    };
    if blocked {
        return false;
    }
    // A host that has just replaced our handler (faulthandler.enable()) is noticed by the manager only later.
    match runtime.layout.chain {
        // CPYTHON 3.11, 3.12: the only versions whose chain can hold a dead pointer.
        FrameChain::CFrameEntry | FrameChain::CFrameShim => fault_handler_is_ours(),
        // A native stack can hold anything.
        FrameChain::FrameObjects | FrameChain::CurrentFrame => !native || fault_handler_is_ours(),
    }
}

#[inline(always)]
fn fault_handler_is_ours() -> bool {
    sys::handler_of(libc::SIGSEGV) == ZONE.fault_handler.load(Ordering::Acquire)
}

/// The handler of the sampling signal.
///
/// # Safety
/// Only the kernel calls it, through `sigaction` with SA_SIGINFO.
#[cfg_attr(rtsan, sanitize(realtime = "nonblocking"))]
pub unsafe extern "C" fn on_sample(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let _errno = ErrnoGuard::save();
    // SAFETY: SA_SIGINFO passes a valid siginfo.
    let state = unsafe { find_state(info) };
    match state {
        Ok(Some(state)) => sample(state, context),
        Ok(None) => {}
        // SAFETY: the arguments are the kernel's.
        Err(NotOurs) => unsafe { pass_on(signal, info, context) },
    }
}

/// The state a signal of ours carries; `None` when it comes too late to be a sample.
#[inline(always)]
unsafe fn find_state(info: *mut libc::siginfo_t) -> Result<Option<&'static ThreadState>, NotOurs> {
    const POLL_IN: c_int = 1;
    // SAFETY: the caller passes the kernel's siginfo; the fields read are those of the si_code at hand.
    unsafe {
        match (*info).si_code {
            libc::SI_TIMER | libc::SI_QUEUE => {
                ZONE.state_at((*info).si_value().sival_ptr as usize).map(Some).ok_or(NotOurs)
            }
            // A perf event's overflow, by F_SETSIG: `si_fd` follows `si_band` in the SIGPOLL layout.
            POLL_IN => {
                const SI_FD: usize = 24;
                ZONE.state_of_fd(info.cast::<u8>().add(SI_FD).cast::<c_int>().read())
            }
            _ => Err(NotOurs),
        }
    }
}

/// Not ours: to the handler that was there before us, or nowhere (the signal's default is to be ignored).
#[cold]
unsafe fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(chained) = ZONE.chained_handler() else {
        ZONE.foreign.fetch_add(1, Ordering::Relaxed);
        return;
    };
    // SAFETY: `chained` came out of sigaction, with the flag that says which of the two types it has.
    unsafe {
        if ZONE.chained_is_siginfo.load(Ordering::Acquire) {
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = core::mem::transmute(chained);
            handler(signal, info, context);
        } else {
            let handler: extern "C" fn(c_int) = core::mem::transmute(chained);
            handler(signal);
        }
    }
}

/// Takes one sample of the running thread.
fn sample(state: &ThreadState, context: *mut c_void) {
    state.entered.fetch_add(1, Ordering::SeqCst);
    state.pending.store(false, Ordering::Release);
    // ORDER: `active` is read after `entered` is raised, and a stop reads them the other way round, all SeqCst: a stop that
    // saw us quiet is seen by us as inactive.
    if ZONE.active.load(Ordering::SeqCst)
        && let Some(runtime) = ZONE.runtime()
    {
        let begin = clock_ns(libc::CLOCK_MONOTONIC);
        capture(state, runtime, context, begin);
        let end = clock_ns(libc::CLOCK_MONOTONIC);
        let took = end.wrapping_sub(begin);
        // Longer than any handler: the thread was preempted inside it. The CPU clock tells what was ours.
        let took = if took > PREEMPTED_NS {
            let cpu = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
            let own = cpu.saturating_sub(state.last_cpu_ns.load(Ordering::Relaxed)).min(took);
            // Sampling never takes more than half of a thread's time, however deep its stack and short the interval.
            state.rest_until_cpu_ns.store(cpu.wrapping_add(own), Ordering::Relaxed);
            own
        } else {
            took
        };
        state.handler_ns.fetch_add(took, Ordering::Relaxed);
        state.durations.add(took);
    }
    state.exited.fetch_add(1, Ordering::Release);
}

fn capture(state: &ThreadState, runtime: &Runtime, context: *mut c_void, now: u64) {
    let cpu = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
    let last_cpu = state.last_cpu_ns.load(Ordering::Relaxed);
    if cpu < last_cpu {
        // The thread id was taken over by a younger thread before the manager noticed.
        state.losses.stale.fetch_add(1, Ordering::Relaxed);
        return;
    }
    if cpu < state.rest_until_cpu_ns.load(Ordering::Relaxed) {
        state.losses.rested.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let weight = if ZONE.wall.load(Ordering::Relaxed) {
        now.saturating_sub(state.last_wall_ns.swap(now, Ordering::AcqRel))
    } else {
        cpu.wrapping_sub(last_cpu)
    };
    state.last_cpu_ns.store(cpu, Ordering::Relaxed);

    let (tstate, attached) = current_tstate(runtime);
    // SAFETY: only this handler, on this thread, uses `own` (see ThreadState).
    let own = unsafe { &mut *state.own.get() };
    let (scratch, last, verified) = own.parts();
    verified.renew(ZONE.release_generation.load(Ordering::Acquire));
    // SAFETY: as for `own`.
    let native = ZONE.native().and_then(|map| unsafe { state.native() }.map(|own| (map, own)));
    let is_safe = faults_are_caught(runtime, native.is_some(), context);
    let mut flag = 0;
    scratch.clear();
    if tstate != 0 {
        state.tstate.store(tstate, Ordering::Relaxed);
        flag |= flags::PYTHON | if attached { flags::ATTACHED } else { 0 };
        let outcome = if is_safe {
            let at = Interrupted { note_entries: native.is_some(), ..interrupted(context) };
            walk(runtime, verified, tstate, at, scratch)
        } else {
            WalkOutcome::Broken
        };
        match outcome {
            WalkOutcome::Complete => {}
            WalkOutcome::Restarted => {
                state.losses.restarted.fetch_add(1, Ordering::Relaxed);
            }
            WalkOutcome::Broken => {
                flag |= flags::BROKEN;
                state.losses.broken_stack.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    if scratch.omitted != 0 {
        state.losses.truncated.fetch_add(1, Ordering::Relaxed);
    }
    let record = Record { time: now, weight };
    match native {
        None => {
            if record.commit(state, flag, scratch, last) {
                own.turn();
            }
        }
        Some((map, native)) => {
            let flag =
                flag | flags::NATIVE | if trace(state, native, map, is_safe, context) { 0 } else { flags::NATIVE_ENDS };
            let (trace, merged, last) = native.parts();
            // CPYTHON 3.9 leaves no mark on the stack.
            if runtime.layout.minor >= 10 {
                merge(scratch, trace, merged);
            } else {
                merge_by_code(scratch, trace, map, merged);
            }
            if record.commit(state, flag, merged, last) {
                native.turn();
            }
        }
    }
}

/// Follows the native stack; true when it was followed to its end.
fn trace(state: &ThreadState, own: &mut NativeOwn, map: &Map<'_>, is_safe: bool, context: *mut c_void) -> bool {
    let losses = &state.losses;
    // SAFETY: null, or the kernel's ucontext.
    let registers = if is_safe { unsafe { Registers::of_context(context) } } else { None };
    let Some(registers) = registers else {
        own.trace.clear();
        losses.native_untried.fetch_add(1, Ordering::Relaxed);
        return false;
    };
    let Trace { ending, omitted, .. } = *own.trace.follow(map, &mut own.cache, registers);
    if omitted != 0 {
        losses.native_omitted.fetch_add(u64::from(omitted), Ordering::Relaxed);
    }
    let loss = match ending {
        Ending::Start => return true,
        Ending::NoRule => &losses.native_no_rule,
        Ending::BadStack => &losses.native_bad_stack,
        Ending::TooDeep => &losses.native_too_deep,
    };
    loss.fetch_add(1, Ordering::Relaxed);
    false
}

/// What is recorded of a sample besides its stack.
#[derive(Clone, Copy)]
struct Record {
    time: u64,
    weight: u64,
}

impl Record {
    /// Writes the record: only the frames that differ from `last`, the thread's previous record. True when there was room.
    #[inline(always)]
    fn commit<const SIZE: usize>(
        self,
        state: &ThreadState,
        flag: u64,
        stack: &Stack<SIZE>,
        last: &Stack<SIZE>,
    ) -> bool {
        // ORDER: read before comparing: if code objects are released after this, the consumer still resolves this record
        // against the stack it already knows, because a release waits for this handler.
        let generation = ZONE.release_generation.load(Ordering::Acquire);
        let same_generation = state.last_generation.load(Ordering::Relaxed) == generation;
        let shared = if same_generation { stack.shared_with(last) } else { 0 };
        let fresh = stack.frames().len().wrapping_sub(shared);
        let words = HEADER_WORDS.wrapping_add(fresh.wrapping_mul(2));
        let Some(mut record) = state.ring.begin(words) else {
            state.losses.ring_full.fetch_add(1, Ordering::Relaxed);
            state.losses.dropped_ns.fetch_add(self.weight, Ordering::Relaxed);
            return false;
        };
        record.put(Header { flags: flag, frames: fresh as u64, shared: shared as u64 }.pack());
        record.put(self.time);
        record.put(self.weight);
        record.put(Omitted { frames: stack.omitted, gap: stack.gap }.pack());
        for frame in stack.frames().iter().take(fresh) {
            record.put(frame.code as u64);
            record.put(frame.offset as u64);
        }
        record.commit();
        state.samples.fetch_add(1, Ordering::Relaxed);
        state.weight_ns.fetch_add(self.weight, Ordering::Relaxed);
        state.last_generation.store(generation, Ordering::Relaxed);
        true
    }
}

/// Handler of SIGSEGV and SIGBUS: lets a guarded load fail, passes everything else on.
///
/// True when the fault was ours and the context now continues at the load's landing.
///
/// # Safety
/// `context` is the kernel's ucontext of a fault on this thread.
#[must_use]
pub unsafe fn absorb_fault(context: *mut c_void) -> bool {
    if context.is_null() {
        return false;
    }
    // SAFETY: promised by the caller.
    unsafe {
        let machine = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext;
        #[cfg(target_arch = "x86_64")]
        let Some(pc) = machine.gregs.get_mut(libc::REG_RIP as usize) else { return false };
        #[cfg(target_arch = "aarch64")]
        let pc = &mut machine.pc;
        match crate::mem::fixup(*pc as usize) {
            Some(landing) => {
                *pc = landing as _;
                true
            }
            None => false,
        }
    }
}
