//! Where thread states live: one reserved address range, filled from the front, never unmapped.
//!
//! Memory is touched only for states that were used, and a ring's pages only as far as it was written.

use crate::error::{Error, Result};
use spprof_sigsafe::ring::RING_WORDS;
use spprof_sigsafe::thread::ThreadState;
use spprof_sigsafe::zone::ZONE;
use std::sync::Mutex;

/// Threads sampled at the same time. The reservation is address space, not memory: 16 Ki x 138 KiB = 2.2 GB.
pub const MAX_THREADS: usize = 1 << 14;

#[derive(Debug)]
struct Pool {
    states: *mut ThreadState,
    rings: *mut u64,
    used: usize,
    free: Vec<&'static ThreadState>,
}

// SAFETY: the pointers are to mappings that live for ever; access goes through the mutex below.
unsafe impl Send for Pool {}

static POOL: Mutex<Option<Pool>> = Mutex::new(None);

fn reserve(bytes: usize) -> Result<*mut u8> {
    // SAFETY: a fresh private mapping.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(Error::os("cannot reserve memory for thread states", &std::io::Error::last_os_error()));
    }
    // Rings are scratch memory: of no use in a core dump, and no reason for huge pages (a failure here only costs memory).
    // SAFETY: the mapping made above.
    unsafe {
        libc::madvise(address, bytes, libc::MADV_DONTDUMP);
        libc::madvise(address, bytes, libc::MADV_NOHUGEPAGE);
    }
    Ok(address.cast())
}

fn create(capacity: usize) -> Result<Pool> {
    let states = reserve(capacity * size_of::<ThreadState>())?.cast::<ThreadState>();
    let rings = reserve(capacity * RING_WORDS * size_of::<u64>())?.cast::<u64>();
    Ok(Pool { states, rings, used: 0, free: Vec::new() })
}

/// A state for a new thread, blank; `None` when all are in use. Fails only when memory cannot be reserved.
pub fn acquire() -> Result<Option<&'static ThreadState>> {
    let mut guard = POOL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let pool = match guard.as_mut() {
        Some(pool) => pool,
        // An address space limit (RLIMIT_AS) may forbid the large reservation: a small one serves most programs.
        None => guard.insert(create(MAX_THREADS).or_else(|_| create(256))?),
    };
    if let Some(state) = pool.free.pop() {
        return Ok(Some(state));
    }
    if pool.used == MAX_THREADS {
        return Ok(None);
    }
    // SAFETY: slot `used` lies in the reservation, is zeroed, and has not been handed out; so does its ring.
    let state = unsafe {
        let slot = pool.states.add(pool.used);
        slot.write(ThreadState::new(pool.rings.add(pool.used * RING_WORDS)));
        pool.used += 1;
        // The handler may look at any state in the range only once it is initialised.
        ZONE.set_pool(pool.states, pool.states.add(pool.used));
        &*slot
    };
    Ok(Some(state))
}

/// Gives a state back. The caller has made sure that no signal of its thread can still arrive.
pub fn release(state: &'static ThreadState) {
    state.reset();
    let mut guard = POOL.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(pool) = guard.as_mut() {
        pool.free.push(state);
    }
}
