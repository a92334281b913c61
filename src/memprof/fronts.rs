//! The fronts: the preloaded library, if the process was started with it, and the extension's own hooks.

use super::relocations;
use crate::error::{Error, Result};
use crate::sampler::runtime;
use spprof_heap::abi::{ABI, Control, Thread};
use spprof_heap::hooks::HOOKS;
use spprof_heap::state::HEAP;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A hook of c_shim/in_process.c.
#[derive(Debug)]
#[repr(C)]
pub struct Hook {
    name: *const c_char,
    hook: *mut c_void,
    real: *mut *mut c_void,
}

unsafe extern "C" {
    fn spprof_in_process_hooks(hooks: *mut *const Hook) -> usize;
    fn spprof_in_process_control() -> *mut Control;
    fn spprof_in_process_found();
    fn spprof_set_malloc_thread(thread: unsafe extern "C" fn() -> *mut Thread);
}

type Attach = unsafe extern "C" fn(u32) -> *mut Control;

/// How blocks of malloc are seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MallocHooks {
    /// By libspprof_alloc.so, from the process's first allocation on.
    Preloaded,
    /// By hooks in the relocations of the loaded objects, from the first start on.
    Relocations,
}

impl MallocHooks {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Preloaded => "preload",
            Self::Relocations => "in-process",
        }
    }
}

impl Hook {
    #[must_use]
    pub fn name(&self) -> &'static CStr {
        // SAFETY: the table of in_process.c holds string literals.
        unsafe { CStr::from_ptr(self.name) }
    }

    #[must_use]
    pub fn hook(&self) -> usize {
        self.hook as usize
    }

    /// What the hook passes on to; 0 when the C library has no such function.
    #[must_use]
    pub fn real(&self) -> usize {
        self.cell().load(Ordering::Acquire) as usize
    }

    fn cell(&self) -> &'static AtomicPtr<c_void> {
        // SAFETY: a static pointer of in_process.c, which the hook only reads.
        unsafe { AtomicPtr::from_ptr(self.real) }
    }
}

/// The hooks that can take the place of malloc and its relatives.
#[must_use]
pub fn hooks() -> &'static [Hook] {
    let mut hooks = std::ptr::null();
    // SAFETY: gives a static table and its length.
    unsafe {
        let length = spprof_in_process_hooks(&mut hooks);
        std::slice::from_raw_parts(hooks, length)
    }
}

/// Finds the functions that the hooks pass on to. Before any of them is put in.
pub fn find_real() {
    let objects = relocations::objects();
    for hook in hooks() {
        if let Some(address) = definition(hook.name(), &objects) {
            hook.cell().store(address as *mut c_void, Ordering::Release);
        }
    }
    // SAFETY: only looks at the loaded objects.
    unsafe { spprof_in_process_found() };
}

/// Where a function is. A program that is not position-independent and takes a function's address gives a stub of its own
/// for it, which calls through the very place we patch: what counts is the first object that has the function itself.
fn definition(name: &CStr, objects: &[CString]) -> Option<usize> {
    let first = runtime::symbol(name)?;
    if is_defined_at(first) {
        return Some(first);
    }
    objects.iter().find_map(|object| {
        // SAFETY: NUL-terminated names; the object is loaded already, so nothing of it runs; the handle is given back.
        unsafe {
            let handle = libc::dlopen(object.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            if handle.is_null() {
                return None;
            }
            let address = libc::dlsym(handle, name.as_ptr()) as usize;
            libc::dlclose(handle);
            (address != 0 && is_defined_at(address)).then_some(address)
        }
    })
}

/// Whether a function really begins at an address that `dlsym` gave.
fn is_defined_at(address: usize) -> bool {
    const RTLD_DL_SYMENT: c_int = 1;
    unsafe extern "C" {
        fn dladdr1(address: *const c_void, info: *mut libc::Dl_info, extra: *mut *mut c_void, flags: c_int) -> c_int;
    }
    let mut symbol: *mut c_void = std::ptr::null_mut();
    // SAFETY: fills in both structures; with this flag the extra one is a symbol of the object's table, or null.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if dladdr1(address as *const c_void, &mut info, &mut symbol, RTLD_DL_SYMENT) == 0 {
            return false;
        }
        // A stub has a symbol that is undefined, or none.
        symbol.cast::<libc::Elf64_Sym>().as_ref().is_some_and(|symbol| symbol.st_shndx != 0)
    }
}

/// The extension's own front.
#[must_use]
pub fn in_process() -> &'static Control {
    // SAFETY: a static of in_process.c.
    unsafe { &*spprof_in_process_control() }
}

/// The front of the preloaded library; `None` when the process was started without it.
pub fn preloaded() -> Result<Option<&'static Control>> {
    let Some(address) = runtime::symbol(c"spprof_alloc_attach") else { return Ok(None) };
    // SAFETY: `struct spprof_control *spprof_alloc_attach(uint32_t)`, whatever the library's version.
    let control = unsafe { std::mem::transmute::<usize, Attach>(address)(ABI).as_ref() };
    match control {
        Some(control) if control.abi == ABI && control.size as usize == size_of::<Control>() => Ok(Some(control)),
        _ => Err(Error::runtime(
            "the preloaded libspprof_alloc.so is of another version of spprof: preload the one of \
             spprof.memprof.preload_path()",
        )),
    }
}

/// Whether the process's malloc is the one that this front hooks: another allocator may come before it.
#[must_use]
pub fn is_in_front(control: &'static Control) -> bool {
    // SAFETY: `int dladdr`-able addresses: the front's own function, and whatever malloc is found first.
    let object = |address: usize| unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(address as *const c_void, &mut info) == 0 { 0 } else { info.dli_fbase as usize }
    };
    let malloc = definition(c"malloc", &relocations::objects()).unwrap_or(0);
    object(malloc) == object(control.thread as usize)
}

/// From now on the front calls our hooks and its frees look at our filter.
pub fn attach(control: &'static Control) {
    if let Some(filter) = HEAP.filter() {
        HEAP.add_control(control);
        control.hooks.store(std::ptr::from_ref(&HOOKS).cast_mut(), Ordering::Release);
        control.filter.store(filter.as_ptr(), Ordering::Release);
    }
}

/// Every front passes its calls on, as if we were not there.
pub fn detach() {
    for control in HEAP.controls() {
        control.filter.store(std::ptr::null_mut(), Ordering::Release);
        control.hooks.store(std::ptr::null_mut(), Ordering::Release);
    }
}

/// Tells the hooks of CPython's domains which front sees malloc.
pub fn set_malloc_front(control: &'static Control) {
    // SAFETY: called with the GIL held, before the domains' hooks are put in.
    unsafe { spprof_set_malloc_thread(control.thread) };
}

/// What a front knows of the calling thread.
fn thread_of(control: &Control) -> *mut Thread {
    // SAFETY: gives the address of the calling thread's static thread-local storage.
    unsafe { (control.thread)() }
}

/// Runs `ask`, and tells whether a block of `size` bytes that it gives came from the malloc this front sees. CPython's debug hooks
/// put some bytes before and behind a block.
pub fn comes_from_malloc(control: &Control, size: usize, ask: impl FnOnce() -> usize) -> bool {
    const PADDING: usize = 64;
    let thread = thread_of(control);
    // SAFETY: the calling thread's own; the hooks that run within `ask` are on this thread, too.
    unsafe {
        (*thread).seen = std::ptr::null_mut();
        (*thread).watching = size as u32;
        // Differs from every real one: each call takes the slow way.
        (*thread).generation = u64::MAX;
        let block = ask();
        (*thread).watching = 0;
        let seen = (*thread).seen as usize;
        seen != 0 && block.wrapping_sub(seen) < PADDING
    }
}

/// While it lives, nothing that the calling thread allocates is counted: it is the profiler's own. One within another changes
/// nothing.
#[derive(Debug)]
pub struct Uncounted {
    is_outermost: bool,
    /// Belongs to the thread.
    _not_send: PhantomData<*const ()>,
}

/// As `watching`, no size that a probe looks for.
const UNCOUNTED: u32 = u32::MAX;

impl Uncounted {
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: the calling thread's own.
        let is_outermost = HEAP.controls().all(|control| unsafe { (*thread_of(control)).watching } != UNCOUNTED);
        if is_outermost {
            Self::set(UNCOUNTED);
        }
        Self { is_outermost, _not_send: PhantomData }
    }

    fn set(watching: u32) {
        for control in HEAP.controls() {
            let thread = thread_of(control);
            // SAFETY: the calling thread's own.
            unsafe {
                (*thread).watching = watching;
                (*thread).generation = u64::MAX;
            }
        }
    }
}

impl Default for Uncounted {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Uncounted {
    fn drop(&mut self) {
        if self.is_outermost {
            Self::set(0);
        }
    }
}
