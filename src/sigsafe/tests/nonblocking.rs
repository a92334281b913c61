//! The handler and the walk neither allocate nor block: watched over thousands of samples of every kind.
//!
//! By an allocator that counts what is asked of it inside the handler; and, built with `--cfg rtsan` (`make rtsan`), by
//! RealtimeSanitizer, which ends the process at any call that may wait for somebody.

mod image;

use image::sampled::{Sampled, gilstate};
use image::{Image, Kind, UNMAPPED, catch_faults, layouts, write_word};
use spprof_sigsafe::stack::MAX_FRAMES;
use spprof_sigsafe::zone::ZONE;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

struct Watching;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static IN_HANDLER: Cell<bool> = const { Cell::new(false) };
}

fn note() {
    if IN_HANDLER.get() {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: the system's allocator, asked as we were asked.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note();
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// Allocations and frees while the handler ran.
fn watch(thread: &Sampled, code: i32, value: usize) -> usize {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    IN_HANDLER.set(true);
    thread.deliver(code, value, std::ptr::null_mut());
    IN_HANDLER.set(false);
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// A getter that allocates: what the handler must never do.
unsafe extern "C" fn gilstate_that_allocates() -> usize {
    drop(std::hint::black_box(Box::new(7)));
    // SAFETY: takes nothing, does nothing else.
    unsafe { gilstate() }
}

/// Samples of every kind: new and repeated stacks, deep, broken, restarted and looping ones, a full ring, signals that are
/// not ours, no Python at all.
#[test]
fn no_allocation() {
    const ROUNDS: usize = 300;
    catch_faults();
    for layout in layouts() {
        let mut thread = Sampled::new(Image::new(layout));
        let image = thread.image;
        let raws = image.frames(MAX_FRAMES * 2);
        let looping = image.frame(Kind::Python(raws[0]), 0);
        write_word(looping + layout.frame_previous, looping);
        let stacks = [0, 1, 7, 40, MAX_FRAMES, MAX_FRAMES * 2].map(|depth| image.stack(&raws[..depth]));
        let caller = image.cframe(stacks[2], image.cframe(0, 0));
        let mut allocations = 0;
        for round in 0..ROUNDS {
            let broken = [UNMAPPED, 8, usize::MAX & !7];
            let innermost = stacks.iter().chain(&broken).chain(&[looping]).copied().nth(round % 10).unwrap();
            image.set_innermost(thread.tstate, innermost, caller);
            if round % 50 == 0 {
                ZONE.release_generation.fetch_add(1, Ordering::AcqRel);
            }
            if round == ROUNDS / 2 {
                assert!(thread.state.losses.ring_full.load(Ordering::Relaxed) > 0, "the ring was never full");
                drop(thread.drain());
            }
            allocations += watch(&thread, libc::SI_TIMER, thread.address());
            allocations += watch(&thread, libc::SI_USER, 0);
            allocations += watch(&thread, libc::SI_TIMER, 64);
        }
        assert_eq!(allocations, 0, "{layout:?}");
        let losses = &thread.state.losses;
        let seen = |counter: &AtomicU64| counter.load(Ordering::Relaxed) > 0;
        assert!(seen(&losses.truncated) && seen(&thread.state.samples));
        assert_eq!(seen(&losses.restarted), matches!(layout.minor, 11 | 12));
        assert_eq!(seen(&losses.broken_stack), !matches!(layout.minor, 11 | 12));
    }
}

/// One allocation in the handler is seen.
#[cfg(not(rtsan))]
#[test]
fn an_allocation_is_seen() {
    let image = Image::new(image::layout(13));
    let thread = Sampled::with_runtime(image, image.runtime_with(gilstate_that_allocates, gilstate));
    assert_eq!(watch(&thread, libc::SI_TIMER, thread.address()), 2);
}

/// The sanitizer is there: a handler that allocates ends its process, with a report that names the call.
#[cfg(rtsan)]
#[test]
fn an_allocation_is_seen() {
    const CHILD: &str = "SPPROF_TEST_ALLOCATE";
    if std::env::var_os(CHILD).is_some() {
        let image = Image::new(image::layout(13));
        let thread = Sampled::with_runtime(image, image.runtime_with(gilstate_that_allocates, gilstate));
        thread.sample();
        return;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["an_allocation_is_seen", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stderr);
    assert!(!child.status.success() && text.contains("unsafe-library-call") && text.contains("malloc"), "{text}");
}
