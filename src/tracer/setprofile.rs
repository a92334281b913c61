//! Events by the interpreter's profile hook (3.9 to 3.11): one C function a thread.
//!
//! The hook is set in every thread that runs Python when a run begins; threads that `threading` starts later set it for
//! themselves (see `spprof.tracing`). It is called on the thread, attached, at every call and return of Python code and, if
//! asked, of built-in functions.
//!
//! CPYTHON 3.9-3.11: `PyEval_SetProfile` and `_PyEval_SetProfile` are exported but not in the stable interface, hence `dlsym`.
//! An exception that leaves a function is out of reach here: cancelled and closed coroutines count as left by an exception.

use super::callable::Callable;
use super::clock::ticks;
use super::local::with_events;
use super::monitoring::{callers, capture, describe_code};
use super::recorder::{Entry, Exit, Site};
use super::registry::{EVENTS, Known};
use crate::error::{Error, Result};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use spprof_sigsafe::layout::Layout;
use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

type Hook = unsafe extern "C" fn(*mut ffi::PyObject, *mut ffi::PyObject, c_int, *mut ffi::PyObject) -> c_int;
type SetProfile = unsafe extern "C" fn(Option<Hook>, *mut ffi::PyObject);
type SetProfileOf = unsafe extern "C" fn(*mut c_void, Option<Hook>, *mut ffi::PyObject) -> c_int;
type FirstThread = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type NextThread = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type GetCode = unsafe extern "C" fn(*mut ffi::PyObject) -> *mut ffi::PyObject;
type GetLasti = unsafe extern "C" fn(*mut ffi::PyObject) -> c_int;

/// What happened: `PyTrace_...`.
const CALL: c_int = 0;
const RETURN: c_int = 3;
const C_CALL: c_int = 4;
const C_EXCEPTION: c_int = 5;
const C_RETURN: c_int = 6;

/// CPYTHON 3.9-3.11: opcodes.
const RETURN_VALUE: u8 = 83;
const RESUME: u8 = 151;
const RETURN_GENERATOR: u8 = 75;

static BUILTINS: AtomicBool = AtomicBool::new(false);
/// `PyFrame_GetCode`.
static GET_CODE: AtomicUsize = AtomicUsize::new(0);
/// `PyFrame_GetLasti` (3.11), or 0.
static GET_LASTI: AtomicUsize = AtomicUsize::new(0);
/// Where `f_lasti` is in a frame object, and how many bytes it counts in (3.9, 3.10).
static LASTI_OFFSET: AtomicUsize = AtomicUsize::new(0);
static LASTI_UNIT: AtomicUsize = AtomicUsize::new(1);
/// Instructions of the generators met so far, by code object, which the registry keeps alive.
static INSTRUCTIONS: Mutex<Option<HashMap<usize, Vec<u8>>>> = Mutex::new(None);

fn symbol(name: &CStr) -> Option<usize> {
    // SAFETY: a NUL-terminated name.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address as usize)
}

fn required(name: &CStr) -> Result<usize> {
    symbol(name)
        .ok_or_else(|| Error::runtime(format!("the running CPython does not export {}", name.to_string_lossy())))
}

/// Sets the hook in every thread; an error says that another tool has it.
pub fn arm(py: Python<'_>, layout: &Layout, builtins: bool) -> PyResult<()> {
    let holder = py.import("sys")?.call_method0("getprofile")?;
    if !holder.is_none() {
        return Err(Error::runtime(format!(
            "tracing needs the profile hook of the interpreter, and another tool holds it: {}",
            holder.repr()?
        ))
        .into());
    }
    BUILTINS.store(builtins, Ordering::Relaxed);
    GET_CODE.store(required(c"PyFrame_GetCode")?, Ordering::Relaxed);
    GET_LASTI.store(symbol(c"PyFrame_GetLasti").unwrap_or(0), Ordering::Relaxed);
    LASTI_OFFSET.store(layout.frame_instr, Ordering::Relaxed);
    LASTI_UNIT.store(if layout.minor == 9 { 1 } else { 2 }, Ordering::Relaxed);
    *instructions() = Some(HashMap::new());
    set_all(Some(hook))?;
    Ok(())
}

/// Whether calls of built-in functions are wanted.
pub fn set_builtins(builtins: bool) {
    BUILTINS.store(builtins, Ordering::Relaxed);
}

/// Takes the hook out of every thread.
pub fn detach() -> Result<()> {
    set_all(None)?;
    *instructions() = None;
    Ok(())
}

/// Sets the hook in the calling thread, which is new.
pub fn arm_current() -> Result<()> {
    // SAFETY: `void PyEval_SetProfile(Py_tracefunc, PyObject *)`, attached.
    unsafe {
        let set = std::mem::transmute::<usize, SetProfile>(required(c"PyEval_SetProfile")?);
        set(Some(hook), null_mut());
    }
    Ok(())
}

fn set_all(to: Option<Hook>) -> Result<()> {
    let set = required(c"_PyEval_SetProfile")?;
    let (first, next) = (required(c"PyInterpreterState_ThreadHead")?, required(c"PyThreadState_Next")?);
    // SAFETY: their signatures in 3.9 to 3.11. The GIL is held throughout, so threads neither come nor go; setting another
    // thread's hook is what PyEval_SetProfileAllThreads of 3.12 does, by the same function.
    unsafe {
        let set = std::mem::transmute::<usize, SetProfileOf>(set);
        let first = std::mem::transmute::<usize, FirstThread>(first);
        let next = std::mem::transmute::<usize, NextThread>(next);
        let mut thread = first(ffi::PyInterpreterState_Get().cast());
        while !thread.is_null() {
            if set(thread, to, null_mut()) != 0 {
                ffi::PyErr_Clear();
            }
            thread = next(thread);
        }
    }
    Ok(())
}

fn instructions() -> std::sync::MutexGuard<'static, Option<HashMap<usize, Vec<u8>>>> {
    INSTRUCTIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The function of a frame object.
struct Framed {
    frame: *mut ffi::PyObject,
    code: usize,
}

impl Framed {
    fn of(frame: *mut ffi::PyObject) -> Self {
        // SAFETY: `PyCodeObject *PyFrame_GetCode(PyFrameObject *)`, stored before the hook was set; a live frame, which keeps
        // its code alive, so that the reference can be given back.
        unsafe {
            let get = std::mem::transmute::<usize, GetCode>(GET_CODE.load(Ordering::Relaxed));
            let code = get(frame);
            ffi::Py_DecRef(code);
            Self { frame, code: code as usize }
        }
    }

    /// The instruction a generator's frame is at: its opcode and argument; `None` before the first.
    fn instruction(&self) -> Option<(u8, u8)> {
        let get = GET_LASTI.load(Ordering::Relaxed);
        let at = if get == 0 {
            let offset = LASTI_OFFSET.load(Ordering::Relaxed);
            // SAFETY: a live frame object of 3.9 or 3.10, whose `int f_lasti` the layout tells, as the self-test has shown.
            let lasti = unsafe { self.frame.cast::<u8>().add(offset).cast::<c_int>().read() };
            usize::try_from(lasti).ok()? * LASTI_UNIT.load(Ordering::Relaxed)
        } else {
            // SAFETY: `int PyFrame_GetLasti(PyFrameObject *)`; a live frame.
            let lasti = unsafe { std::mem::transmute::<usize, GetLasti>(get)(self.frame) };
            usize::try_from(lasti).ok()?
        };
        let pick = |bytes: &[u8]| Some((*bytes.get(at)?, *bytes.get(at + 1)?));
        if let Some(bytes) = instructions().as_ref()?.get(&self.code) {
            return pick(bytes);
        }
        let bytes = Python::attach(|py| {
            // SAFETY: a live object.
            let code = unsafe { Bound::from_borrowed_ptr(py, self.code as *mut ffi::PyObject) };
            code.getattr("co_code").ok()?.cast::<PyBytes>().ok().map(|bytes| bytes.as_bytes().to_vec())
        })?;
        let picked = pick(&bytes);
        instructions().as_mut()?.insert(self.code, bytes);
        picked
    }
}

impl Site for Framed {
    fn describe(&self) -> Known {
        if let Some(known) = EVENTS.find(self.code) {
            return known;
        }
        Python::attach(|py| {
            // SAFETY: live objects.
            let (code, frame) = unsafe {
                (
                    Bound::from_borrowed_ptr(py, self.code as *mut ffi::PyObject),
                    Bound::from_borrowed_ptr(py, self.frame),
                )
            };
            describe_code(&code, Some(&frame))
        })
    }

    fn callers(&self) -> Vec<(usize, Known)> {
        // SAFETY: a live frame.
        Python::attach(|py| callers(&unsafe { Bound::from_borrowed_ptr(py, self.frame) }))
    }

    fn activation(&self) -> usize {
        self.frame as usize
    }

    fn capture(&self) {
        // SAFETY: a live frame.
        Python::attach(|py| capture(&unsafe { Bound::from_borrowed_ptr(py, self.frame) }));
    }

    fn is_resumed(&self) -> bool {
        // 3.11 begins every step with RESUME, whose argument is 0 at the first; before, nothing has been executed then.
        !matches!(self.instruction(), None | Some((RESUME, 0) | (RETURN_GENERATOR, _)))
    }

    fn never_ran(&self) -> bool {
        // 3.11 makes the generator by an instruction, at which it stands until its first step.
        matches!(self.instruction(), None | Some((RETURN_GENERATOR, _)))
    }

    fn is_yielding(&self) -> bool {
        self.instruction().is_some_and(|(opcode, _)| opcode != RETURN_VALUE)
    }
}

unsafe extern "C" fn hook(
    _: *mut ffi::PyObject,
    frame: *mut ffi::PyObject,
    what: c_int,
    argument: *mut ffi::PyObject,
) -> c_int {
    let now = ticks();
    match what {
        CALL => {
            let site = Framed::of(frame);
            with_events(|recorder| recorder.enter(&site, site.code, now, Entry::Unknown));
        }
        RETURN => {
            let site = Framed::of(frame);
            let exit = if argument.is_null() { Exit::Raised } else { Exit::Unknown };
            with_events(|recorder| recorder.leave(&site, site.code, now, exit));
        }
        C_CALL | C_RETURN | C_EXCEPTION if BUILTINS.load(Ordering::Relaxed) => {
            let callable = Callable(argument);
            let Some(key) = callable.key() else { return 0 };
            with_events(|recorder| match what {
                C_CALL => drop(recorder.enter(&callable, key, now, Entry::Call)),
                C_RETURN => recorder.leave_callable(&callable, key, now, Exit::Return),
                _ => recorder.leave_callable(&callable, key, now, Exit::Raised),
            });
        }
        _ => {}
    }
    0
}
