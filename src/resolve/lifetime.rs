//! Code objects outlive their samples: while a session is active, a dying code object is kept in [`super::limbo`] until the
//! resolver has seen every sample that may name it.
//!
//! - GIL builds: `PyCode_Type.tp_dealloc` is replaced by [`on_dealloc`]. One slot serves all interpreters, and a code
//!   object is not tracked by the collector there, so one with no references can wait.
//! - Free-threaded builds: a code watcher brings the dying object back to life (as `PyCode_AddWatcher` allows), since the
//!   collector walks whatever waits. It watches the interpreter that called [`install`].
//!
//! Two kinds of runs may need this at a time, a CPU run and a heap run ([`User`]). The CPU run's manager drives the protocol when there
//! is one; what the heap run knows of dying code it is asked to forget by [`release`] ([`before_release`]).
//!
//! Threads: [`install`], [`uninstall`] and the hooks with the GIL; [`take_aged`], [`release`] and [`nudge`] on the resolver
//! thread without it. The hooks may be called at any time, for ever: this library is never unloaded, and a closed limbo
//! makes them pass everything on.

use super::limbo::{Batch, CHUNK, Limbo, LimboStats};
use crate::error::{Error, Result};
use pyo3::ffi;
use spprof_sigsafe::layout::Layout;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicPtr, AtomicU8, Ordering};

type Dealloc = unsafe extern "C" fn(*mut ffi::PyObject);
type WatchCallback = unsafe extern "C" fn(c_int, *mut ffi::PyObject) -> c_int;
type AddWatcher = unsafe extern "C" fn(WatchCallback) -> c_int;
type ClearWatcher = unsafe extern "C" fn(c_int) -> c_int;

static LIMBO: Limbo = Limbo::new();
/// Who needs code objects to live on, as bits of [`User`].
static USERS: AtomicU8 = AtomicU8::new(0);
/// A [`Forget`], or null.
static FORGET: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
/// What `PyCode_Type.tp_dealloc` was before us; set before the hook can run, null on free-threaded builds.
static ORIGINAL: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
/// Our hook could not be taken out because somebody hooked the slot after us: it is still being called.
static BURIED: AtomicBool = AtomicBool::new(false);
/// A pending call is queued.
static NUDGING: AtomicBool = AtomicBool::new(false);
/// The id of our code watcher, or [`NO_WATCHER`], and the interpreter that gave it.
static WATCHER: AtomicI32 = AtomicI32::new(NO_WATCHER);
static WATCHED: AtomicI64 = AtomicI64::new(MAIN_INTERPRETER);
const NO_WATCHER: c_int = -1;

/// The main interpreter's id; pending calls run there.
const MAIN_INTERPRETER: i64 = 0;
/// `PY_CODE_EVENT_DESTROY`.
const DESTROY: c_int = 1;
/// Chunks freed by one pending call.
const NUDGE_CHUNKS: usize = 16;
/// What a code object keeps alive, roughly: its instructions, tables, names and constants. The mean of 17,000 code objects of the
/// standard library, loaded by `marshal` under `tracemalloc`: 0.99 kB on 3.9, 1.24 on 3.11, 1.07 on 3.12, 1.20 on 3.13, 1.14 on
/// 3.14, 0.89 on 3.13t.
const BYTES_PER_CODE: u64 = 1200;

/// A run that names code objects after they were captured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum User {
    Cpu = 1,
    Heap = 2,
}

/// Asked, on the thread that releases, to resolve what still names these objects and to know them no more.
pub type Forget = fn(&Batch);

/// Sets who is asked, for ever.
pub fn before_release(forget: Forget) {
    FORGET.store(forget as *mut c_void, Ordering::Release);
}

/// Whether this kind of run is on.
#[must_use]
pub fn is_used_by(user: User) -> bool {
    USERS.load(Ordering::Acquire) & user as u8 != 0
}

/// Figures since the process began.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LifetimeStats {
    pub limbo: LimboStats,
    /// Estimate of what limbo keeps alive.
    pub bytes_estimate: u64,
}

#[must_use]
pub fn stats() -> LifetimeStats {
    let limbo = LIMBO.stats();
    LifetimeStats { limbo, bytes_estimate: limbo.in_limbo * BYTES_PER_CODE }
}

/// From now on no code object is freed before its batch is released. Needs the GIL; the session sees to it that `install`
/// and [`uninstall`] never overlap.
pub fn install(user: User, layout: &Layout, code_type: usize) -> Result<()> {
    if USERS.load(Ordering::Acquire) != 0 {
        USERS.fetch_or(user as u8, Ordering::AcqRel);
        return Ok(());
    }
    if layout.free_threaded {
        watch()?;
    } else {
        hook(dealloc_slot(layout, code_type))?;
    }
    LIMBO.open(layout.free_threaded);
    USERS.fetch_or(user as u8, Ordering::AcqRel);
    Ok(())
}

/// Frees everything kept in the calling interpreter and takes out what [`install`] put in. What belongs to other
/// interpreters is freed there when code dies, for which the hook stays. Needs the GIL; sampling has stopped, every sample
/// is resolved, every batch released.
///
/// While the other kind of run is on, only the `user` goes.
pub fn uninstall(user: User, layout: &Layout, code_type: usize) {
    let left = USERS.fetch_and(!(user as u8), Ordering::AcqRel) & !(user as u8);
    if left != 0 {
        return;
    }
    let free = free_function();
    let left = LIMBO.close(current_interpreter());
    for code in &left {
        // SAFETY: the object died in this interpreter and was kept; nothing else will free it. The GIL is held.
        unsafe { free(*code as *mut ffi::PyObject) };
    }
    LIMBO.note_freed(left.len());
    if layout.free_threaded {
        unwatch();
    } else if LIMBO.is_idle() {
        unhook(dealloc_slot(layout, code_type));
    }
}

/// Takes the objects that died and whose frames are gone. To be released when every ring is drained past where it is now,
/// and the resolver has forgotten them.
#[must_use]
pub fn take_aged() -> Option<Batch> {
    LIMBO.take_aged()
}

/// No sample and no cache names these objects any more: they are freed at the next occasion.
pub fn release(batch: Batch) {
    let forget = FORGET.load(Ordering::Acquire);
    if !forget.is_null() {
        // SAFETY: only `before_release` stores here.
        unsafe { std::mem::transmute::<*mut c_void, Forget>(forget)(&batch) };
    }
    LIMBO.release(batch);
}

/// Makes an occasion if objects wait for one and none comes by itself. Called now and then by the resolver thread; has at
/// most one call queued.
pub fn nudge() {
    if !LIMBO.wants_event(MAIN_INTERPRETER) || NUDGING.swap(true, Ordering::AcqRel) {
        return;
    }
    // SAFETY: may be called by any thread without the GIL while the interpreter lives, which the session sees to.
    if unsafe { ffi::Py_AddPendingCall(Some(on_pending_call), null_mut()) } != 0 {
        // The queue is full.
        NUDGING.store(false, Ordering::Release);
    }
}

/// In a forked child: nothing is deferred any more, and no lock is held by a thread that is not there. [`uninstall`] may
/// follow, with the GIL, to free what is left and to take out the hook.
///
/// # Safety
/// The calling thread is the only one of the process, and the fork did not happen inside this module (which never forks,
/// except in what freeing a code object may run).
pub unsafe fn after_fork_child() {
    USERS.store(0, Ordering::Release);
    // SAFETY: the caller's promise.
    unsafe { LIMBO.close_in_child() };
    NUDGING.store(false, Ordering::Release);
}

fn current_interpreter() -> i64 {
    // SAFETY: the caller has an attached thread state, as every hook and every function that needs the GIL has.
    unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) }
}

/// Frees a kept object: by the type's own deallocator, or, on free-threaded builds, by dropping the reference that keeps it
/// alive.
fn free_function() -> Dealloc {
    let original = ORIGINAL.load(Ordering::Acquire);
    if original.is_null() {
        return ffi::Py_DecRef;
    }
    // SAFETY: `hook` stored the type's `tp_dealloc`, a `void (*)(PyObject *)`.
    unsafe { std::mem::transmute::<*mut c_void, Dealloc>(original) }
}

// --- GIL builds: the dealloc slot ---

fn dealloc_slot(layout: &Layout, code_type: usize) -> &'static AtomicPtr<c_void> {
    // SAFETY: `PyCode_Type` is a static object in writable memory, `type_dealloc` is where its `tp_dealloc` is, which is
    // pointer-sized and aligned. CPython only reads it.
    unsafe { AtomicPtr::from_ptr((code_type + layout.type_dealloc) as *mut *mut c_void) }
}

fn hook(slot: &AtomicPtr<c_void>) -> Result<()> {
    let ours = on_dealloc as *mut c_void;
    let current = slot.load(Ordering::Acquire);
    if current == ours {
        // Still there, for objects of another interpreter or because of a fork.
        return Ok(());
    }
    if BURIED.load(Ordering::Acquire) && current != ORIGINAL.load(Ordering::Acquire) {
        // Hooking again might make a circle: theirs calls ours, ours would call theirs.
        return Err(Error::runtime(
            "another tool has replaced PyCode_Type.tp_dealloc while spprof was active; \
             spprof cannot start again in this process until that tool is unloaded",
        ));
    }
    BURIED.store(false, Ordering::Release);
    ORIGINAL.store(current, Ordering::Release);
    slot.store(ours, Ordering::Release);
    Ok(())
}

fn unhook(slot: &AtomicPtr<c_void>) {
    let ours = on_dealloc as *mut c_void;
    let original = ORIGINAL.load(Ordering::Acquire);
    if !original.is_null()
        && slot.compare_exchange(ours, original, Ordering::AcqRel, Ordering::Acquire).is_err_and(|it| it != original)
    {
        BURIED.store(true, Ordering::Release);
    }
}

/// `tp_dealloc` of code objects. The event comes first: whatever it runs, the dying object is not in the lists yet.
unsafe extern "C" fn on_dealloc(code: *mut ffi::PyObject) {
    let interpreter = current_interpreter();
    let original = free_function();
    // SAFETY: `event` gives objects that died in this interpreter and were kept, each once; the GIL is held.
    LIMBO.event(interpreter, |kept| unsafe { original(kept as *mut ffi::PyObject) });
    if !LIMBO.defer(interpreter, code as usize) {
        // SAFETY: the object CPython is deallocating, passed on.
        unsafe { original(code) };
    }
}

// --- free-threaded builds: a code watcher ---

fn symbol(name: &CStr) -> Result<*mut c_void> {
    // SAFETY: a NUL-terminated name; dlsym has no other precondition.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if address.is_null() {
        return Err(Error::runtime(format!("the running CPython does not export {}", name.to_string_lossy())));
    }
    Ok(address)
}

fn watch() -> Result<()> {
    let interpreter = current_interpreter();
    if WATCHER.load(Ordering::Acquire) != NO_WATCHER {
        if WATCHED.load(Ordering::Acquire) == interpreter {
            return Ok(());
        }
        return Err(Error::runtime("spprof was stopped in another interpreter than it was started in; start it there"));
    }
    // SAFETY: `int PyCode_AddWatcher(int (*)(PyCodeEvent, PyCodeObject *))`.
    let add = unsafe { std::mem::transmute::<*mut c_void, AddWatcher>(symbol(c"PyCode_AddWatcher")?) };
    // SAFETY: called with an attached thread state; the callback lives for ever.
    let id = unsafe { add(on_code_event) };
    if id < 0 {
        // SAFETY: attached; the exception is ours to clear.
        unsafe { ffi::PyErr_Clear() };
        return Err(Error::runtime("all code watchers of this interpreter are taken; spprof needs one"));
    }
    WATCHED.store(interpreter, Ordering::Release);
    WATCHER.store(id, Ordering::Release);
    Ok(())
}

/// Only in the interpreter that watches: ids of others mean other watchers.
fn unwatch() {
    let id = WATCHER.load(Ordering::Acquire);
    if id == NO_WATCHER || WATCHED.load(Ordering::Acquire) != current_interpreter() {
        return;
    }
    let Ok(clear) = symbol(c"PyCode_ClearWatcher") else { return };
    // SAFETY: `int PyCode_ClearWatcher(int)`, attached, with an id of this interpreter.
    unsafe {
        let clear = std::mem::transmute::<*mut c_void, ClearWatcher>(clear);
        if clear(id) < 0 {
            ffi::PyErr_Clear();
        }
    }
    WATCHER.store(NO_WATCHER, Ordering::Release);
}

/// A new reference during the destroy event keeps the object. The same event comes once more when that is dropped, on
/// whatever thread owns the object; limbo knows then that it is leaving.
unsafe extern "C" fn on_code_event(event: c_int, code: *mut ffi::PyObject) -> c_int {
    if event != DESTROY {
        return 0;
    }
    let interpreter = current_interpreter();
    // SAFETY: `event` gives objects that this module holds a reference to, each once; the thread is attached.
    LIMBO.event(interpreter, |kept| unsafe { ffi::Py_DecRef(kept as *mut ffi::PyObject) });
    // The reference comes first: another thread could free the object as soon as it is in the lists.
    // SAFETY: CPython keeps the object valid during the event.
    unsafe { ffi::Py_IncRef(code) };
    if !LIMBO.defer(interpreter, code as usize) {
        // SAFETY: takes back the reference just made; CPython still holds its own.
        unsafe { ffi::Py_DecRef(code) };
    }
    0
}

// --- occasions ---

extern "C" fn on_pending_call(_: *mut c_void) -> c_int {
    NUDGING.store(false, Ordering::Release);
    let interpreter = current_interpreter();
    let free = free_function();
    for _ in 0..NUDGE_CHUNKS {
        // SAFETY: as in the hooks; pending calls run with the GIL.
        if LIMBO.event(interpreter, |kept| unsafe { free(kept as *mut ffi::PyObject) }) < CHUNK {
            break;
        }
    }
    0
}
