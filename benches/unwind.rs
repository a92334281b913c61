//! What native frames cost in a handler: `cargo bench --bench unwind`.
//!
//! Follows the stack of a deep recursion through C (`qsort` calling back), as a handler would: with the addresses of the
//! last stack still known (warm), without (each address is looked up in its module's table), and right after the caches of
//! the processor were filled with something else (cold).

use spprof_native::sampler::native::modules;
use spprof_sigsafe::stack::{RawFrame, Stack};
use spprof_sigsafe::unwind::Trace;
use spprof_sigsafe::unwind::map::Cache;
use spprof_sigsafe::unwind::merge::{Merged, merge};
use spprof_sigsafe::unwind::rule::Registers;
use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::time::Instant;

const DEPTH: usize = 12;
const ROUNDS: usize = 2000;

thread_local! {
    static LEFT: RefCell<usize> = const { RefCell::new(DEPTH) };
}

unsafe extern "C" fn compare(_: *const c_void, _: *const c_void) -> c_int {
    let left = LEFT.with_borrow_mut(|left| {
        *left = left.saturating_sub(1);
        *left
    });
    match left {
        0 => measure_once(),
        _ => recurse(),
    }
    0
}

#[inline(never)]
fn recurse() {
    let mut two = [1_u32, 2];
    // SAFETY: two elements of four bytes.
    unsafe { libc::qsort(two.as_mut_ptr().cast(), 2, 4, Some(compare)) };
    black_box(&two);
}

fn measure_once() {
    static DONE: std::sync::Once = std::sync::Once::new();
    DONE.call_once(measure);
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn here() -> Registers {
    let (ip, sp, bp): (usize, usize, usize);
    // SAFETY: reads three registers.
    unsafe {
        std::arch::asm!("lea {}, [rip]", "mov {}, rsp", "mov {}, rbp", out(reg) ip, out(reg) sp, out(reg) bp,
            options(nomem, nostack, preserves_flags));
    }
    Registers::few(ip, sp, Some(bp))
}

fn measure() {
    let begin = Instant::now();
    let now = modules::current();
    let made = begin.elapsed();
    let map = now.map();
    let rows: usize = map.modules.iter().map(|code| code.starts.len()).sum();
    let (mut trace, mut cache) = (Box::new(Trace::new()), Box::new(Cache::new()));
    let registers = here();
    let mut time = |prepare: &mut dyn FnMut(&mut Cache), rounds: usize| {
        let times = (0..rounds).map(|_| {
            prepare(&mut cache);
            let begin = Instant::now();
            trace.follow(map, &mut cache, black_box(registers));
            let took = begin.elapsed().as_nanos() as f64;
            took / trace.frames().len() as f64
        });
        median(times.collect())
    };
    let warm = time(&mut |_| {}, ROUNDS);
    let looked_up = time(&mut |cache| *cache = Cache::new(), ROUNDS);
    let mut other = vec![1_u8; 64 << 20];
    let cold = time(
        &mut |cache| {
            *cache = Cache::new();
            other.iter_mut().step_by(64).for_each(|byte| *byte = byte.wrapping_add(1));
        },
        20,
    );
    let frames = trace.frames().len();
    let mut python = Box::new(Stack::new());
    for index in 0..30 {
        python.push(RawFrame { code: 0x1000 + index, offset: 0 });
        python.set_entry(trace.frames()[index * frames / 30].low);
    }
    let mut merged = Box::new(Merged::new());
    let merging = median(
        (0..ROUNDS)
            .map(|_| {
                let begin = Instant::now();
                merge(black_box(&python), &trace, &mut merged);
                begin.elapsed().as_nanos() as f64
            })
            .collect(),
    );
    println!("{} modules, {rows} rows of {} different rules, read in {made:.1?}", now.list.len(), map.rules.len());
    println!("{frames} native frames: warm {warm:.1} ns a frame, by the tables {looked_up:.1}, cold {cold:.0}");
    println!("merging them with 30 Python frames: {merging:.0} ns");
}

fn main() {
    recurse();
}
