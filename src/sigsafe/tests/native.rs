//! Native stacks and their merging with Python frames, on made-up stacks in memory: every rule, deep stacks, broken ones, and
//! whatever a fuzzer puts there.

use proptest::prelude::*;
use spprof_sigsafe::handler::absorb_fault;
use spprof_sigsafe::stack::{LEAF_FRAMES, MAX_FRAMES, RawFrame, Stack, marks};
use spprof_sigsafe::unwind::map::{Cache, Code, Map};
use spprof_sigsafe::unwind::merge::{Merged, merge, merge_by_code};
use spprof_sigsafe::unwind::rule::{BP, CallerBp, Cfa, Registers, Rule, SP};
use spprof_sigsafe::unwind::{Ending, LEAF_NATIVES, MAX_NATIVES, ROOT_NATIVES, Trace};

/// The made-up code: from here on, each rule of `RULES` holds for `SPAN` bytes.
const CODE: usize = 0x10_0000;
const SPAN: usize = 0x100;
const BIAS: usize = 0x4000;
const MODULE: u32 = 7;

const START: usize = 1;
const LEAFLIKE: usize = 2;
const PUSHED: usize = 3;
const FRAMED: usize = 4;
const REALIGNED: usize = 5;
const SIGNAL: usize = 6;
const STUB: usize = 7;
const BY_R10: usize = 8;
const LOST_BP: usize = 9;
const EVAL: usize = 10;

const RULES: [Rule; 11] = [
    Rule::Unknown,
    Rule::Start,
    Rule::Call { cfa: Cfa::At { register: SP, offset: 8 }, bp: CallerBp::Same },
    Rule::Call { cfa: Cfa::At { register: SP, offset: 24 }, bp: CallerBp::AtCfa(-16) },
    Rule::Call { cfa: Cfa::At { register: BP, offset: 16 }, bp: CallerBp::AtCfa(-16) },
    Rule::Call { cfa: Cfa::Load { register: BP, offset: -8, add: 0 }, bp: CallerBp::AtBp(0) },
    Rule::Signal,
    Rule::Call { cfa: Cfa::Stub { pushed: 11 }, bp: CallerBp::Same },
    Rule::Call { cfa: Cfa::At { register: 10, offset: 0 }, bp: CallerBp::Same },
    Rule::Call { cfa: Cfa::At { register: SP, offset: 8 }, bp: CallerBp::Lost },
    Rule::Call { cfa: Cfa::At { register: SP, offset: 16 }, bp: CallerBp::Same },
];

/// An instruction in the code of rule `rule`.
fn at(rule: usize) -> usize {
    CODE + rule * SPAN + 0x40
}

fn with_map<T>(generation: u64, test: impl FnOnce(&Map<'_>) -> T) -> T {
    let starts: Vec<u32> = (0..=RULES.len()).map(|index| (index * SPAN) as u32).collect();
    let mut rules: Vec<u16> = (0..RULES.len() as u16).collect();
    rules.push(0);
    let end = CODE + (RULES.len() + 1) * SPAN;
    let code = Code { start: CODE, end, bias: BIAS, id: MODULE, starts: &starts, rules: &rules };
    // A neighbour on each side, so that the right one has to be found.
    let before = Code { start: CODE - 0x2000, end: CODE - 0x1000, id: 1, ..code };
    let after = Code { start: end + 0x1000, end: end + 0x2000, id: 9, ..code };
    let eval = [(MODULE, (CODE + EVAL * SPAN - BIAS) as u64, (CODE + (EVAL + 1) * SPAN - BIAS) as u64)];
    test(&Map { modules: &[before, code, after], rules: &RULES, eval: &eval, generation })
}

fn follow(ip: usize, sp: usize, bp: usize) -> Box<Trace> {
    follow_registers(Registers::few(ip, sp, Some(bp)))
}

fn follow_registers(registers: Registers) -> Box<Trace> {
    with_faults_absorbed();
    with_map(1, |map| {
        let mut trace = Box::new(Trace::new());
        let mut cache = Box::new(Cache::new());
        trace.follow(map, &mut cache, registers);
        let first = addresses(&trace);
        // Once more, out of the cache.
        trace.follow(map, &mut cache, registers);
        assert_eq!(first, addresses(&trace));
        trace
    })
}

unsafe extern "C" fn on_fault(_: i32, _: *mut libc::siginfo_t, context: *mut core::ffi::c_void) {
    // SAFETY: the kernel's context.
    if !unsafe { absorb_fault(context) } {
        std::process::abort();
    }
}

fn with_faults_absorbed() {
    // SAFETY: a plain sigaction with a handler of the right type.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
        }
    }
}

/// (rule whose code it is, marks), leaf first; the address is checked on the way.
fn addresses(trace: &Trace) -> Vec<(usize, u8)> {
    let frames = trace.frames().iter().map(|traced| traced.frame.as_native().unwrap());
    frames
        .map(|frame| {
            let inside = frame.address as usize + if frame.module == 0 { 0 } else { BIAS };
            let exact = inside + usize::from(frame.marks & marks::EXACT == 0);
            assert!(frame.module == 0 || frame.module == MODULE);
            (exact.wrapping_sub(CODE) / SPAN, frame.marks)
        })
        .collect()
}

fn word(words: &[usize], index: usize) -> usize {
    &raw const words[index] as usize
}

/// Each way to find a caller, in one stack.
#[test]
fn every_rule() {
    let mut stack = vec![0_usize; 64];
    // Leaf: return address on top.
    stack[0] = at(PUSHED);
    // Two words of its own, the second of them the saved frame pointer; then the return address.
    stack[2] = word(&stack, 8);
    stack[3] = at(FRAMED);
    // By the frame pointer: its own saved one, the return address.
    stack[8] = word(&stack, 16);
    stack[9] = at(REALIGNED);
    // The frame address is kept below where the frame pointer points, which holds the caller's.
    stack[15] = word(&stack, 24);
    stack[16] = word(&stack, 40);
    stack[23] = at(STUB);
    // A stub that has pushed nothing yet (its address is ....0 of 16).
    stack[24] = at(FRAMED);
    stack[40] = 0x1111;
    stack[41] = at(START);
    let trace = follow(at(LEAFLIKE), word(&stack, 0), 0x2222);
    let rules: Vec<usize> = addresses(&trace).into_iter().map(|(rule, _)| rule).collect();
    assert_eq!(rules, [LEAFLIKE, PUSHED, FRAMED, REALIGNED, STUB, FRAMED, START]);
    assert_eq!((trace.ending, trace.is_whole()), (Ending::Start, true));
    let marks: Vec<u8> = addresses(&trace).into_iter().map(|(_, marks)| marks).collect();
    assert_eq!(marks, [marks::EXACT, 0, 0, 0, 0, 0, 0]);
    // What lies between a frame's ends is its own, without gaps.
    for pair in trace.frames().windows(2) {
        assert_eq!(pair[0].high, pair[1].low);
    }
}

/// A call that is its function's last instruction returns to what follows: looked up there it would be another's.
#[test]
fn a_call_at_the_end() {
    let mut stack = vec![0_usize; 8];
    stack[0] = CODE + (LEAFLIKE + 1) * SPAN;
    stack[1] = at(START);
    let trace = follow(at(LEAFLIKE), word(&stack, 0), 0);
    assert_eq!((trace.ending, addresses(&trace).len()), (Ending::Start, 3));
    // An interrupted first instruction is looked up where it is.
    assert_eq!(follow(CODE + START * SPAN, word(&stack, 0), 0).frames().len(), 1);
}

/// A stub that has pushed its number has its return address one word further up.
#[test]
fn a_stub_half_way() {
    let mut stack = vec![0_usize; 8];
    (stack[0], stack[1]) = (at(START), 0x77);
    let early = follow(CODE + STUB * SPAN + 5, word(&stack, 0), 0);
    (stack[0], stack[1]) = (3, at(START));
    let late = follow(CODE + STUB * SPAN + 11, word(&stack, 0), 0);
    assert_eq!([early.ending, late.ending], [Ending::Start; 2]);
    assert_eq!([early.frames().len(), late.frames().len()], [2, 2]);
}

/// Code with a register of its own as frame address: known of the interrupted frame, not of its callers.
#[test]
fn other_registers() {
    let mut stack = vec![0_usize; 16];
    stack[5] = at(START);
    let mut values = [0; 16];
    values[usize::from(SP)] = word(&stack, 0);
    values[10] = word(&stack, 6);
    let trace = follow_registers(Registers::all(at(BY_R10), values));
    assert_eq!(trace.ending, Ending::Start);
    stack[0] = at(BY_R10);
    let trace = follow(at(LEAFLIKE), word(&stack, 0), 0);
    assert_eq!((trace.ending, trace.frames().len()), (Ending::BadStack, 2));
    assert_eq!(addresses(&trace)[1], (BY_R10, marks::ENDS));
    // And a frame pointer that a callee has lost is not made up.
    stack[0] = at(FRAMED);
    let trace = follow(at(LOST_BP), word(&stack, 0), word(&stack, 8));
    assert_eq!((trace.ending, trace.frames().len()), (Ending::BadStack, 2));
}

/// Through a signal's frame: the interrupted code is looked up exactly where it was, on whichever stack it was.
#[test]
fn a_signal() {
    let mut stack = vec![0_usize; 64];
    let mut own_stack = vec![0_usize; 64];
    own_stack[0] = at(SIGNAL);
    // gregs: r8..r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip.
    let gregs = 1 + 5;
    own_stack[gregs + 10] = word(&stack, 6);
    own_stack[gregs + 2] = word(&stack, 4);
    own_stack[gregs + 15] = word(&stack, 1);
    own_stack[gregs + 16] = CODE + BY_R10 * SPAN;
    stack[3] = at(FRAMED);
    stack[7] = at(START);
    let trace = follow(at(LEAFLIKE), word(&own_stack, 0), 0);
    let expected = [(LEAFLIKE, marks::EXACT), (SIGNAL, 0), (BY_R10, marks::EXACT), (FRAMED, 0), (START, 0)];
    assert_eq!(addresses(&trace), expected);
    assert_eq!(trace.ending, Ending::Start);
    assert_eq!(trace.other_stack, if word(&stack, 0) < word(&own_stack, 0) { 2 } else { 0 });
}

/// Where a stack ends that does not end at a thread's start, and what it says then.
#[test]
fn stacks_that_end() {
    let stack = vec![at(0), 0, 8, 0x7000_0000_0000];
    let unknown = follow(at(LEAFLIKE), word(&stack, 0), 0);
    assert_eq!((unknown.ending, addresses(&unknown)[1]), (Ending::NoRule, (0, marks::ENDS)));
    let nowhere = follow(0x4242, 8, 0);
    assert_eq!((nowhere.ending, nowhere.frames().len()), (Ending::NoRule, 1));
    // Nothing called it.
    assert_eq!(follow(at(LEAFLIKE), word(&stack, 1), 0).ending, Ending::Start);
    for (sp, bp) in [(0, 0), (word(&stack, 0) + 1, 0), (usize::MAX - 7, 0), (0x7000_0000_0000, 0), (1 << 47, 0)] {
        assert_eq!(follow(at(LEAFLIKE), sp, bp).ending, Ending::BadStack, "{sp:#x}");
        assert_eq!(follow(at(REALIGNED), word(&stack, 0), sp).ending, Ending::BadStack, "{sp:#x}");
    }
    // A frame pointer that leads back down the stack.
    assert_eq!(follow(at(FRAMED), word(&stack, 3), word(&stack, 0)).ending, Ending::BadStack);
}

/// Deep stacks keep both ends in order and count the rest; an endless one ends.
#[test]
fn deep_stacks() {
    for depth in
        [1, 2, LEAF_NATIVES, MAX_NATIVES - 1, MAX_NATIVES, MAX_NATIVES + 1, MAX_NATIVES + ROOT_NATIVES + 3, 5000]
    {
        // Each frame has an address of its own.
        let ip = |index: usize| if index + 1 == depth { at(START) } else { CODE + LEAFLIKE * SPAN + 1 + index % 200 };
        let stack: Vec<usize> = (1..depth).map(ip).chain([0]).collect();
        let trace = follow(ip(0), word(&stack, 0), 0);
        assert_eq!(
            (trace.ending, trace.omitted as usize),
            (Ending::Start, depth.saturating_sub(MAX_NATIVES)),
            "{depth}"
        );
        let kept = depth.min(MAX_NATIVES);
        let lows: Vec<usize> = trace.frames().iter().map(|traced| traced.low).collect();
        let expected: Vec<usize> = (0..depth)
            .filter(|at| *at < LEAF_NATIVES || *at >= depth - (kept.saturating_sub(LEAF_NATIVES)))
            .map(|at| word(&stack, 0) + 8 * at)
            .collect();
        assert_eq!(lows, expected, "{depth}");
    }
    let endless: Vec<usize> = vec![at(LEAFLIKE); 200_000];
    assert_eq!(follow(at(LEAFLIKE), word(&endless, 0), 0).ending, Ending::TooDeep);
}

/// Native and Python frames of a merged stack: `n` and `e` native (in the interpreter's loop), `p` Python, `.` a gap before.
fn shape(merged: &Merged) -> String {
    let mut text = String::new();
    for (index, frame) in merged.frames().iter().enumerate() {
        if merged.omitted != 0 && index == merged.gap as usize {
            text.push('.');
        }
        match frame.as_native() {
            None => text.push('p'),
            Some(native) => {
                text.push(if native.marks & marks::EVAL != 0 { 'e' } else { 'n' });
                text.push_str(if native.marks & marks::GAP != 0 { "_" } else { "" });
            }
        }
    }
    text
}

fn python(entries: &[usize]) -> Box<Stack> {
    let mut stack = Box::new(Stack::new());
    for (index, entry) in entries.iter().enumerate() {
        stack.push(RawFrame { code: 0x1000 + 16 * index, offset: 0 });
        stack.set_entry(*entry);
    }
    stack
}

/// Runs of Python frames go before the call that ran them; what fits nowhere keeps its order, and nothing is lost.
#[test]
fn merging_by_address() {
    let stack: Vec<usize> = [vec![at(LEAFLIKE); 6], vec![at(START), 0]].concat();
    let trace = follow(at(LEAFLIKE), word(&stack, 0), 0);
    assert_eq!(trace.frames().len(), 8);
    let own = |frame: usize| word(&stack, frame);
    let mut merged = Box::new(Merged::new());
    for (entries, expected) in [
        (vec![], "nnnnnnnn"),
        (vec![own(0)], "pennnnnnn"),
        (vec![0, own(3)], "nnnppennnn"),
        (vec![own(1), 0, 0, own(4), own(5)], "npennpppepenn"),
        // The root's call cannot be told: last.
        (vec![own(2), 0], "nnpennnnnp"),
        // Of a call that is not among the native frames, but below them.
        (vec![own(0) - 64, own(1)], "pnpennnnnn"),
    ] {
        merge(&python(&entries), &trace, &mut merged);
        assert_eq!(shape(&merged), expected, "{entries:x?}");
        let codes: Vec<usize> =
            merged.frames().iter().filter(|frame| frame.as_native().is_none()).map(|frame| frame.code).collect();
        assert_eq!(codes, (0..entries.len()).map(|index| 0x1000 + 16 * index).collect::<Vec<_>>());
    }
    // A frame without a caller has no call's object: the Python frames are beyond it.
    let lost = follow(at(0), word(&stack, 0), 0);
    merge(&python(&[own(1), 0]), &lost, &mut merged);
    assert_eq!(shape(&merged), "npp");
    // Without native frames there are the Python ones.
    merge(&python(&[own(1), 0]), &Trace::new(), &mut merged);
    assert_eq!(shape(&merged), "pp");
}

/// Without marks on the stack each call of the loop runs one frame; a call that has no frame yet is the innermost.
#[test]
fn merging_by_code() {
    let mut stack: Vec<usize> = Vec::new();
    let ips = [LEAFLIKE, EVAL, LEAFLIKE, EVAL, EVAL, START];
    for ip in &ips[1..] {
        // A frame of the loop has a word of its own.
        if let Some(last) = stack.last()
            && *last == at(EVAL)
        {
            stack.push(0x99);
        }
        stack.push(at(*ip));
    }
    stack.push(0);
    let merged_as = |frames: usize| {
        let trace = follow(at(ips[0]), word(&stack, 0), 0);
        let mut merged = Box::new(Merged::new());
        with_map(1, |map| merge_by_code(&python(&vec![0; frames]), &trace, map, &mut merged));
        shape(&merged)
    };
    assert_eq!(merged_as(3), "npenpepen");
    assert_eq!(merged_as(2), "nenpepen");
    assert_eq!(merged_as(5), "npenpepenpp");
}

/// Both gaps stay where they are, and Python frames are all there.
#[test]
fn merging_deep_stacks() {
    let depth = MAX_NATIVES + 1000;
    let stack: Vec<usize> = [vec![at(LEAFLIKE); depth - 2], vec![at(START), 0]].concat();
    let trace = follow(at(LEAFLIKE), word(&stack, 0), 0);
    let mut python = Box::new(Stack::new());
    for index in 0..MAX_FRAMES {
        if index == LEAF_FRAMES {
            python.set_gap(300);
        }
        python.push(RawFrame { code: 0x1000, offset: index as i64 });
        // The root's frames near the root, all others near the leaf.
        let place = if index < LEAF_FRAMES { index } else { depth - MAX_FRAMES + index };
        python.set_entry(word(&stack, place));
    }
    let mut merged = Box::new(Merged::new());
    merge(&python, &trace, &mut merged);
    let expected = [
        "pe".repeat(LEAF_FRAMES),
        "n".repeat(LEAF_NATIVES - LEAF_FRAMES),
        "_".to_owned(),
        "n".repeat(ROOT_NATIVES - (MAX_FRAMES - LEAF_FRAMES)),
        ".".to_owned(),
        "pe".repeat(MAX_FRAMES - LEAF_FRAMES - 1),
        // The thread's start calls no loop.
        "np".to_owned(),
    ];
    assert_eq!((shape(&merged), merged.omitted), (expected.concat(), 300));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the registers and the stack hold: an end is found, within bounds, and the merge keeps every Python frame.
    #[test]
    fn anything_ends(
        ips in prop::collection::vec((0..RULES.len(), 0..SPAN), 40),
        wild in prop::collection::vec(any::<usize>(), 40),
        kinds in prop::collection::vec(0..5_u8, 40),
        ip in (0..RULES.len(), 0..SPAN),
        registers in prop::array::uniform16((any::<usize>(), 0..4_u8)),
        entries in prop::collection::vec((0..40_usize, any::<bool>()), 0..30),
    ) {
        // With room around: what lies beyond may change between two looks.
        let mut memory = vec![0; 128];
        let base = word(&memory, 32);
        let stack = &mut memory[32..];
        let near = |value: usize| base + value % (40 * 8 + 16) - 8;
        for index in 0..40 {
            stack[index] = match kinds[index] {
                0 => wild[index],
                1 => near(wild[index]) & !7,
                _ => CODE + ips[index].0 * SPAN + ips[index].1,
            };
        }
        let values = registers.map(|(value, kind)| if kind == 0 { value } else { near(value) & !7 });
        let trace = follow_registers(Registers::all(CODE + ip.0 * SPAN + ip.1, values));
        prop_assert!(!trace.frames().is_empty() && trace.frames().len() <= MAX_NATIVES);
        let python = python(&entries.iter().map(|(at, marked)| if *marked { base + at * 8 } else { 0 }).collect::<Vec<_>>());
        let mut merged = Box::new(Merged::new());
        merge(&python, &trace, &mut merged);
        let of = |native: bool| merged.frames().iter().filter(move |frame| frame.as_native().is_some() == native);
        prop_assert_eq!(of(true).count(), trace.frames().len());
        prop_assert!(of(false).eq(python.frames()));
    }
}
