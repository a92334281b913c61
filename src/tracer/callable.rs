//! Functions that are not Python code: what identifies them, and what they are called.

use super::names::wtf8;
use super::recorder::Site;
use super::registry::{EVENTS, Entry, Known};
use pyo3::ffi;
use pyo3::prelude::*;
use spprof_model::FunctionKind;

/// Something called that may be implemented in C.
#[derive(Clone, Copy)]
pub struct Callable(pub *mut ffi::PyObject);

impl Callable {
    /// What stands for it: the C function, for a built-in function or method is a new object at every look; the object, for
    /// types and descriptors; the type, for anything else. `None`: it is Python code, which has events of its own.
    #[inline]
    pub fn key(self) -> Option<usize> {
        // SAFETY: the interpreter's events pass live objects, and the thread is attached.
        unsafe {
            let class = ffi::Py_TYPE(self.0);
            if class == &raw mut ffi::PyCFunction_Type
                || ffi::PyObject_TypeCheck(self.0, &raw mut ffi::PyCFunction_Type) != 0
            {
                return ffi::PyCFunction_GetFunction(self.0).map(|function| function as usize);
            }
            if class == python_class(&FUNCTION, c"FunctionType") || class == python_class(&METHOD, c"MethodType") {
                return None;
            }
            if ffi::PyType_Check(self.0) != 0 || class == &raw mut ffi::PyMethodDescr_Type {
                return Some(self.0 as usize);
            }
            Some(class as usize)
        }
    }

    fn entry(self, py: Python<'_>) -> PyResult<Entry> {
        // SAFETY: as above.
        let object = unsafe { Bound::from_borrowed_ptr(py, self.0) };
        let named =
            object.getattr_opt("__qualname__")?.is_some_and(|name| name.is_instance_of::<pyo3::types::PyString>());
        let subject = if named { object.clone() } else { object.get_type().into_any() };
        let mut name = wtf8(&subject.getattr("__qualname__")?)?;
        if !named {
            name.extend_from_slice(b".__call__");
        }
        let mut module = subject.getattr_opt("__module__")?.map_or(Ok(Vec::new()), |module| wtf8(&module))?;
        if module.is_empty() {
            // Methods of built-in types have the type's module.
            let owner =
                subject.getattr_opt("__objclass__")?.and_then(|class| class.getattr_opt("__module__").ok().flatten());
            module = owner.map_or_else(|| Ok(b"builtins".to_vec()), |module| wtf8(&module))?;
        }
        Ok(Entry {
            name,
            file: Vec::new(),
            module,
            first_line: 0,
            kind: FunctionKind::Builtin,
            discriminator: 0,
            object: 0,
        })
    }
}

impl Site for Callable {
    fn describe(&self) -> Known {
        let Some(key) = self.key() else { return Known::Unwanted };
        if let Some(known) = EVENTS.find(key) {
            return known;
        }
        Python::attach(|py| match self.entry(py) {
            Ok(mut entry) => {
                // Kept for its address; a C function's is not an object's.
                let keeps = key == self.0 as usize;
                entry.object = if keeps { key } else { 0 };
                let (known, inserted) = EVENTS.insert(key, entry);
                if inserted && keeps {
                    // SAFETY: a live object; the registry gives it back when the run ends.
                    unsafe { ffi::Py_IncRef(self.0) };
                }
                known
            }
            Err(_) => Known::Unwanted,
        })
    }

    fn callers(&self) -> Vec<(usize, Known)> {
        Vec::new()
    }

    fn activation(&self) -> usize {
        0
    }
}

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

static FUNCTION: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(std::ptr::null_mut());
static METHOD: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(std::ptr::null_mut());

/// A class of the module `types`; those are never freed. Null, which equals no object's class, if there is none.
fn python_class(cache: &AtomicPtr<ffi::PyTypeObject>, name: &CStr) -> *mut ffi::PyTypeObject {
    let known = cache.load(Ordering::Relaxed);
    if !known.is_null() {
        return known;
    }
    Python::attach(|py| {
        let class = py.import("types").and_then(|types| types.getattr(name.to_str().unwrap_or_default()));
        let class = class.map_or(std::ptr::null_mut(), |class| class.into_ptr().cast());
        cache.store(class, Ordering::Relaxed);
        class
    })
}
