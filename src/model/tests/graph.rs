//! The call graph by example: recursion, several lines of one call, equal names, columns that are there and that are not.

use spprof_model::{
    CallGraph, Column, Function, FunctionId, FunctionKind, NodeId, Profile, Thread, full_names, module_of, time_of,
};

fn function(profile: &mut Profile, name: &str, file: &str, first_line: u32) -> FunctionId {
    let (name, file) = (profile.intern(name.as_bytes()), profile.intern(file.as_bytes()));
    let module = profile.intern(b"");
    let kind = FunctionKind::Python;
    profile.function(Function { name, file, module, first_line, kind, discriminator: u64::from(first_line) })
}

fn name(profile: &Profile, id: FunctionId) -> String {
    String::from_utf8(profile.bytes(profile.function_info(id).name).to_vec()).unwrap()
}

/// main calls fib from two lines; fib calls itself three deep, and leaf once from its innermost call.
fn example() -> (Profile, CallGraph) {
    let mut p = Profile::unlimited();
    let (main, fib) = (function(&mut p, "main", "m.py", 1), function(&mut p, "fib", "m.py", 5));
    let leaf = function(&mut p, "leaf", "m.py", 9);
    let root = p.child(NodeId::ROOT, main, 1);
    let (first, second) = (p.child(root, fib, 2), p.child(root, fib, 3));
    let deeper = p.child(first, fib, 6);
    let deepest = p.child(deeper, fib, 6);
    let end = p.child(deepest, leaf, 7);
    for (node, calls, self_ns) in
        [(root, 1, 10), (first, 2, 100), (second, 3, 1000), (deeper, 4, 20_000), (deepest, 8, 300_000), (end, 5, 7)]
    {
        p.add(Column::Calls, node, calls);
        p.add(Column::SelfNs, node, self_ns);
    }
    // Never reached: not in the graph.
    let idle = function(&mut p, "idle", "m.py", 20);
    p.child(root, idle, 4);
    let graph = CallGraph::of(&p);
    (p, graph)
}

/// Own values add up over all contexts; the total of a recursive function is that of its outermost calls alone.
#[test]
fn recursion_counts_once() {
    let (profile, graph) = example();
    assert_eq!(graph.columns, [Column::Calls, Column::SelfNs]);
    assert_eq!(time_of(&profile), Some(Column::SelfNs));
    let rows: Vec<_> = graph
        .nodes
        .iter()
        .map(|node| (name(&profile, node.function), &node.amounts.own, &node.amounts.total, node.primitive_calls))
        .collect();
    assert_eq!(rows[0], ("main".into(), &vec![1, 10], &vec![23, 321_117], 1));
    assert_eq!(rows[1], ("fib".into(), &vec![17, 321_100], &vec![22, 321_107], 5));
    assert_eq!(rows[2], ("leaf".into(), &vec![5, 7], &vec![5, 7], 5));
    assert_eq!(rows.len(), 3);
}

/// An edge has the callee's values when called from there; that of a function to itself counts once on a path.
#[test]
fn edges_are_pairs() {
    let (profile, graph) = example();
    let at = |i: usize| name(&profile, graph.nodes[i].function);
    let rows: Vec<_> = graph
        .edges
        .iter()
        .map(|edge| (at(edge.caller), at(edge.callee), edge.amounts.own.clone(), edge.amounts.total.clone()))
        .collect();
    assert_eq!(
        rows,
        [
            ("main".into(), "fib".into(), vec![5, 1100], vec![22, 321_107]),
            ("fib".into(), "fib".into(), vec![12, 320_000], vec![17, 320_007]),
            ("fib".into(), "leaf".into(), vec![5, 7], vec![5, 7]),
        ]
    );
}

/// The tree has a node a chain of functions, whatever the lines; recursion goes down, and the root holds all.
#[test]
fn tree_keeps_contexts() {
    let (profile, graph) = example();
    let rows: Vec<_> = graph.tree.iter().map(|node| (node.parent, node.amounts.clone())).collect();
    assert_eq!(rows[0].1.total, [23, 321_117]);
    let chain: Vec<_> =
        graph.tree[1..].iter().map(|n| (n.parent, name(&profile, graph.nodes[n.node].function))).collect();
    let expected = [(0, "main"), (1, "fib"), (2, "fib"), (3, "fib"), (4, "leaf")];
    assert_eq!(chain, expected.map(|(parent, name)| (parent, name.to_owned())));
    assert_eq!((rows[2].1.own.as_slice(), rows[2].1.total.as_slice()), (&[5, 1100][..], &[22, 321_107][..]));
}

/// A sampled profile has the columns of samples, and says nothing of calls.
#[test]
fn samples_are_no_calls() {
    let mut p = Profile::unlimited();
    let main = function(&mut p, "main", "m.py", 1);
    let thread = p.thread(Thread::default());
    let node = p.child(NodeId::ROOT, main, 1);
    p.record(1, thread, node, 40);
    p.record(2, thread, node, 50);
    let graph = CallGraph::of(&p);
    assert_eq!(graph.columns, [Column::Samples, Column::CpuNs]);
    assert_eq!(time_of(&p), Some(Column::CpuNs));
    assert_eq!(graph.nodes[0].amounts.own, [2, 90]);
    assert_eq!(graph.position(Column::Calls), None);
    assert!(CallGraph::of(&Profile::unlimited()).nodes.is_empty());
}

/// Equal names get their line, and those of one line a number; others stay as they are.
#[test]
fn full_names_differ() {
    let mut p = Profile::unlimited();
    let mut ids = vec![function(&mut p, "A.run", "/x/site-packages/pkg/mod.py", 3)];
    for line in [4, 5, 5] {
        let discriminator = ids.len() as u64;
        let id = function(&mut p, "f.<locals>.<lambda>", "m.py", line);
        let info = *p.function_info(id);
        ids.push(p.function(Function { discriminator, ..info }));
    }
    let names: Vec<String> =
        full_names(&p, ids.into_iter()).into_iter().map(|name| String::from_utf8(name).unwrap()).collect();
    let lambda = "m.f.<locals>.<lambda>";
    assert_eq!(
        names,
        ["pkg.mod.A.run".to_owned(), format!("{lambda}:4"), format!("{lambda}:5"), format!("{lambda}:5#2")]
    );
}

/// Where the interpreter did not tell, the module is read from the path.
#[test]
fn modules_from_paths() {
    let mut p = Profile::unlimited();
    for (file, module) in [
        ("/usr/lib/python3.12/json/decoder.py", "json.decoder"),
        ("/v/lib/python3.11/site-packages/click/__init__.py", "click"),
        ("/home/me/app.py", "app"),
        ("<frozen importlib._bootstrap>", "importlib._bootstrap"),
        ("<string>", "<string>"),
        ("C:\\work\\tool.py", "tool"),
        ("", ""),
    ] {
        let id = function(&mut p, "f", file, 1);
        assert_eq!(String::from_utf8(module_of(&p, id)).unwrap(), module, "{file}");
    }
    let told = p.intern(b"__main__");
    let id = function(&mut p, "f", "/home/me/app.py", 1);
    let info = *p.function_info(id);
    let id = p.function(Function { module: told, ..info });
    assert_eq!(module_of(&p, id), b"__main__");
}
