//! A thread that is sampled by calling the handler, and the consumer of what it records.

use super::{Image, UNMAPPED, block, catch_faults};
use spprof_sigsafe::handler::{HEADER_WORDS, Header, on_sample};
use spprof_sigsafe::ring::{RING_WORDS, Word};
use spprof_sigsafe::stack::RawFrame;
use spprof_sigsafe::thread::ThreadState;
use spprof_sigsafe::zone::{Runtime, ZONE};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the two getters of CPython would give.
pub static GILSTATE: AtomicUsize = AtomicUsize::new(0);
pub static CURRENT: AtomicUsize = AtomicUsize::new(0);

pub unsafe extern "C" fn gilstate() -> usize {
    GILSTATE.load(Ordering::Relaxed)
}

pub unsafe extern "C" fn current() -> usize {
    CURRENT.load(Ordering::Relaxed)
}

/// One record, as the consumer understands it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub flags: u64,
    pub shared: u64,
    pub time: u64,
    pub weight: u64,
    pub omitted: u64,
    /// Leaf first, those shared with the previous record included.
    pub frames: Vec<RawFrame>,
}

/// The zone is one for the process, so the tests that use it take turns.
pub struct Sampled {
    pub image: Image,
    pub tstate: usize,
    pub state: &'static ThreadState,
    last: Vec<RawFrame>,
    _turn: MutexGuard<'static, ()>,
}

impl Sampled {
    pub fn new(image: Image) -> Self {
        let runtime = image.runtime_with(gilstate, current);
        Self::with_runtime(image, runtime)
    }

    pub fn with_runtime(image: Image, runtime: Runtime) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        ZONE.set_runtime(Box::leak(Box::new(runtime)));
        ZONE.wall.store(false, Ordering::Relaxed);
        ZONE.chained.store(libc::SIG_DFL, Ordering::Relaxed);
        ZONE.fault_handler.store(catch_faults(), Ordering::Relaxed);
        // SAFETY: RING_WORDS zeroed words each, leaked.
        let states =
            Vec::leak((0..3).map(|_| unsafe { ThreadState::new(block(RING_WORDS * 8) as *mut Word) }).collect());
        let range = states.as_ptr_range();
        // SAFETY: initialised states, leaked.
        unsafe { ZONE.set_pool(range.start, range.end) };
        ZONE.active.store(true, Ordering::SeqCst);
        let tstate = image.tstate(0);
        GILSTATE.store(tstate, Ordering::Relaxed);
        CURRENT.store(tstate, Ordering::Relaxed);
        Self { image, tstate, state: &states[1], last: vec![], _turn: turn }
    }

    /// The stack the next sample finds.
    pub fn set_stack(&self, frames: &[RawFrame]) {
        // A restart (3.11, 3.12) finds nothing to begin at.
        self.image.set_innermost(self.tstate, self.image.stack(frames), self.image.cframe(UNMAPPED, 0));
    }

    pub fn address(&self) -> usize {
        std::ptr::from_ref(self.state) as usize
    }

    /// As a timer's signal would, to a thread that has worked since its last sample.
    pub fn sample(&self) {
        self.deliver(libc::SI_TIMER, self.address(), std::ptr::null_mut());
    }

    /// Calls the handler on a thread that owes no rest for an earlier, long run of it. (How long a run takes is up to the
    /// machine; `rests_after_a_long_run` is about the rest.)
    pub fn deliver(&self, code: c_int, value: usize, context: *mut c_void) {
        self.state.rest_until_cpu_ns.store(0, Ordering::Relaxed);
        deliver(code, value, context);
    }

    /// Everything in the ring, decoded.
    pub fn drain(&mut self) -> Vec<Record> {
        let mut reader = self.state.ring.read();
        let mut records = vec![];
        while let Some(first) = reader.take() {
            let mut word = || reader.take().expect("a whole record");
            let Header { flags, frames: fresh, shared } = Header::unpack(first);
            assert_eq!(HEADER_WORDS, 4);
            let (time, weight, omitted) = (word(), word(), word() & u64::from(u32::MAX));
            let mut frames: Vec<RawFrame> =
                (0..fresh).map(|_| RawFrame { code: word() as usize, offset: word() as i64 }).collect();
            frames.extend_from_slice(&self.last[self.last.len() - shared as usize..]);
            self.last.clone_from(&frames);
            records.push(Record { flags, shared, time, weight, omitted, frames });
        }
        reader.commit();
        records
    }
}

/// A siginfo as the kernel fills it: `si_value`, or `si_fd` for a poll signal.
pub fn siginfo(code: c_int, value: usize) -> libc::siginfo_t {
    // SAFETY: all zeroes is a valid siginfo.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    info.si_signo = libc::SIGURG;
    info.si_code = code;
    const VALUE: usize = 24;
    // SAFETY: `si_value` and `si_fd` lie 24 bytes into the 128 of a siginfo on 64-bit Linux.
    unsafe { (&raw mut info).cast::<u8>().add(VALUE).cast::<usize>().write(value) };
    info
}

/// Calls the handler as the kernel would.
pub fn deliver(code: c_int, value: usize, context: *mut c_void) {
    let mut info = siginfo(code, value);
    // SAFETY: a siginfo and a context (or none) such as the kernel passes.
    unsafe { on_sample(libc::SIGURG, &mut info, context) };
}
