//! Native frames in every format: told apart from Python, with their module, source line and the module's build id.

mod fixture;

use fixture::{bytes, bytes_with, reread};
use spprof_export::{Format, Journal, WriteOptions, load};
use spprof_model::{
    Column, Function, FunctionKind, Module, NodeId, Profile, Thread, merge, native_only, through_modules,
    without_native,
};

const BLAS: &[u8] = b"/site-packages/numpy.libs/libblas.so";
const UMATH: &[u8] = b"/site-packages/numpy/_umath.so";

fn native(p: &mut Profile, name: &[u8], file: &[u8], module: &[u8], start: u64) -> spprof_model::FunctionId {
    let (name, file, module) = (p.intern(name), p.intern(file), p.intern(module));
    p.function(Function { name, file, module, first_line: 0, kind: FunctionKind::Native, discriminator: start })
}

/// main -> array_dot -> gemm -> kernel, sampled at each level; a thread of BLAS's own; an extension that calls back into Python.
fn numeric() -> Profile {
    let mut p = Profile::unlimited();
    p.meta.native = "folded".to_owned();
    for (id, path, build_id, bias) in [(4, BLAS, &[0xab, 0xcd][..], 0x7000_0000), (5, UMATH, &[], 0x8000_0000)] {
        let (start, end) = (bias, bias + 0x1000);
        p.module(&Module {
            id,
            path: path.to_vec(),
            build_id: build_id.to_vec(),
            start,
            end,
            bias,
            device: 3,
            inode: 9,
        });
    }
    let main = fixture::function(&mut p, b"main", b"/app/main.py", FunctionKind::Python);
    let key = fixture::function(&mut p, b"key", b"/app/main.py", FunctionKind::Python);
    let dot = native(&mut p, b"array_dot", b"/src/dot.c", UMATH, 0x100);
    let gemm = native(&mut p, b"gemm", b"", BLAS, 0x200);
    let kernel = native(&mut p, b"libblas.so+0x300", b"", BLAS, 0x300);
    let t = p.thread(Thread { os_id: 1, ..Thread::default() });
    let pool = p.thread(Thread { os_id: 2, ..Thread::default() });
    let main = p.child(NodeId::ROOT, main, 7);
    let dot = p.child(main, dot, 33);
    let gemm_called = p.child(dot, gemm, 0);
    let kernel_called = p.child(gemm_called, kernel, 0);
    let key = p.child(dot, key, 9);
    let alone = p.child(NodeId::ROOT, gemm, 0);
    for (i, (thread, node)) in
        [(t, main), (t, dot), (t, gemm_called), (t, kernel_called), (t, key), (pool, alone)].into_iter().enumerate()
    {
        p.record(i as u64, thread, node, 10_u64.pow(i as u32));
    }
    p
}

fn stacks(profile: &Profile) -> Vec<(Vec<String>, u64)> {
    let name = |node| {
        let function = profile.function_info(profile.node(node).function);
        String::from_utf8_lossy(profile.bytes(function.name)).into_owned()
    };
    profile
        .samples()
        .map(|sample| {
            let mut names: Vec<String> = profile.stack(sample.node).map(name).collect();
            names.reverse();
            (names, sample.weight_ns)
        })
        .collect()
}

fn sums(profile: &Profile) -> (u64, u64) {
    (profile.sample_count(), profile.samples().map(|sample| sample.weight_ns).sum())
}

/// Without native frames: each weight is at the Python caller, the sum is the same, and a thread of native code alone stays.
#[test]
fn native_frames_merge_into_their_callers() {
    let profile = numeric();
    let python = without_native(&profile);
    let expected: [(&[&str], u64); 6] = [
        (&["main"], 1),
        (&["main"], 10),
        (&["main"], 100),
        (&["main"], 1000),
        (&["main", "key"], 10_000),
        (&["<native>"], 100_000),
    ];
    let expected: Vec<(Vec<String>, u64)> = expected
        .iter()
        .map(|(names, weight)| (names.iter().map(|name| (*name).to_owned()).collect(), *weight))
        .collect();
    assert_eq!(stacks(&python), expected);
    assert_eq!(sums(&python), sums(&profile));
    assert!(python.modules().is_empty() && python.meta.native.is_empty());
}

/// Columns come along: those beside the samples, and those of a profile that has counted and has no samples.
#[test]
fn columns_of_folded_frames() {
    for sampled in [true, false] {
        let mut profile = if sampled { numeric() } else { Profile::unlimited() };
        let main = fixture::function(&mut profile, b"main", b"/app/main.py", FunctionKind::Python);
        let inner = native(&mut profile, b"inner", b"", BLAS, 1);
        let main = profile.child(NodeId::ROOT, main, 7);
        let inner = profile.child(main, inner, 0);
        let columns = if sampled { [Column::Calls, Column::AllocBytes] } else { [Column::Samples, Column::CpuNs] };
        for column in columns {
            profile.add(column, main, 3);
            profile.add(column, inner, 40);
        }
        let python = without_native(&profile);
        for column in columns {
            let sum: u64 = python.column(column).unwrap().iter().sum();
            assert_eq!(sum, profile.column(column).unwrap().iter().sum::<u64>(), "{column:?}");
            assert_eq!(python.column(column).unwrap().iter().max(), Some(&43), "{column:?}");
        }
    }
}

/// Native frames alone: what had none is stated as left out.
#[test]
fn native_frames_alone() {
    let profile = numeric();
    let native = native_only(&profile);
    let leaves: Vec<Vec<String>> = stacks(&native).into_iter().map(|(names, _)| names).collect();
    let expected: [&[&str]; 5] =
        [&["array_dot"], &["array_dot", "gemm"], &["array_dot", "gemm", "libblas.so+0x300"], &["array_dot"], &["gemm"]];
    assert_eq!(leaves, expected);
    assert!(native.meta.losses.contains(&("filtered_ns".to_owned(), 1)));
    assert_eq!(sums(&native).1 + 1, sums(&profile).1);
}

/// By module: whole stacks, and what is left out is stated.
#[test]
fn by_module() {
    let part = through_modules(&numeric(), &[BLAS.to_vec()]);
    assert_eq!(stacks(&part).iter().map(|(_, weight)| weight).sum::<u64>(), 101_100);
    assert!(stacks(&part).iter().all(|(names, _)| names.contains(&"gemm".to_owned())));
    assert!(part.meta.losses.contains(&("filtered_samples".to_owned(), 3)));
    assert_eq!(through_modules(&numeric(), &[b"/other.so".to_vec()]).sample_count(), 0);
}

/// The lossless format keeps modules whole, and names, places and starts of functions.
#[test]
fn lossless() {
    let profile = numeric();
    let again = reread(&bytes(&profile, Format::Spprof));
    assert_eq!(again.modules(), profile.modules());
    assert_eq!(stacks(&again), stacks(&profile));
    assert_eq!(again.meta, profile.meta);
    let merged = merge(&again, &profile);
    assert_eq!(merged.modules(), profile.modules());
    assert_eq!(merged.functions().len(), profile.functions().len());
}

/// Addresses that had no names yet when the process was killed are in its journal, each with its module, also when they came
/// after others; and in a profile put together from two.
#[test]
fn addresses_in_a_journal() {
    let path = std::env::temp_dir().join(format!("spprof-addresses-{}.journal", std::process::id()));
    let mut journal = Journal::create(&path).unwrap();
    let mut profile = Profile::unlimited();
    let thread = profile.thread(Thread::default());
    for (i, module) in [b"/a.so", b"/b.so"].into_iter().enumerate() {
        let row = profile.module(&Module { path: module.to_vec(), inode: 5, ..Module::default() });
        let function = profile.function(Function::of_address(row, 0x1000 + i as u64));
        let node = profile.child(NodeId::ROOT, function, 0);
        profile.record(i as u64, thread, node, 1);
        journal.flush(&profile, &profile.meta).unwrap();
    }
    let addresses = |profile: &Profile| -> Vec<_> {
        let functions = profile.functions().iter().filter_map(Function::address);
        functions.map(|(row, address)| (profile.modules()[row as usize - 1].path.clone(), address)).collect()
    };
    let again = load(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let expected = [(b"/a.so".to_vec(), 0x1000), (b"/b.so".to_vec(), 0x1001)];
    assert_eq!(addresses(&again), expected);
    // The other's rows come after.
    let merged = merge(&numeric(), &again);
    assert_eq!(addresses(&merged), expected);
    assert_eq!(merged.modules().len(), 4);
}

/// speedscope: marked, at their source line or else their module, with the module as a key of its own.
#[test]
fn speedscope() {
    let text = String::from_utf8(bytes(&numeric(), Format::Speedscope)).unwrap();
    for frame in [
        r#"{"name":"[native] array_dot","file":"/src/dot.c","line":33,"module":"/site-packages/numpy/_umath.so"}"#,
        r#"{"name":"[native] gemm","file":"/site-packages/numpy.libs/libblas.so","line":0,"module":"/site-packages/numpy.libs/libblas.so"}"#,
        r#"{"name":"main","file":"/app/main.py","line":7}"#,
    ] {
        assert!(text.contains(frame), "{frame} in {text}");
    }
    let again = reread(text.as_bytes());
    assert_eq!(stacks(&again), stacks(&numeric()));
    let kinds = |profile: &Profile| -> Vec<_> {
        let mut rows: Vec<_> = profile
            .functions()
            .iter()
            .map(|function| {
                let text = |id| String::from_utf8_lossy(profile.bytes(id)).into_owned();
                let module = if function.is_native() { text(function.module) } else { String::new() };
                (text(function.name), text(function.file), module, function.kind)
            })
            .collect();
        rows.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        rows
    };
    assert_eq!(kinds(&again), kinds(&numeric()));
}

/// Files of others may have a key of that name, with anything in it.
#[test]
fn foreign_modules_in_speedscope() {
    let text = r#"{"shared":{"frames":[{"name":"[native] f","module":{"a":1}},{"name":"g","module":7}]},
        "profiles":[{"type":"sampled","name":"t","unit":"none","samples":[[1,0]],"weights":[1]}]}"#;
    assert_eq!(stacks(&reread(text.as_bytes()))[0].0, ["g", "f"]);
}

/// Collapsed: marked, or not if so asked.
#[test]
fn collapsed() {
    let text = String::from_utf8(bytes(&numeric(), Format::Collapsed)).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.contains(&"main (/app/main.py:7);[native] array_dot;[native] gemm 1"), "{text}");
    let plain = WriteOptions { mark_native: false, ..WriteOptions::default() };
    let text = String::from_utf8(bytes_with(&numeric(), Format::Collapsed, &plain)).unwrap();
    assert!(text.lines().any(|line| line == "main (/app/main.py:7);array_dot;gemm 1"), "{text}");
    assert_eq!(stacks(&reread(&bytes(&numeric(), Format::Collapsed))).len(), 6);
}

/// pprof: a mapping for each module with its build id; native frames are in theirs, at the address of their function.
#[test]
fn pprof() {
    let again = reread(&bytes(&numeric(), Format::Pprof));
    let kept: Vec<_> = again.modules().iter().map(|m| (m.path.clone(), m.build_id.clone(), m.start)).collect();
    assert_eq!(kept, [(BLAS.to_vec(), vec![0xab, 0xcd], 0x7000_0000), (UMATH.to_vec(), vec![], 0x8000_0000)]);
    let mut names: Vec<(String, String, bool)> = again
        .functions()
        .iter()
        .map(|function| {
            let text = |id| String::from_utf8_lossy(again.bytes(id)).into_owned();
            (text(function.name), text(function.module), function.is_native())
        })
        .collect();
    names.sort();
    let row =
        |name: &str, module: &[u8], native| (name.to_owned(), String::from_utf8_lossy(module).into_owned(), native);
    let mut expected = vec![
        row("array_dot", UMATH, true),
        row("gemm", BLAS, true),
        row("libblas.so+0x300", BLAS, true),
        row("main", b"", false),
        row("key", b"", false),
    ];
    expected.sort();
    assert_eq!(names, expected);
    assert_eq!(sums(&again), sums(&numeric()));
}

/// The flame graph: native frames in another colour, which the legend explains, with their module where the mouse is.
#[test]
fn flame_graph() {
    let text = String::from_utf8(bytes(&numeric(), Format::Svg)).unwrap();
    let hue_of = |name: &str| -> u32 {
        let line = text.lines().find(|line| line.contains(&format!("<title>{name} "))).expect(name);
        line.split("fill=\"hsl(").nth(1).unwrap().split(',').next().unwrap().parse().unwrap()
    };
    assert!((18..52).contains(&hue_of("main")) && (205..225).contains(&hue_of("gemm")));
    assert!(text.contains("<title>array_dot (/site-packages/numpy/_umath.so)"), "{text}");
    assert!(text.contains("orange: Python, blue: native"));
}
