//! The handler, called as the kernel calls it: whose signals it takes, what it records, what it loses and how it says so.

mod image;

use image::sampled::{CURRENT, GILSTATE, Record, Sampled, current, deliver};
use image::{Image, UNMAPPED, layout, layouts, write_word};
use proptest::prelude::*;
use spprof_sigsafe::handler::flags;
use spprof_sigsafe::stack::{MAX_FRAMES, RawFrame};
use spprof_sigsafe::sys::{clock_ns, pthread_self};
use spprof_sigsafe::zone::{MAX_FDS, ZONE};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};

const POLL_IN: c_int = 1;

fn count(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Stacks, times, weights and flags are what they were, on every version.
#[test]
fn a_record_holds_the_sample() {
    for layout in layouts() {
        let mut thread = Sampled::new(Image::new(layout));
        // CPYTHON 3.9-3.11: a state is the running thread's if it says so.
        write_word(thread.tstate + layout.tstate_thread_id, pthread_self());
        let frames = thread.image.frames(4);
        thread.set_stack(&frames);
        let (before, cpu_before) = (clock_ns(libc::CLOCK_MONOTONIC), cpu_ns());
        thread.state.last_cpu_ns.store(cpu_before, Ordering::Relaxed);
        thread.sample();
        thread.set_stack(&frames[1..]);
        thread.sample();
        let (after, cpu_after) = (clock_ns(libc::CLOCK_MONOTONIC), cpu_ns());

        let records = thread.drain();
        assert_eq!(records.iter().map(|it| it.frames.clone()).collect::<Vec<_>>(), [&frames[..], &frames[1..]]);
        assert_eq!([records[0].shared, records[1].shared], [0, 3]);
        for Record { flags, omitted, .. } in &records {
            assert_eq!((*flags, *omitted), (flags::PYTHON | flags::ATTACHED, 0), "{layout:?}");
        }
        assert!(before <= records[0].time && records[0].time <= records[1].time && records[1].time <= after);
        let weights: u64 = records.iter().map(|it| it.weight).sum();
        assert_eq!(weights, thread.state.last_cpu_ns.load(Ordering::Relaxed) - cpu_before, "every nanosecond once");
        assert!(0 < weights && weights <= cpu_after - cpu_before);
        assert_eq!((count(&thread.state.samples), count(&thread.state.weight_ns)), (2, weights));
        assert!(thread.state.is_quiet());
    }
}

/// In wall mode a weight is the time since the sample before.
#[test]
fn wall_weights() {
    let mut thread = Sampled::new(Image::new(layout(13)));
    ZONE.wall.store(true, Ordering::Relaxed);
    let begin = clock_ns(libc::CLOCK_MONOTONIC);
    thread.state.last_wall_ns.store(begin, Ordering::Relaxed);
    thread.sample();
    thread.sample();
    let records = thread.drain();
    assert_eq!(records[0].weight, records[0].time - begin);
    assert_eq!(records[1].weight, records[1].time - records[0].time);
}

/// Whose state it is: the getter's that knows better, by version; and whether the thread is attached.
#[test]
fn which_thread_state() {
    for layout in layouts() {
        let mut thread = Sampled::new(Image::new(layout));
        let (frames, other) = (thread.image.frames(1), thread.image.frames(2));
        thread.set_stack(&frames);
        let elsewhere = thread.image.tstate(thread.image.stack(&other));
        let tstate = thread.tstate;
        let mut seen = |own: usize, current: usize| {
            GILSTATE.store(own, Ordering::Relaxed);
            CURRENT.store(current, Ordering::Relaxed);
            thread.sample();
            let record = thread.drain().remove(0);
            (record.flags, record.frames.len())
        };
        assert_eq!(seen(0, 0), (0, 0), "not a Python thread");
        assert_eq!(seen(tstate, 0), (flags::PYTHON, 1), "detached");
        // Somebody else's before 3.12; a sub-interpreter's from then on, or if it carries this thread's id.
        let expected = if layout.minor >= 12 { (flags::PYTHON | flags::ATTACHED, 2) } else { (flags::PYTHON, 1) };
        assert_eq!(seen(tstate, elsewhere), expected, "{layout:?}");
        write_word(elsewhere + layout.tstate_thread_id, pthread_self());
        assert_eq!(seen(tstate, elsewhere), (flags::PYTHON | flags::ATTACHED, 2), "{layout:?}");
    }
}

/// Only signals that carry a state of the pool are ours; the others are counted and touch nothing.
#[test]
fn foreign_signals() {
    let mut thread = Sampled::new(Image::new(layout(13)));
    let foreign = count(&ZONE.foreign);
    let address = thread.address();
    let range = ZONE.states().as_ptr_range();
    let mut others = vec![(libc::SI_USER, address), (libc::SI_TKILL, address), (libc::SI_KERNEL, address)];
    others.extend([0, address + 8, range.start as usize - 128, range.end as usize].map(|bad| (libc::SI_TIMER, bad)));
    for (code, value) in &others {
        thread.deliver(*code, *value, std::ptr::null_mut());
    }
    assert_eq!(count(&ZONE.foreign) - foreign, others.len() as u64);
    assert!(thread.drain().is_empty());
    assert_eq!(count(&thread.state.entered), 0);
    thread.deliver(libc::SI_QUEUE, address, std::ptr::null_mut());
    assert_eq!(thread.drain().len(), 1, "a signal by sigqueue is ours, too");
}

/// A perf event's signal names its descriptor.
#[test]
fn signals_by_descriptor() {
    let mut thread = Sampled::new(Image::new(layout(13)));
    let table = Vec::leak((0..MAX_FDS).map(|_| AtomicPtr::new(std::ptr::null_mut())).collect());
    // SAFETY: MAX_FDS pointers, leaked.
    unsafe { ZONE.set_fd_table(table.as_mut_ptr()) };
    let last = MAX_FDS as i32 - 1;
    assert!(ZONE.bind_fd(7, thread.state) && ZONE.bind_fd(last, thread.state));
    assert!(!ZONE.bind_fd(last + 1, thread.state) && !ZONE.bind_fd(-1, thread.state));
    let foreign = count(&ZONE.foreign);
    for fd in [7, last, 8, last + 1, -1] {
        thread.deliver(POLL_IN, fd as u32 as usize, std::ptr::null_mut());
    }
    assert_eq!((thread.drain().len(), count(&ZONE.foreign) - foreign), (2, 3));
    // Closed since: no sample, and nobody else's signal either.
    ZONE.retire_fd(7);
    thread.deliver(POLL_IN, 7, std::ptr::null_mut());
    assert_eq!((thread.drain().len(), count(&ZONE.foreign) - foreign), (0, 3));
}

static PASSED_ON: AtomicUsize = AtomicUsize::new(0);
static PASSED_CODE: AtomicI32 = AtomicI32::new(0);

extern "C" fn host_siginfo(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    assert_eq!((signal, context as usize), (libc::SIGURG, 0x77));
    // SAFETY: the test's own siginfo.
    PASSED_CODE.store(unsafe { (*info).si_code }, Ordering::Relaxed);
    PASSED_ON.fetch_add(1, Ordering::Relaxed);
    set_errno(libc::EIO);
}

extern "C" fn host_plain(signal: c_int) {
    assert_eq!(signal, libc::SIGURG);
    PASSED_ON.fetch_add(100, Ordering::Relaxed);
    set_errno(libc::EIO);
}

fn set_errno(value: c_int) {
    // SAFETY: this thread's errno.
    unsafe { *libc::__errno_location() = value };
}

/// A signal of the host's reaches the host's handler, whichever kind it is, and errno is as it was.
#[test]
fn passed_on() {
    let thread = Sampled::new(Image::new(layout(13)));
    for (handler, is_siginfo) in [(host_siginfo as *const () as usize, true), (host_plain as *const () as usize, false)]
    {
        ZONE.chained.store(handler, Ordering::Relaxed);
        ZONE.chained_is_siginfo.store(is_siginfo, Ordering::Relaxed);
        set_errno(libc::EXDEV);
        thread.deliver(libc::SI_USER, 0, 0x77 as *mut c_void);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EXDEV));
    }
    assert_eq!(PASSED_ON.load(Ordering::Relaxed), 101);
    assert_eq!(PASSED_CODE.load(Ordering::Relaxed), libc::SI_USER);
}

unsafe extern "C" fn gilstate_that_fails() -> usize {
    set_errno(libc::EIO);
    0
}

/// Whatever the handler calls, errno is as it was when it returns.
#[test]
fn errno_after_a_sample() {
    let image = Image::new(layout(13));
    let mut thread = Sampled::with_runtime(image, image.runtime_with(gilstate_that_fails, current));
    set_errno(libc::EXDEV);
    thread.sample();
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EXDEV));
    assert_eq!(thread.drain().len(), 1);
}

/// Between runs a late signal does nothing; one that belongs to an earlier thread of the same id is counted.
#[test]
fn late_signals() {
    let mut thread = Sampled::new(Image::new(layout(13)));
    thread.state.pending.store(true, Ordering::Relaxed);
    ZONE.active.store(false, Ordering::SeqCst);
    thread.sample();
    assert!(thread.drain().is_empty() && thread.state.is_quiet());
    assert_eq!((count(&thread.state.entered), thread.state.pending.load(Ordering::Relaxed)), (1, false));
    ZONE.active.store(true, Ordering::SeqCst);
    thread.state.last_cpu_ns.store(u64::MAX, Ordering::Relaxed);
    thread.sample();
    assert!(thread.drain().is_empty());
    assert_eq!(count(&thread.state.losses.stale), 1);
}

/// A walk that breaks leaves a record without frames, which says so. It is not tried where a fault would kill.
#[test]
fn broken_walks() {
    for layout in layouts() {
        let mut thread = Sampled::new(Image::new(layout));
        thread.set_stack(&thread.image.frames(3));
        let mut seen = |context: *mut libc::ucontext_t| {
            thread.deliver(libc::SI_TIMER, thread.address(), context.cast());
            let record = thread.drain().remove(0);
            (record.flags & flags::BROKEN != 0, record.frames.len())
        };
        // SAFETY: all zeroes is a valid ucontext.
        let mut context: libc::ucontext_t = unsafe { std::mem::zeroed() };
        assert_eq!(seen(&mut context), (false, 3));
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            // SAFETY: the context's own mask.
            unsafe { libc::sigaddset(&mut context.uc_sigmask, signal) };
            assert_eq!(seen(&mut context), (true, 0), "blocked");
            // SAFETY: as above.
            unsafe { libc::sigemptyset(&mut context.uc_sigmask) };
        }
        ZONE.fault_handler.store(1, Ordering::Relaxed);
        let expected = if matches!(layout.minor, 11 | 12) { (true, 0) } else { (false, 3) };
        assert_eq!(seen(&mut context), expected, "another handler of SIGSEGV: {layout:?}");
        ZONE.fault_handler.store(image::catch_faults(), Ordering::Relaxed);
        thread.image.set_innermost(thread.tstate, UNMAPPED, thread.image.cframe(UNMAPPED, 0));
        thread.deliver(libc::SI_TIMER, thread.address(), std::ptr::null_mut());
        let record = thread.drain().remove(0);
        assert_eq!((record.flags & flags::BROKEN != 0, record.frames.len()), (true, 0), "{layout:?}");
        let broken = 3 + u64::from(matches!(layout.minor, 11 | 12));
        assert_eq!(count(&thread.state.losses.broken_stack), broken);
    }
}

/// A full ring loses records, not time: what was dropped is counted, and what comes after is understood.
#[test]
fn a_full_ring() {
    const CALLS: u64 = 3000;
    let mut thread = Sampled::new(Image::new(layout(13)));
    let stacks = [thread.image.frames(20), thread.image.frames(30)];
    let begin = cpu_ns();
    thread.state.last_cpu_ns.store(begin, Ordering::Relaxed);
    let mut expected = vec![];
    for call in 0..CALLS {
        let (stack, taken) = (&stacks[call as usize % 2], count(&thread.state.samples));
        thread.set_stack(stack);
        thread.sample();
        // A short record may fit where a longer one did not.
        expected.extend((count(&thread.state.samples) > taken).then_some(stack));
    }
    let (taken, lost) = (count(&thread.state.samples), count(&thread.state.losses.ring_full));
    assert!(taken > 100 && lost > 100 && taken + lost == CALLS, "{taken} + {lost}");
    let spent = thread.state.last_cpu_ns.load(Ordering::Relaxed) - begin;
    assert_eq!(count(&thread.state.weight_ns) + count(&thread.state.losses.dropped_ns), spent);
    let records = thread.drain();
    assert!(records.iter().map(|record| &record.frames).eq(expected));
    // The frames that the last record in the ring had are still what the next one is told against.
    let mixed = [&thread.image.frames(2)[..], &records.last().unwrap().frames[5..]].concat();
    thread.set_stack(&mixed);
    thread.sample();
    assert_eq!(thread.drain().remove(0).frames, mixed);
}

unsafe extern "C" fn gilstate_that_sleeps() -> usize {
    std::thread::sleep(NAP);
    0
}

const NAP: std::time::Duration = std::time::Duration::from_millis(20);

/// A handler whose thread is taken off the processor does not count that time as its own.
#[test]
fn preempted_in_the_handler() {
    let image = Image::new(layout(13));
    let thread = Sampled::with_runtime(image, image.runtime_with(gilstate_that_sleeps, current));
    thread.sample();
    let took = u128::from(count(&thread.state.handler_ns));
    assert!(0 < took && took < NAP.as_nanos() / 2, "{took} ns");
    assert_eq!(thread.state.durations.counts().sum::<u64>(), 1);
}

unsafe extern "C" fn gilstate_that_works() -> usize {
    let begin = cpu_ns();
    while cpu_ns() - begin < LONG_NS {}
    0
}

const LONG_NS: u64 = 20_000_000;

/// After a long run of the handler its thread is left alone until it has worked as long. No time is lost: the next sample has it.
#[test]
fn rests_after_a_long_run() {
    let image = Image::new(layout(13));
    let mut thread = Sampled::with_runtime(image, image.runtime_with(gilstate_that_works, current));
    let begin = cpu_ns();
    thread.state.last_cpu_ns.store(begin, Ordering::Relaxed);
    let now = || deliver(libc::SI_TIMER, std::ptr::from_ref(thread.state) as usize, std::ptr::null_mut());
    now();
    let end = cpu_ns();
    now();
    now();
    assert_eq!((count(&thread.state.samples), count(&thread.state.losses.rested)), (1, 2));
    while cpu_ns() < end + 2 * LONG_NS {}
    now();
    assert_eq!((count(&thread.state.samples), count(&thread.state.losses.rested)), (2, 2));
    let weights: u64 = thread.drain().iter().map(|record| record.weight).sum();
    assert_eq!(weights, thread.state.last_cpu_ns.load(Ordering::Relaxed) - begin);
    assert!(weights >= 2 * LONG_NS);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stacks follow one another, the consumer reads them as they were. After a release of code objects nothing is
    /// shared; otherwise all that can be is.
    #[test]
    fn shared_frames(
        steps in proptest::collection::vec((0..20_usize, 0..12_usize, any::<bool>(), 0..20_u32), 1..60),
    ) {
        let mut thread = Sampled::new(Image::new(layout(14)));
        let known = thread.image.frames(6);
        let (mut stack, mut before): (Vec<RawFrame>, Vec<RawFrame>) = (vec![], vec![]);
        let mut was_deep = false;
        for (step, (popped, pushed, released, deep)) in steps.into_iter().enumerate() {
            // Leaf first: what is popped and pushed is at the front.
            stack.drain(..popped.min(stack.len()));
            for at in 0..pushed.min(MAX_FRAMES - stack.len()) {
                stack.insert(0, known[(at * 5 + popped) % known.len()]);
            }
            let is_deep = deep == 0;
            let whole = if is_deep { [vec![known[0]; MAX_FRAMES + 1], stack.clone()].concat() } else { stack.clone() };
            if released {
                ZONE.release_generation.fetch_add(1, Ordering::AcqRel);
            }
            thread.set_stack(&whole);
            thread.sample();
            let record = thread.drain().remove(0);
            let kept = whole.len().min(MAX_FRAMES);
            prop_assert_eq!(record.omitted as usize, whole.len() - kept);
            prop_assert_eq!(record.frames.len(), kept);
            if !is_deep {
                prop_assert_eq!(&record.frames, &stack);
            }
            let same = stack.iter().rev().zip(before.iter().rev()).take_while(|(a, b)| a == b).count();
            let expected = if released || is_deep || was_deep || step == 0 { 0 } else { same };
            prop_assert_eq!(record.shared as usize, expected);
            (before, was_deep) = (stack.clone(), is_deep);
        }
    }
}
