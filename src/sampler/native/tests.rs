//! The tables against the C library's own unwinder, which reads the same sections in its own way; and damaged sections.

use super::modules::{self, Modules};
use super::phdr;
use super::table::{Rules, Sections, Table};
use crate::sampler::signals::SignalOwner;
use proptest::prelude::*;
use spprof_sigsafe::stack::marks;
use spprof_sigsafe::unwind::map::{Cache, Code, Map};
use spprof_sigsafe::unwind::rule::Registers;
use spprof_sigsafe::unwind::{Ending, Trace};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

const MOST: usize = 256;

/// What the handler compares with, and what it found.
struct Shared {
    modules: std::sync::Arc<Modules>,
    trace: Trace,
    cache: Cache,
    theirs: [*mut c_void; MOST],
    equal: usize,
    different: Vec<(Vec<usize>, Vec<usize>, Ending)>,
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());
static SEEN: AtomicUsize = AtomicUsize::new(0);

/// A frame's address in memory as a return address, or as it was interrupted.
fn in_memory(modules: &Modules, trace: &Trace) -> Vec<usize> {
    let frames = trace.frames().iter().filter_map(|traced| traced.frame.as_native());
    frames
        .map(|frame| {
            let bias = modules.list.iter().find(|module| module.id == frame.module).map_or(0, |module| module.bias);
            (frame.address + bias) as usize + usize::from(frame.marks & marks::EXACT == 0)
        })
        .collect()
}

unsafe extern "C" fn on_signal(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the test leaves this to the one thread that gets the signal; the context is the kernel's.
    let (shared, registers) =
        unsafe { (&mut *SHARED.load(Ordering::Acquire), Registers::of_context(context).unwrap()) };
    let interrupted = registers.ip;
    let Shared { modules, trace, cache, theirs, .. } = shared;
    trace.follow(modules.map(), cache, registers);
    // SAFETY: a buffer of that many pointers; it was called before, so it loads nothing now.
    let count = unsafe { libc::backtrace(theirs.as_mut_ptr(), MOST as c_int) } as usize;
    let theirs = &theirs[..count];
    let from = theirs.iter().position(|at| *at as usize == interrupted).unwrap_or(count);
    // SAFETY: the same state again.
    let equal = theirs[from..].iter().map(|at| *at as usize).eq(in_memory_iter(modules, trace));
    if equal && trace.ending == Ending::Start {
        shared.equal += 1;
    } else if shared.different.len() < shared.different.capacity() {
        // Rare, and then the test has failed: allocation may be.
        let ours = in_memory(modules, trace);
        shared.different.push((ours, theirs[from..].iter().map(|at| *at as usize).collect(), trace.ending));
    }
    SEEN.fetch_add(1, Ordering::Release);
}

fn in_memory_iter<'a>(modules: &'a Modules, trace: &'a Trace) -> impl Iterator<Item = usize> + 'a {
    trace.frames().iter().filter_map(|traced| traced.frame.as_native()).map(|frame| {
        let bias = modules.list.iter().find(|module| module.id == frame.module).map_or(0, |module| module.bias);
        (frame.address + bias) as usize + usize::from(frame.marks & marks::EXACT == 0)
    })
}

unsafe extern "C" fn compare(one: *const c_void, two: *const c_void) -> c_int {
    // SAFETY: qsort's elements.
    let (one, two) = unsafe { (*one.cast::<u32>(), *two.cast::<u32>()) };
    std::hint::black_box(format!("{one} {two}")).len() as c_int % 3 - 1
}

/// Work in many places: callbacks from C, allocation, formatting, mathematics, recursion.
fn work(depth: usize) -> f64 {
    let mut numbers: Vec<u32> = (0..60).map(|it| it * 7919 % 61).collect();
    // SAFETY: a slice and its size.
    unsafe { libc::qsort(numbers.as_mut_ptr().cast(), numbers.len(), 4, Some(compare)) };
    let mut text: Vec<String> = numbers.iter().map(|it| format!("{:.9}", f64::from(*it).sqrt().sin())).collect();
    text.sort();
    let sum: f64 = text.iter().map(|it| it.parse::<f64>().unwrap_or(0.0).tan()).sum();
    std::hint::black_box(if depth == 0 { sum } else { sum + work(depth - 1) })
}

/// At thousands of places, wherever a signal interrupts, both find the same callers up to the thread's start.
#[test]
fn agrees_with_the_c_library() {
    const SAMPLES: usize = 3000;
    let mut first: [*mut c_void; 4] = [std::ptr::null_mut(); 4];
    // SAFETY: loads what it needs before it is called in a handler.
    unsafe { libc::backtrace(first.as_mut_ptr(), 4) };
    let shared = Box::new(Shared {
        modules: modules::current(),
        trace: Trace::new(),
        cache: Cache::new(),
        theirs: [std::ptr::null_mut(); MOST],
        equal: 0,
        different: Vec::with_capacity(16),
    });
    let shared = Box::into_raw(shared);
    SHARED.store(shared, Ordering::Release);
    // SAFETY: a handler of the right type for a signal that nobody else uses here.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGUSR2, &action, std::ptr::null_mut()), 0);
    }
    let (tell, told) = std::sync::mpsc::channel();
    let worker = std::thread::spawn(move || {
        // SAFETY: the calling thread's handle.
        tell.send(unsafe { libc::pthread_self() } as usize).unwrap();
        while SEEN.load(Ordering::Acquire) < SAMPLES {
            work(SEEN.load(Ordering::Relaxed) % 20);
        }
    });
    let thread = told.recv().unwrap();
    let mut sent = 0;
    while sent < SAMPLES {
        // SAFETY: the worker lives until it has seen them all.
        unsafe { libc::pthread_kill(thread as libc::pthread_t, libc::SIGUSR2) };
        sent += 1;
        while SEEN.load(Ordering::Acquire) < sent {
            std::thread::yield_now();
        }
    }
    worker.join().unwrap();
    // SAFETY: made above; no signal comes any more.
    let shared = unsafe { Box::from_raw(shared) };
    let different: Vec<String> =
        shared.different.iter().map(|(ours, theirs, ending)| format!("{ending:?} {ours:x?}\n{theirs:x?}")).collect();
    assert_eq!(shared.equal, SAMPLES, "{} differ, as\n{}", different.len(), different.join("\n"));
}

/// Which share of the rows of every module here is understood.
#[test]
fn nearly_every_row_is_understood() {
    let now = modules::current();
    for (module, code) in now.list.iter().zip(by_id(&now)) {
        let known = |rule: &u16| now.map().rule(*rule) != spprof_sigsafe::unwind::rule::Rule::Unknown;
        let rows = code.rules.len();
        let unknown = code.rules.iter().filter(|rule| !known(rule)).count();
        // The gap before the first and behind the last function, and between sections.
        assert!(unknown <= 8 + rows / 200, "{}: {unknown} of {rows}", String::from_utf8_lossy(&module.path));
        assert!(code.starts.windows(2).all(|pair| pair[0] < pair[1]) && code.starts.len() == rows);
    }
    assert!(now.map().modules.iter().map(|code| code.rules.len()).sum::<usize>() > 10_000);
}

fn by_id<'a>(modules: &'a Modules) -> impl Iterator<Item = Code<'a>> + 'a {
    modules.list.iter().map(|module| *modules.map().modules.iter().find(|code| code.id == module.id).unwrap())
}

/// The sections of this program's own file.
fn own_sections() -> (Sections, usize, usize, u64) {
    let here = own_sections as *const () as usize;
    let (_, found) = phdr::list(|_, _, _, _| None);
    let own = found.into_iter().flatten().find(|it| (it.code_start..it.code_end).contains(&here)).unwrap();
    (own.sections.unwrap(), own.code_start, own.code_end, own.module.bias)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Damaged sections give some table, and stacks walked by it end: no panic, no fault that escapes.
    #[test]
    fn damaged_sections(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..3000),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let _owner = SignalOwner::install().unwrap();
        let (mut sections, start, end, bias) = own_sections();
        for (index, value, in_header) in damage {
            let bytes = if in_header { &mut sections.hdr } else { &mut sections.eh_frame };
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            let left = cut.index(sections.eh_frame.len());
            sections.eh_frame.truncate(left);
        }
        let mut rules = Rules::default();
        let table = Table::new(&sections, start as u64 - bias..end as u64 - bias, &mut rules, |_| None);
        prop_assert!(table.starts.windows(2).all(|pair| pair[0] < pair[1]));
        prop_assert_eq!(table.starts.len(), table.rules.len());
        let code = Code { start, end, bias: bias as usize, id: 1, starts: &table.starts, rules: &table.rules };
        let map = Map { modules: &[code], rules: rules.list(), eval: &[], generation: 1 };
        let mut trace = Box::new(Trace::new());
        let (mut cache, here) = (Box::new(Cache::new()), &raw const trace as usize & !7);
        for ip in (start..end).step_by((end - start) / 2000 + 1) {
            trace.follow(&map, &mut cache, Registers::few(ip, here, Some(here + 64)));
            prop_assert!(!trace.frames().is_empty());
        }
    }
}
