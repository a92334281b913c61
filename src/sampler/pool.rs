//! Where thread states live: one reserved address range, filled from the front, never unmapped.
//!
//! Memory is touched only for states that were used, and a ring's pages only as far as it was written.

use crate::error::{Error, Result};
use spprof_sigsafe::ring::RING_WORDS;
use spprof_sigsafe::thread::{NativeOwn, ThreadState};
use spprof_sigsafe::zone::ZONE;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Threads sampled at the same time. The reservation is address space, not memory: 16 Ki x 138 KiB = 2.2 GB.
pub const MAX_THREADS: usize = 1 << 14;
const THREAD_STATES: &str = "memory for thread states";
const SMALL_THREADS: usize = 256;

#[derive(Debug)]
struct Pool {
    states: *mut ThreadState,
    rings: *mut u64,
    /// One a state; null before the first run that captures native frames.
    natives: *mut NativeOwn,
    capacity: usize,
    used: usize,
    free: Vec<&'static ThreadState>,
}

// SAFETY: the pointers are to mappings that live for ever; access goes through the mutex it lives in.
unsafe impl Send for Pool {}

/// Leaked on creation. A forked child forgets it, locked or not, and makes its own (see [`abandon`]).
static POOL: AtomicPtr<Mutex<Pool>> = AtomicPtr::new(std::ptr::null_mut());

/// What was reserved, as (address, bytes), for those who account for the process's memory. A process reserves a handful; of a
/// chain of forks that fills the list, the last are not in it.
static RESERVED: [(AtomicUsize, AtomicUsize); 64] = [const { (AtomicUsize::new(0), AtomicUsize::new(0)) }; 64];

/// The address space that was reserved so far, as (address, bytes).
pub fn reserved() -> impl Iterator<Item = (usize, usize)> {
    let load = |number: &AtomicUsize| number.load(Ordering::Acquire);
    RESERVED.iter().map(move |(address, bytes)| (load(address), load(bytes))).filter(|(_, bytes)| *bytes != 0)
}

/// Zeroed address space for ever, which costs memory only where it is touched. `purpose` is for the error's text.
pub fn reserve(bytes: usize, purpose: &str) -> Result<*mut u8> {
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
        return Err(Error::os(&format!("cannot reserve {purpose}"), &std::io::Error::last_os_error()));
    }
    // Rings are scratch memory: of no use in a core dump, and no reason for huge pages (a failure here only costs memory).
    // SAFETY: the mapping made above.
    unsafe {
        libc::madvise(address, bytes, libc::MADV_DONTDUMP);
        libc::madvise(address, bytes, libc::MADV_NOHUGEPAGE);
    }
    for (place, length) in &RESERVED {
        if place.compare_exchange(0, address as usize, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            length.store(bytes, Ordering::Release);
            break;
        }
    }
    Ok(address.cast())
}

fn create(capacity: usize) -> Result<Pool> {
    let states = reserve(capacity * size_of::<ThreadState>(), THREAD_STATES)?.cast::<ThreadState>();
    let rings = reserve(capacity * RING_WORDS * size_of::<u64>(), THREAD_STATES)?.cast::<u64>();
    Ok(Pool { states, rings, natives: std::ptr::null_mut(), capacity, used: 0, free: Vec::new() })
}

/// The pool of this process. Called by one session at a time, so creation does not race.
fn pool() -> Result<MutexGuard<'static, Pool>> {
    let mut current = POOL.load(Ordering::Acquire);
    if current.is_null() {
        // An address space limit (RLIMIT_AS) may forbid the large reservation: a small one serves most programs.
        let pool = create(MAX_THREADS).or_else(|_| create(SMALL_THREADS))?;
        current = Box::into_raw(Box::new(Mutex::new(pool)));
        POOL.store(current, Ordering::Release);
    }
    // SAFETY: leaked above, never freed.
    Ok(unsafe { &*current }.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Makes sure that there is a pool.
pub fn prepare() -> Result<()> {
    pool().map(drop)
}

/// Makes sure that there is room for the native frames of every thread.
pub fn prepare_native() -> Result<()> {
    let mut pool = pool()?;
    if pool.natives.is_null() {
        pool.natives = reserve(pool.capacity * size_of::<NativeOwn>(), THREAD_STATES)?.cast();
        for (index, state) in ZONE.states().iter().enumerate() {
            // SAFETY: as in `acquire`.
            unsafe { state.set_native(pool.natives.add(index)) };
        }
    }
    Ok(())
}

/// A state for a new thread, blank; `None` when all are in use. Fails only when memory cannot be reserved.
pub fn acquire() -> Result<Option<&'static ThreadState>> {
    let mut pool = pool()?;
    if let Some(state) = pool.free.pop() {
        return Ok(Some(state));
    }
    if pool.used == pool.capacity {
        return Ok(None);
    }
    // SAFETY: slot `used` lies in the reservation, is zeroed, and has not been handed out; so does its ring.
    let state = unsafe {
        let slot = pool.states.add(pool.used);
        slot.write(ThreadState::new(pool.rings.add(pool.used * RING_WORDS)));
        if !pool.natives.is_null() {
            // All-zero bytes are a valid `NativeOwn`, and this one belongs to no other state.
            (*slot).set_native(pool.natives.add(pool.used));
        }
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
    if let Ok(mut pool) = pool() {
        pool.free.push(state);
    }
}

/// In a forked child: forgets the parent's states, whose threads do not exist here. Async-signal-safe.
pub fn abandon() {
    POOL.store(std::ptr::null_mut(), Ordering::Release);
}
