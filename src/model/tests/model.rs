//! The model's contract by example: interning, stacks, columns, views.

use spprof_model::{
    Column, Function, FunctionId, FunctionKind, Metadata, NodeId, Profile, Selection, StringId, Thread, ThreadId,
    Values, filter, hot_functions, hot_lines, merge,
};

fn function(profile: &mut Profile, name: &str) -> FunctionId {
    let name = profile.intern(name.as_bytes());
    let file = profile.intern(b"a.py");
    profile.function(Function {
        name,
        file,
        module: StringId::EMPTY,
        first_line: 1,
        kind: FunctionKind::Python,
        discriminator: 0,
    })
}

/// main (line 1) calls fib (2), which calls itself (3), thread A; main calls other (5), thread B.
fn example() -> Profile {
    let mut profile = Profile::unlimited();
    let (main, fib, other) =
        (function(&mut profile, "main"), function(&mut profile, "fib"), function(&mut profile, "other"));
    let name = profile.intern(b"A");
    let a = profile.thread(Thread { os_id: 1, name: Some(name), ..Thread::default() });
    let b = profile.thread(Thread { os_id: 2, ..Thread::default() });
    let root = profile.child(NodeId::ROOT, main, 1);
    let outer = profile.child(root, fib, 2);
    let inner = profile.child(outer, fib, 3);
    let leaf = profile.child(root, other, 5);
    profile.record(10, a, outer, 100);
    profile.record(20, a, inner, 200);
    profile.record(30, b, leaf, 5_000_000_000);
    profile
}

fn name(profile: &Profile, id: FunctionId) -> String {
    String::from_utf8(profile.bytes(profile.function_info(id).name).to_vec()).unwrap()
}

/// Strings, functions and nodes are the same when asked for again, and different when any part differs.
#[test]
fn interning_identifies() {
    let mut profile = Profile::unlimited();
    assert_eq!(profile.intern(b""), StringId::EMPTY);
    let surrogate = profile.intern(b"\xed\xa0\x80");
    assert_eq!(profile.intern(b"\xed\xa0\x80"), surrogate);
    assert_eq!(profile.bytes(surrogate), b"\xed\xa0\x80");
    let f = function(&mut profile, "f");
    let info = *profile.function_info(f);
    assert_eq!(profile.function(info), f);
    let g = profile.function(Function { discriminator: 1, ..info });
    assert_ne!(g, f);
    let node = profile.child(NodeId::ROOT, f, 1);
    assert_eq!(profile.child(NodeId::ROOT, f, 1), node);
    assert_ne!(profile.child(NodeId::ROOT, f, 2), node);
    assert_ne!(profile.child(NodeId::ROOT, g, 1), node);
    assert_ne!(profile.child(node, f, 1), node);
}

/// A stack reads from leaf to root, without the root.
#[test]
fn stack_is_leaf_first() {
    let profile = example();
    let leaf = profile.sample(1).unwrap().node;
    let frames: Vec<_> =
        profile.stack(leaf).map(|n| (name(&profile, profile.node(n).function), profile.node(n).line)).collect();
    assert_eq!(frames, [("fib".to_owned(), 3), ("fib".to_owned(), 2), ("main".to_owned(), 1)]);
    assert_eq!(profile.stack(NodeId::ROOT).count(), 0);
}

/// Recording fills the samples column and the column of the clock, weights beyond 32 bits included.
#[test]
fn recording_fills_columns_of_the_clock() {
    let profile = example();
    let node = profile.sample(2).unwrap().node;
    assert_eq!(profile.sample(2).unwrap().weight_ns, 5_000_000_000);
    assert_eq!(profile.value(Column::Samples, node), Some(1));
    assert_eq!(profile.value(Column::CpuNs, node), Some(5_000_000_000));
    assert_eq!(profile.value(Column::WallNs, node), None);
    let mut wall = Profile::unlimited();
    wall.meta = Metadata { clock: "wall".to_owned(), ..Metadata::default() };
    let t = wall.thread(Thread::default());
    wall.record(0, t, NodeId::ROOT, 7);
    assert_eq!(wall.value(Column::WallNs, NodeId::ROOT), Some(7));
    assert_eq!(wall.value(Column::CpuNs, NodeId::ROOT), None);
}

/// Recursion counts once in a function's total; lines of one function are told apart.
#[test]
fn recursion_counts_once() {
    let profile = example();
    let values = Values::of_profile(&profile);
    let rows: Vec<_> = hot_functions(&profile, &values)
        .iter()
        .map(|r| (name(&profile, r.function), r.self_ns, r.total_ns, r.self_samples, r.total_samples))
        .collect();
    assert_eq!(
        rows,
        [
            ("other".to_owned(), 5_000_000_000, 5_000_000_000, 1, 1),
            ("fib".to_owned(), 300, 300, 2, 2),
            ("main".to_owned(), 0, 5_000_000_300, 0, 3),
        ]
    );
    let lines: Vec<_> = hot_lines(&profile, &values).iter().map(|r| (r.line, r.self_ns, r.total_ns)).collect();
    assert_eq!(lines, [(5, 5_000_000_000, 5_000_000_000), (3, 200, 200), (2, 100, 300), (1, 0, 5_000_000_300)]);
}

/// One thread's values are those of its samples.
#[test]
fn values_of_a_thread() {
    let profile = example();
    let rows = hot_functions(&profile, &Values::of_thread(&profile, ThreadId::from_index(0)));
    assert_eq!(
        rows.iter().map(|r| (name(&profile, r.function), r.total_ns)).collect::<Vec<_>>(),
        [("fib".to_owned(), 300), ("main".to_owned(), 300)]
    );
}

/// A filter keeps what it selects and states the weight it left out.
#[test]
fn filter_states_what_it_leaves_out() {
    let profile = example();
    let is_fib = |p: &Profile, node: NodeId| name(p, p.node(node).function) == "fib";
    let kept = filter(&profile, &Selection { frame: Some(&is_fib), ..Selection::default() });
    assert_eq!(kept.samples().map(|s| s.weight_ns).collect::<Vec<_>>(), [100, 200]);
    assert_eq!(kept.meta.weight_ns, 300);
    assert!(kept.losses().contains(&("filtered_ns".to_owned(), 5_000_000_000)));
    let late = filter(&profile, &Selection { time_ns: Some(20..31), ..Selection::default() });
    assert_eq!(late.samples().map(|s| s.time_ns).collect::<Vec<_>>(), [20, 30]);
    let threads = [ThreadId::from_index(1)];
    let one = filter(&profile, &Selection { threads: Some(&threads), ..Selection::default() });
    assert_eq!(one.samples().map(|s| s.time_ns).collect::<Vec<_>>(), [30]);
    assert_eq!(one.threads().len(), 2);
}

/// Merging shares names and stacks, keeps threads apart, adds everything, and puts both on one time axis.
#[test]
fn merge_adds() {
    let (mut a, mut b) = (example(), example());
    a.meta.start_unix_ns = 1_000;
    a.meta.duration_ns = 40;
    b.meta.start_unix_ns = 1_500;
    b.meta.duration_ns = 40;
    a.meta.losses = vec![("ring_full".to_owned(), 2)];
    b.meta.losses = vec![("ring_full".to_owned(), 3)];
    let merged = merge(&a, &b);
    assert_eq!(merged.nodes().len(), a.nodes().len());
    assert_eq!(merged.threads().len(), 4);
    assert_eq!(merged.samples().map(|s| s.time_ns).collect::<Vec<_>>(), [10, 20, 30, 510, 520, 530]);
    assert_eq!(merged.column(Column::CpuNs).unwrap().iter().sum::<u64>(), 2 * 5_000_000_300);
    assert_eq!(merged.meta.duration_ns, 540);
    assert_eq!(merged.losses(), [("ring_full".to_owned(), 5)]);
}
