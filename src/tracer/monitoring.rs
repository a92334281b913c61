//! Events by `sys.monitoring` (3.12+): a tool of our own beside others, with native callbacks; code that no scope wants is
//! switched off where its events arise.
//!
//! The callbacks run on every thread of the interpreter, attached, between two instructions of the code that they are about.

use super::callable::Callable;
use super::clock::ticks;
use super::local::with_events;
use super::names;
use super::recorder::{Entry, Exit, Site};
use super::registry::{EVENTS, Known};
use crate::error::Error;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::{CStr, c_char, c_int};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

type Callback =
    unsafe extern "C" fn(*mut ffi::PyObject, *const *mut ffi::PyObject, ffi::Py_ssize_t) -> *mut ffi::PyObject;

/// CPYTHON: part of the stable interface since 3.10, which is later than this extension's oldest Python.
const METH_FASTCALL: c_int = 0x80;
const NAME: &str = "spprof";
/// In order of preference: what is meant for profilers, what is free by convention, the rest.
const SLOTS: [u8; 6] = [2, 3, 4, 5, 1, 0];

/// `sys.monitoring.DISABLE`, for as long as the process lives.
static DISABLE: AtomicPtr<ffi::PyObject> = AtomicPtr::new(null_mut());
static CANCELLED: AtomicPtr<ffi::PyObject> = AtomicPtr::new(null_mut());

const PYTHON_EVENTS: [(&str, &CStr, Callback); 6] = [
    ("PY_START", c"on_start", on_start),
    ("PY_RESUME", c"on_resume", on_resume),
    ("PY_THROW", c"on_throw", on_throw),
    ("PY_RETURN", c"on_return", on_return),
    ("PY_YIELD", c"on_yield", on_yield),
    ("PY_UNWIND", c"on_unwind", on_unwind),
];
const C_EVENTS: [(&str, &CStr, Callback); 3] =
    [("CALL", c"on_call", on_call), ("C_RETURN", c"on_c_return", on_c_return), ("C_RAISE", c"on_c_raise", on_c_raise)];

/// Takes a slot and registers the callbacks; no events yet. An error names those who hold the slots.
pub fn attach(py: Python<'_>) -> PyResult<u8> {
    let monitoring = py.import("sys")?.getattr("monitoring")?;
    DISABLE.store(monitoring.getattr("DISABLE")?.into_ptr(), Ordering::Relaxed);
    let mut holders = Vec::new();
    let mut slot = None;
    for id in SLOTS {
        let holder = monitoring.call_method1("get_tool", (id,))?;
        if holder.is_none() {
            slot = Some(id);
            break;
        }
        holders.push(format!("{id}: {}", holder.str()?));
    }
    let Some(slot) = slot else { return Err(taken(&holders).into()) };
    monitoring.call_method1("use_tool_id", (slot, NAME))?;
    let events = monitoring.getattr("events")?;
    for (event, name, callback) in PYTHON_EVENTS.into_iter().chain(C_EVENTS) {
        let function = native_function(py, name, callback)?;
        monitoring.call_method1("register_callback", (slot, events.getattr(event)?, function))?;
    }
    Ok(slot)
}

fn taken(holders: &[String]) -> Error {
    Error::runtime(format!(
        "tracing needs a tool of sys.monitoring, and other tools hold all of them: {}",
        holders.join(", ")
    ))
}

/// Switches the events on; those switched off before for single places of code are on again.
pub fn arm(py: Python<'_>, slot: u8, builtins: bool) -> PyResult<()> {
    let monitoring = py.import("sys")?.getattr("monitoring")?;
    let events = monitoring.getattr("events")?;
    let mut mask = 0_u32;
    // The ends of calls into C come with their beginnings.
    let c_events: &[(&str, &CStr, Callback)] = if builtins { &C_EVENTS[..1] } else { &[] };
    for (event, _, _) in PYTHON_EVENTS.iter().chain(c_events) {
        mask |= events.getattr(*event)?.extract::<u32>()?;
    }
    monitoring.call_method1("set_events", (slot, mask))?;
    monitoring.call_method0("restart_events")?;
    Ok(())
}

/// Switches the events off and gives the slot back.
pub fn detach(py: Python<'_>, slot: u8) -> PyResult<()> {
    let monitoring = py.import("sys")?.getattr("monitoring")?;
    if monitoring.call_method1("get_tool", (slot,))?.extract::<Option<String>>()?.as_deref() != Some(NAME) {
        // Somebody took it from us.
        return Ok(());
    }
    monitoring.call_method1("set_events", (slot, 0))?;
    let events = monitoring.getattr("events")?;
    for (event, _, _) in PYTHON_EVENTS.into_iter().chain(C_EVENTS) {
        monitoring.call_method1("register_callback", (slot, events.getattr(event)?, py.None()))?;
    }
    monitoring.call_method1("free_tool_id", (slot,))?;
    Ok(())
}

fn native_function<'py>(py: Python<'py>, name: &'static CStr, callback: Callback) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the interpreter calls it by the signature that the flags tell.
    let function = unsafe { std::mem::transmute::<Callback, ffi::PyCFunction>(callback) };
    let method = ffi::PyMethodDef {
        ml_name: name.as_ptr() as *const c_char,
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: function },
        ml_flags: METH_FASTCALL,
        ml_doc: std::ptr::null(),
    };
    // The definition must outlive the function; a handful of them a run.
    let method = Box::leak(Box::new(method));
    // SAFETY: a valid definition that lives for ever, whose function has the signature that METH_FASTCALL means.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyCFunction_NewEx(method, null_mut(), null_mut())) }
}

/// The code object an event is about; the frame on top of the interpreter's stack runs it.
struct Running(*mut ffi::PyObject);

impl Running {
    fn frame(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
        // SAFETY: attached; gives a borrowed reference or null.
        unsafe { Bound::from_borrowed_ptr_or_opt(py, ffi::PyEval_GetFrame().cast()) }
    }
}

impl Site for Running {
    fn describe(&self) -> Known {
        if let Some(known) = EVENTS.find(self.0 as usize) {
            return known;
        }
        Python::attach(|py| {
            // SAFETY: events pass live objects.
            let code = unsafe { Bound::from_borrowed_ptr(py, self.0) };
            describe_code(&code, Self::frame(py).as_ref())
        })
    }

    fn callers(&self) -> Vec<(usize, Known)> {
        Python::attach(|py| Self::frame(py).map_or_else(Vec::new, |frame| callers(&frame)))
    }

    fn capture(&self) {
        Python::attach(|py| {
            if let Some(frame) = Self::frame(py) {
                capture(&frame);
            }
        });
    }

    fn activation(&self) -> usize {
        // SAFETY: attached; the frame object stays the same while its function is under way.
        unsafe { ffi::PyEval_GetFrame() as usize }
    }
}

static CAPTURE: Mutex<Option<Py<PyAny>>> = Mutex::new(None);

/// Calls `callback(frame)` at every call from now on.
pub fn set_capture(callback: Option<Py<PyAny>>) {
    EVENTS.limits.set_captures(callback.is_some());
    let before = std::mem::replace(&mut *CAPTURE.lock().unwrap_or_else(PoisonError::into_inner), callback);
    // Outside of the lock: freeing it may run code of the program's.
    drop(before);
}

pub fn capture(frame: &Bound<'_, PyAny>) {
    let py = frame.py();
    let callback =
        CAPTURE.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|callback| callback.clone_ref(py));
    if let Some(callback) = callback {
        // What the program's own text functions raise is not the traced call's business.
        drop(callback.call1(py, (frame,)));
    }
}

/// Describes code that was not seen before, and keeps it.
pub fn describe_code(code: &Bound<'_, PyAny>, frame: Option<&Bound<'_, PyAny>>) -> Known {
    let key = code.as_ptr() as usize;
    if let Some(known) = EVENTS.find(key) {
        return known;
    }
    let globals = frame.and_then(|frame| frame.getattr("f_globals").ok());
    let Ok(entry) = names::describe(code, globals.as_ref()) else { return Known::Unwanted };
    let (known, inserted) = EVENTS.insert(key, entry);
    if inserted {
        // SAFETY: a live object; the registry gives it back when the run ends.
        unsafe { ffi::Py_IncRef(code.as_ptr()) };
    }
    known
}

/// The functions that called the one of this frame.
pub fn callers(frame: &Bound<'_, PyAny>) -> Vec<(usize, Known)> {
    /// Frames looked at.
    const MOST: usize = 2000;
    let mut found = Vec::new();
    let mut at = frame.getattr("f_back");
    while let Ok(frame) = at {
        if frame.is_none() || found.len() == MOST {
            break;
        }
        if let Ok(code) = frame.getattr("f_code") {
            let known = describe_code(&code, Some(&frame));
            found.push((code.as_ptr() as usize, known));
        }
        at = frame.getattr("f_back");
    }
    found
}

/// `None`, which is immortal wherever `sys.monitoring` exists.
#[inline]
fn none() -> *mut ffi::PyObject {
    // SAFETY: a static object.
    unsafe { ffi::Py_None() }
}

#[cold]
fn disable() -> *mut ffi::PyObject {
    let disable = DISABLE.load(Ordering::Relaxed);
    // SAFETY: `attach` stored an owned reference; the thread is attached.
    unsafe { ffi::Py_IncRef(disable) };
    disable
}

/// The first argument of an event: its code object.
///
/// # Safety
/// `args` are those of one of the events registered here, all of which have two arguments or more.
#[inline]
unsafe fn code(args: *const *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the caller's promise.
    unsafe { *args }
}

unsafe extern "C" fn on_start(
    _: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: an event's arguments.
    enter(unsafe { code(args) }, Entry::Call, true)
}

unsafe extern "C" fn on_resume(
    _: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: an event's arguments.
    enter(unsafe { code(args) }, Entry::Resume, true)
}

/// CPYTHON: this event and that of unwinding cannot be switched off for a place.
unsafe extern "C" fn on_throw(
    _: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: an event's arguments.
    enter(unsafe { code(args) }, Entry::Resume, false)
}

unsafe extern "C" fn on_return(
    _: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: an event's arguments.
    leave(unsafe { code(args) }, Exit::Return, true)
}

unsafe extern "C" fn on_yield(
    _: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: an event's arguments.
    leave(unsafe { code(args) }, Exit::Yield, true)
}

unsafe extern "C" fn on_unwind(
    _: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: an event's arguments; this one has three, the last an exception.
    let (code, exception) = unsafe { (code(args), *args.add(2)) };
    leave(code, how_raised(exception), false)
}

#[inline]
fn enter(code: *mut ffi::PyObject, entry: Entry, may_disable: bool) -> *mut ffi::PyObject {
    let now = ticks();
    match with_events(|recorder| recorder.enter(&Running(code), code as usize, now, entry)) {
        Some(false) if may_disable => disable(),
        _ => none(),
    }
}

#[inline]
fn leave(code: *mut ffi::PyObject, exit: Exit, may_disable: bool) -> *mut ffi::PyObject {
    let now = ticks();
    match with_events(|recorder| recorder.leave(&Running(code), code as usize, now, exit)) {
        Some(false) if may_disable => disable(),
        _ => none(),
    }
}

unsafe extern "C" fn on_call(
    _: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: this event has four arguments: code, offset, callable, its first argument.
    let callable = Callable(unsafe { *args.add(2) });
    if let Some(key) = callable.key() {
        let now = ticks();
        with_events(|recorder| recorder.enter(&callable, key, now, Entry::Call));
    }
    none()
}

unsafe extern "C" fn on_c_return(
    _: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: as for the call.
    leave_callable(Callable(unsafe { *args.add(2) }), Exit::Return)
}

unsafe extern "C" fn on_c_raise(
    _: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: as for the call.
    leave_callable(Callable(unsafe { *args.add(2) }), Exit::Raised)
}

fn leave_callable(callable: Callable, exit: Exit) -> *mut ffi::PyObject {
    if let Some(key) = callable.key() {
        let now = ticks();
        with_events(|recorder| recorder.leave_callable(&callable, key, now, exit));
    }
    none()
}

/// What an exception that leaves a function means.
fn how_raised(exception: *mut ffi::PyObject) -> Exit {
    // SAFETY: attached; a live exception, and a class for as long as the process lives.
    unsafe {
        if ffi::PyErr_GivenExceptionMatches(exception, ffi::PyExc_GeneratorExit) != 0 {
            return Exit::Closed;
        }
        let cancelled = cancelled_error();
        if !cancelled.is_null() && ffi::PyErr_GivenExceptionMatches(exception, cancelled) != 0 {
            return Exit::Cancelled;
        }
    }
    Exit::Raised
}

/// `asyncio.CancelledError`, once the program has imported it; null before.
fn cancelled_error() -> *mut ffi::PyObject {
    let known = CANCELLED.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    Python::attach(|py| {
        let class = py
            .import("sys")
            .and_then(|sys| sys.getattr("modules"))
            .and_then(|modules| modules.get_item("asyncio.exceptions"))
            .and_then(|module| module.getattr("CancelledError"));
        let Ok(class) = class else { return null_mut() };
        let class = class.into_ptr();
        CANCELLED.store(class, Ordering::Relaxed);
        class
    })
}
