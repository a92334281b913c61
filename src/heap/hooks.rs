//! The slow half of the fronts' hooks: what happens when a countdown ends, and when a block that may be sampled is freed.

use crate::abi::{Hooks, Thread, domain};
use crate::draw;
use crate::live::Sample;
use crate::stacks::BROKEN;
use crate::state::{HEAP, Tables};
use crate::weight;
use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering;
use spprof_sigsafe::handler::current_tstate;
use spprof_sigsafe::pywalk::{Interrupted, Verified, WalkOutcome, walk};
use spprof_sigsafe::stack::Stack;
use spprof_sigsafe::sys::{ErrnoGuard, clock_ns};
use spprof_sigsafe::zone::ZONE;

/// Given to every front.
pub static HOOKS: Hooks = Hooks { on_alloc, on_free, take, drop, give_back, knows, on_unmap, on_arena };

#[must_use]
pub fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

fn gettid() -> u32 {
    // SAFETY: always callable, never fails.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

/// A thread's countdown ended, or was drawn for other settings than those of now.
unsafe extern "C" fn on_alloc(thread: *mut Thread, block: *mut c_void, size: usize, kind: u32, caller: *mut c_void) {
    let _errno = ErrnoGuard::save();
    // SAFETY: a front gives the calling thread's own state. A signal handler of the program that allocates just here finds
    // it halfway through a change: at worst it draws once more.
    let thread = unsafe { &mut *thread };
    if thread.watching != 0 {
        thread.seen = block;
        thread.left = thread.left.wrapping_add(size as i64);
        return;
    }
    let generation = HEAP.generation.load(Ordering::Acquire);
    let rate = HEAP.rate.load(Ordering::Acquire);
    if thread.generation != generation || thread.rate != rate {
        if thread.random == 0 {
            let address = core::ptr::from_mut(thread) as u64;
            thread.random = draw::seed(now_ns() ^ address.rotate_left(20) ^ u64::from(gettid()).rotate_left(40));
        }
        thread.generation = generation;
        thread.rate = rate;
        thread.left = if rate == 0 { i64::MAX } else { draw::distance(&mut thread.random, rate) };
        thread.left = thread.left.wrapping_sub(size as i64);
    }
    if rate == 0 {
        thread.left = i64::MAX;
        return;
    }
    if thread.left >= 0 {
        return;
    }
    thread.left = draw::distance(&mut thread.random, rate);
    let random = draw::next(&mut thread.random);
    if let Some(tables) = HEAP.tables() {
        record(tables, block, size as u64, rate, kind, caller, random);
    }
}

fn record(tables: &Tables, block: *mut c_void, size: u64, rate: u64, kind: u32, caller: *mut c_void, random: u64) {
    let weight = weight::weigh(size, rate, random);
    let time_ns = now_ns();
    // A block that is still in the table at this address was freed where no hook saw it.
    let stale = tables.live.take(block as usize);
    if stale != 0 {
        HEAP.totals.unseen_frees.fetch_add(1, Ordering::Relaxed);
        end(tables, stale, time_ns);
    }
    let sample = Sample {
        address: block as u64,
        size,
        inverse: weight.inverse,
        bytes: weight.bytes,
        count: weight.count,
        rate,
        time_ns,
        stack: stack_of(tables, if kind == domain::PYTHON { 0 } else { caller as u64 }),
        tid: gettid(),
        gc_epoch: HEAP.gc_epoch.load(Ordering::Relaxed),
        domain: kind,
    };
    let serial = HEAP.serial.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    if tables.live.insert(serial, &sample) {
        HEAP.account_alloc(tables, &sample);
    } else {
        HEAP.totals.lost_samples.fetch_add(1, Ordering::Relaxed);
        HEAP.totals.lost_bytes.fetch_add(sample.bytes, Ordering::Relaxed);
    }
    HEAP.bound(time_ns);
}

/// The calling thread's stack, as an entry of the table.
#[inline(never)]
fn stack_of(tables: &Tables, caller: u64) -> u32 {
    let mut stack = Stack::new();
    let mut caller = caller;
    if HEAP.walks.load(Ordering::Acquire)
        && let Some(runtime) = ZONE.runtime()
    {
        let (tstate, _) = current_tstate(runtime);
        if tstate != 0
            && walk(runtime, &mut Verified::new(), tstate, Interrupted::default(), &mut stack) == WalkOutcome::Broken
        {
            HEAP.totals.broken_stacks.fetch_add(1, Ordering::Relaxed);
            caller |= BROKEN;
        }
    }
    if stack.omitted != 0 {
        HEAP.totals.truncated_stacks.fetch_add(1, Ordering::Relaxed);
    }
    let run = HEAP.run.load(Ordering::Acquire);
    match tables.stacks.intern(run, caller, &stack, HEAP.stack_limit.load(Ordering::Relaxed)) {
        0 => {
            HEAP.totals.stack_table_full.fetch_add(1, Ordering::Relaxed);
            HEAP.overflow.load(Ordering::Relaxed)
        }
        entry => entry,
    }
}

/// The record in hand is of a block that is gone.
fn end(tables: &Tables, token: u64, now_ns: u64) {
    if let Some((_, sample)) = tables.live.in_hand(token) {
        HEAP.account_free(tables, &sample, now_ns, true);
    }
    tables.live.let_go(token);
}

unsafe extern "C" fn on_free(block: *mut c_void) {
    let _errno = ErrnoGuard::save();
    let Some(tables) = HEAP.tables() else { return };
    let token = tables.live.take(block as usize);
    if token != 0 {
        end(tables, token, now_ns());
    }
}

unsafe extern "C" fn take(block: *mut c_void) -> u64 {
    HEAP.tables().map_or(0, |tables| tables.live.take(block as usize))
}

unsafe extern "C" fn drop(token: u64) {
    let _errno = ErrnoGuard::save();
    if let Some(tables) = HEAP.tables() {
        end(tables, token, now_ns());
    }
}

unsafe extern "C" fn give_back(token: u64, block: *mut c_void) {
    let _errno = ErrnoGuard::save();
    if let Some(tables) = HEAP.tables()
        && !tables.live.put_back(token, block as usize)
    {
        HEAP.totals.not_put_back.fetch_add(1, Ordering::Relaxed);
        end(tables, token, now_ns());
    }
}

unsafe extern "C" fn knows(block: *mut c_void) -> c_int {
    HEAP.tables().is_some_and(|tables| tables.live.knows(block as usize)).into()
}

/// Sampled mappings may lose a part, at either end or in the middle: what is left of them stays.
unsafe extern "C" fn on_unmap(start: *mut c_void, length: usize) {
    if HEAP.totals.mappings.load(Ordering::Relaxed) == 0 {
        return;
    }
    let _errno = ErrnoGuard::save();
    let Some(tables) = HEAP.tables() else { return };
    let (start, stop) = (start as u64, (start as u64).saturating_add(length as u64));
    for (_, sample) in tables.live.samples() {
        let end_of = sample.address.saturating_add(sample.size);
        let gone = stop.min(end_of).saturating_sub(start.max(sample.address));
        if sample.domain != domain::MMAP || gone == 0 {
            continue;
        }
        let token = tables.live.take(sample.address as usize);
        let Some((cell, sample)) = tables.live.in_hand(token) else { continue };
        if gone >= sample.size {
            end(tables, token, now_ns());
            continue;
        }
        let size = sample.size.wrapping_sub(gone);
        let bytes = weight::whole(size as f64 * sample.inverse, 0.5);
        let part = Sample { bytes: sample.bytes.saturating_sub(bytes), ..sample };
        HEAP.account_free(tables, &part, now_ns(), false);
        let address = if start <= sample.address { stop } else { sample.address };
        let serial = HEAP.serial.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        cell.write(serial, &Sample { address, size, bytes, ..sample });
        if !tables.live.put_back(token, address as usize) {
            HEAP.totals.not_put_back.fetch_add(1, Ordering::Relaxed);
            end(tables, token, now_ns());
        }
    }
}

unsafe extern "C" fn on_arena(bytes: i64) {
    HEAP.totals.arena_bytes.fetch_add(bytes, Ordering::Relaxed);
}
