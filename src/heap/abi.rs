//! The contract with the fronts: `interpose/spprof_alloc.h`, field by field.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64};

/// Changes with every change of the structures.
pub const ABI: u32 = 1;

/// Who was asked for the memory.
pub mod domain {
    pub const MALLOC: u32 = 0;
    pub const PYTHON: u32 = 1;
    pub const MMAP: u32 = 2;
}

/// What a front knows of one thread.
#[derive(Debug)]
#[repr(C)]
pub struct Thread {
    pub left: i64,
    pub generation: u64,
    pub rate: u64,
    pub random: u64,
    pub inside: u32,
    pub watching: u32,
    pub seen: *mut c_void,
}

#[derive(Debug)]
#[repr(C)]
pub struct Hooks {
    pub on_alloc: unsafe extern "C" fn(*mut Thread, *mut c_void, usize, u32, *mut c_void),
    pub on_free: unsafe extern "C" fn(*mut c_void),
    pub take: unsafe extern "C" fn(*mut c_void) -> u64,
    pub drop: unsafe extern "C" fn(u64),
    pub give_back: unsafe extern "C" fn(u64, *mut c_void),
    pub knows: unsafe extern "C" fn(*mut c_void) -> c_int,
    pub on_unmap: unsafe extern "C" fn(*mut c_void, usize),
    pub on_arena: unsafe extern "C" fn(i64),
}

#[derive(Debug)]
#[repr(C)]
pub struct Control {
    pub abi: u32,
    pub size: u32,
    pub generation: AtomicU64,
    pub filter: AtomicPtr<AtomicU8>,
    pub hooks: AtomicPtr<Hooks>,
    pub thread: unsafe extern "C" fn() -> *mut Thread,
}

const _: () = assert!(size_of::<Thread>() == 48 && size_of::<Hooks>() == 64 && size_of::<Control>() == 40);
