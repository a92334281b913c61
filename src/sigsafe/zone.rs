//! What a handler may look at: one static, filled before the first signal can arrive.

use crate::layout::Layout;
use crate::thread::ThreadState;
use crate::unwind::map::Map;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// A CPython function that gives a thread state and takes nothing.
pub type TstateGetter = unsafe extern "C" fn() -> usize;

/// What the walk needs to know of the interpreter in this process.
#[derive(Clone, Copy, Debug)]
pub struct Runtime {
    pub layout: &'static Layout,
    /// `&PyCode_Type`.
    pub code_type: usize,
    /// `PyGILState_GetThisThreadState`: a `pthread_getspecific`.
    pub gilstate: TstateGetter,
    /// `_PyThreadState_UncheckedGet` / `PyThreadState_GetUnchecked`.
    pub unchecked: TstateGetter,
    /// Address of `_PyEval_EvalFrameDefault`, or 0.
    pub eval: usize,
}

/// Which descriptor belongs to which thread state, for signals that carry `si_fd`.
pub const MAX_FDS: usize = 1 << 16;

#[derive(Debug)]
pub struct Zone {
    /// While false a handler returns at once.
    pub active: AtomicBool,
    /// Wall clock weights instead of CPU weights.
    pub wall: AtomicBool,
    /// Null when no native frames are wanted.
    native: AtomicPtr<Map<'static>>,
    runtime: AtomicPtr<Runtime>,
    /// The pool's address range: a pointer that came with a signal is one of ours only if it lies inside.
    pool_start: AtomicUsize,
    pool_end: AtomicUsize,
    /// Grows when code objects are released, which makes "same as the last stack" meaningless.
    pub release_generation: AtomicU64,
    /// Signals that were not ours and had no handler to go to.
    pub foreign: AtomicU64,
    /// `MAX_FDS` pointers, or null.
    fds: AtomicPtr<AtomicPtr<ThreadState>>,
    /// The disposition our handler replaced: what a foreign signal is passed on to.
    pub chained: AtomicUsize,
    pub chained_is_siginfo: AtomicBool,
    /// Our handler of SIGSEGV, which makes guarded loads safe.
    pub fault_handler: AtomicUsize,
}

pub static ZONE: Zone = Zone {
    active: AtomicBool::new(false),
    wall: AtomicBool::new(false),
    native: AtomicPtr::new(core::ptr::null_mut()),
    runtime: AtomicPtr::new(core::ptr::null_mut()),
    pool_start: AtomicUsize::new(0),
    pool_end: AtomicUsize::new(0),
    release_generation: AtomicU64::new(0),
    foreign: AtomicU64::new(0),
    fds: AtomicPtr::new(core::ptr::null_mut()),
    chained: AtomicUsize::new(0),
    chained_is_siginfo: AtomicBool::new(false),
    fault_handler: AtomicUsize::new(0),
};

/// Stands in the table of descriptors for one that was ours.
const RETIRED: *mut ThreadState = core::ptr::without_provenance_mut(1);

/// A signal that somebody else made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotOurs;

impl Zone {
    pub fn set_runtime(&self, runtime: &'static Runtime) {
        self.runtime.store(core::ptr::from_ref(runtime).cast_mut(), Ordering::Release);
    }

    /// Replaces the map; gives the one before.
    ///
    /// # Safety
    /// `map` is null, or valid until it has been replaced and then every handler that had been entered by that time has left.
    pub unsafe fn replace_native(&self, map: *const Map<'static>) -> *const Map<'static> {
        // ORDER: SeqCst, as a handler's entry and its load of the map are: one that is not counted as entered after this sees
        // the new map.
        self.native.swap(map.cast_mut(), Ordering::SeqCst)
    }

    /// The map of modules; only for a handler between its entry and its exit.
    #[inline(always)]
    #[must_use]
    pub fn native(&self) -> Option<&Map<'static>> {
        // SAFETY: `replace_native` promised that it lives until this handler has left.
        unsafe { self.native.load(Ordering::SeqCst).as_ref() }
    }

    #[inline(always)]
    #[must_use]
    pub fn runtime(&self) -> Option<&'static Runtime> {
        // SAFETY: only `set_runtime` stores here, and only `&'static Runtime`s.
        unsafe { self.runtime.load(Ordering::Acquire).as_ref() }
    }

    /// # Safety
    /// `start..end` holds initialised `ThreadState`s and stays mapped for ever.
    pub unsafe fn set_pool(&self, start: *const ThreadState, end: *const ThreadState) {
        self.pool_start.store(start as usize, Ordering::Release);
        self.pool_end.store(end as usize, Ordering::Release);
    }

    /// All thread states handed out so far.
    #[must_use]
    pub fn states(&self) -> &'static [ThreadState] {
        let start = self.pool_start.load(Ordering::Acquire);
        let end = self.pool_end.load(Ordering::Acquire);
        if start == 0 {
            return &[];
        }
        let count = end.wrapping_sub(start).checked_div(size_of::<ThreadState>()).unwrap_or(0);
        // SAFETY: `set_pool` promised initialised states in this range.
        unsafe { core::slice::from_raw_parts(start as *const ThreadState, count) }
    }

    /// The thread state a signal's `sival_ptr` names, if it is one.
    #[inline(always)]
    #[must_use]
    pub fn state_at(&self, addr: usize) -> Option<&'static ThreadState> {
        let start = self.pool_start.load(Ordering::Acquire);
        let end = self.pool_end.load(Ordering::Acquire);
        let inside = addr >= start && addr < end;
        if !inside || !addr.wrapping_sub(start).is_multiple_of(size_of::<ThreadState>()) {
            return None;
        }
        // SAFETY: `set_pool` promised an initialised state at every multiple of its size in this range.
        unsafe { (addr as *const ThreadState).as_ref() }
    }

    /// # Safety
    /// `table` points to `MAX_FDS` pointers and stays mapped for ever.
    pub unsafe fn set_fd_table(&self, table: *mut AtomicPtr<ThreadState>) {
        self.fds.store(table, Ordering::Release);
    }

    #[inline(always)]
    fn fd_slot(&self, fd: i32) -> Option<&AtomicPtr<ThreadState>> {
        let table = self.fds.load(Ordering::Acquire);
        let index = usize::try_from(fd).ok().filter(|fd| *fd < MAX_FDS)?;
        if table.is_null() {
            return None;
        }
        // SAFETY: `set_fd_table` promised MAX_FDS entries.
        unsafe { table.add(index).as_ref() }
    }

    /// The handler of the host's that ours stands before, if it has one.
    #[inline(always)]
    #[must_use]
    pub fn chained_handler(&self) -> Option<usize> {
        let chained = self.chained.load(Ordering::Acquire);
        (chained != libc::SIG_DFL && chained != libc::SIG_IGN).then_some(chained)
    }

    /// Says whose samples `fd` makes; false when the descriptor is too large for the table.
    pub fn bind_fd(&self, fd: i32, state: *const ThreadState) -> bool {
        match self.fd_slot(fd) {
            Some(slot) => {
                slot.store(state.cast_mut(), Ordering::Release);
                true
            }
            None => false,
        }
    }

    /// Says that `fd` was ours and is closed now: signals of its that are still on their way are nobody else's.
    pub fn retire_fd(&self, fd: i32) {
        if let Some(slot) = self.fd_slot(fd) {
            slot.store(RETIRED, Ordering::Release);
        }
    }

    /// Whose samples `fd` makes; an error when it is none of ours.
    #[inline(always)]
    pub fn state_of_fd(&self, fd: i32) -> Result<Option<&'static ThreadState>, NotOurs> {
        let state = self.fd_slot(fd).map_or(core::ptr::null_mut(), |slot| slot.load(Ordering::Acquire));
        if state == RETIRED {
            return Ok(None);
        }
        // SAFETY: besides the mark, `bind_fd` stores null or a pool state.
        unsafe { state.as_ref() }.map(Some).ok_or(NotOurs)
    }
}
