//! Hooks of CPython's allocator domains: what pymalloc (or mimalloc) serves itself, malloc does not see.
//!
//! Who serves which sizes is found out by asking each domain for a block and looking whether malloc was asked for it: so it is
//! right under PYTHONMALLOC, debug hooks, other tools' wrappers and in every version. Runs with the GIL.

use super::fronts;
use crate::error::{Error, Result};
use crate::sampler::runtime;
use spprof_heap::abi::Control;
use std::ffi::{CStr, c_int, c_void};

#[derive(Clone, Copy)]
#[repr(C)]
struct Allocator {
    ctx: *mut c_void,
    malloc: Option<unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void>,
    calloc: Option<unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void>,
    realloc: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void>,
    free: Option<unsafe extern "C" fn(*mut c_void, *mut c_void)>,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Arena {
    ctx: *mut c_void,
    alloc: Option<unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void>,
    free: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, usize)>,
}

#[repr(C)]
struct Domain {
    /// All zero until the hooks are put in.
    original: Allocator,
    hooked: Allocator,
    split: usize,
    maps: usize,
}

const _: () = assert!(size_of::<Domain>() == 12 * size_of::<usize>());

unsafe extern "C" {
    fn spprof_python_domain(index: u32) -> *mut Domain;
    fn spprof_python_arena(hooked: *mut Arena) -> *mut Arena;
}

type Access = unsafe extern "C" fn(c_int, *mut Allocator);
type AccessArena = unsafe extern "C" fn(*mut Arena);

/// raw, mem, object.
const DOMAINS: c_int = 3;
/// Beyond this an allocator of small blocks has passed to malloc if it ever does.
const LARGE: usize = 1 << 20;

fn function(name: &'static CStr) -> Result<usize> {
    runtime::symbol(name)
        .ok_or_else(|| Error::runtime(format!("the running CPython does not export {}", name.to_string_lossy())))
}

fn access(name: &'static CStr) -> Result<Access> {
    // SAFETY: `void PyMem_GetAllocator(PyMemAllocatorDomain, PyMemAllocatorEx *)`, and the setter alike.
    Ok(unsafe { std::mem::transmute::<usize, Access>(function(name)?) })
}

fn access_arena(name: &'static CStr) -> Result<AccessArena> {
    // SAFETY: `void PyObject_GetArenaAllocator(PyObjectArenaAllocator *)`, and the setter alike.
    Ok(unsafe { std::mem::transmute::<usize, AccessArena>(function(name)?) })
}

fn current(get: Access, index: c_int) -> Allocator {
    let mut now = std::mem::MaybeUninit::<Allocator>::uninit();
    // SAFETY: fills the structure in; needs the GIL, which our caller holds.
    unsafe {
        get(index, now.as_mut_ptr());
        now.assume_init()
    }
}

fn same(a: &Allocator, b: &Allocator) -> bool {
    a.malloc.map(|it| it as usize) == b.malloc.map(|it| it as usize)
}

/// The largest size up to which a domain does not ask malloc; `usize::MAX` when it never does, 0 when it always does.
fn split(malloc: &Control, domain: &Allocator) -> usize {
    let (Some(ask), Some(give_back)) = (domain.malloc, domain.free) else { return 0 };
    let serves_itself = |size: usize| {
        let mut block = std::ptr::null_mut();
        // SAFETY: the domain's own functions, with the GIL held.
        let asked = fronts::comes_from_malloc(malloc, size, || unsafe {
            block = ask(domain.ctx, size);
            block as usize
        });
        // SAFETY: the block that was just given, or null.
        unsafe { give_back(domain.ctx, block) };
        !asked
    };
    if !serves_itself(1) {
        return 0;
    }
    if serves_itself(LARGE) {
        return usize::MAX;
    }
    let (mut served, mut passed) = (1, LARGE);
    while passed - served > 1 {
        let size = served + (passed - served) / 2;
        if serves_itself(size) { served = size } else { passed = size }
    }
    served
}

/// Hooks the domains that serve anything themselves; gives for each the largest size it serves.
pub fn put_in(malloc: &Control, free_threaded: bool) -> Result<Vec<usize>> {
    let (get, set) = (access(c"PyMem_GetAllocator")?, access(c"PyMem_SetAllocator")?);
    let mut splits = Vec::new();
    for index in 0..DOMAINS {
        // SAFETY: a static of the C side, for each of the three; only we use it, with the GIL held.
        let domain = unsafe { &mut *spprof_python_domain(index as u32) };
        let mut now = current(get, index);
        if same(&now, &domain.hooked) {
            splits.push(domain.split);
            continue;
        }
        let split = split(malloc, &now);
        splits.push(split);
        if split == 0 {
            continue;
        }
        domain.split = split;
        domain.maps = usize::from(free_threaded && split == usize::MAX);
        domain.original = now;
        now = domain.hooked;
        // SAFETY: hooks that pass on to what was there; needs the GIL.
        unsafe { set(index, &mut now) };
    }
    put_arena_in()?;
    Ok(splits)
}

fn put_arena_in() -> Result<()> {
    let (get, set) = (access_arena(c"PyObject_GetArenaAllocator")?, access_arena(c"PyObject_SetArenaAllocator")?);
    let mut hooked = Arena { ctx: std::ptr::null_mut(), alloc: None, free: None };
    let mut now = hooked;
    // SAFETY: fills in structures; needs the GIL.
    unsafe {
        let original = spprof_python_arena(&mut hooked);
        get(&mut now);
        if now.alloc.map(|it| it as usize) != hooked.alloc.map(|it| it as usize) {
            *original = now;
            set(&mut hooked);
        }
    }
    Ok(())
}

/// Takes the hooks out where they are on top. Where another tool has put its own over them they stay, and pass everything on.
pub fn take_out() -> Result<()> {
    let (get, set) = (access(c"PyMem_GetAllocator")?, access(c"PyMem_SetAllocator")?);
    for index in 0..DOMAINS {
        // SAFETY: as in `put_in`.
        let domain = unsafe { &mut *spprof_python_domain(index as u32) };
        if domain.original.malloc.is_some() && same(&current(get, index), &domain.hooked) {
            let mut original = domain.original;
            // SAFETY: what was there before us.
            unsafe { set(index, &mut original) };
        }
    }
    let (get, set) = (access_arena(c"PyObject_GetArenaAllocator")?, access_arena(c"PyObject_SetArenaAllocator")?);
    let mut hooked = Arena { ctx: std::ptr::null_mut(), alloc: None, free: None };
    let mut now = hooked;
    // SAFETY: as in `put_arena_in`.
    unsafe {
        let original = spprof_python_arena(&mut hooked);
        get(&mut now);
        if now.alloc.map(|it| it as usize) == hooked.alloc.map(|it| it as usize) && (*original).alloc.is_some() {
            set(original);
        }
    }
    Ok(())
}
