//! The memory limit: it holds, and nothing that was recorded is lost under it.

use proptest::prelude::*;
use spprof_model::{
    Column, Function, FunctionKind, MIN_MEMORY_LIMIT_BYTES, NodeId, Profile, Sample, StringId, Thread, ThreadId,
};
use std::collections::HashMap;

fn function(profile: &mut Profile, name: &str) -> spprof_model::FunctionId {
    let name = profile.intern(name.as_bytes());
    profile.function(Function {
        name,
        file: StringId::EMPTY,
        module: StringId::EMPTY,
        first_line: 1,
        kind: FunctionKind::Python,
        discriminator: 0,
    })
}

/// A repeatable stream of numbers.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// What recording should add up to, by thread and node.
#[derive(Default, PartialEq, Debug)]
struct Sums(HashMap<(ThreadId, NodeId), (u64, u64)>);

impl Sums {
    fn add(&mut self, sample: &Sample) {
        let sum = self.0.entry((sample.thread, sample.node)).or_default();
        *sum = (sum.0 + sample.count, sum.1 + sample.weight_ns);
    }
}

fn sums(profile: &Profile) -> Sums {
    let mut sums = Sums::default();
    profile.samples().for_each(|sample| sums.add(&sample));
    sums
}

/// Everything that must hold at any time: sums, columns, indices, bounds.
fn check(profile: &Profile, expected: &Sums, threads: u32) {
    let seen = sums(profile);
    // Only where unique stacks times threads outgrow the memory are threads merged, on a row of their own.
    if profile.threads().len() as u32 == threads {
        assert!(seen == *expected, "sums by thread and node differ");
    }
    assert!(by_node(&seen) == by_node(expected), "sums by node differ");
    for (node, sum) in by_node(expected) {
        assert_eq!(profile.value(Column::Samples, node), Some(sum.0));
        assert_eq!(profile.value(Column::CpuNs, node), Some(sum.1));
    }
    assert_eq!(profile.samples().count(), profile.retained_samples());
    assert_eq!(profile.samples().map(|sample| sample.count).sum::<u64>(), profile.sample_count());
    for (i, sample) in profile.samples().enumerate().step_by(97) {
        assert_eq!(profile.sample(i), Some(sample));
    }
    assert_eq!(profile.sample(profile.retained_samples()), None);
    assert!(profile.memory_bytes() <= profile.memory_limit_bytes(), "{} bytes", profile.memory_bytes());
}

fn by_node(sums: &Sums) -> HashMap<NodeId, (u64, u64)> {
    let mut nodes: HashMap<NodeId, (u64, u64)> = HashMap::new();
    for (&(_, node), &(count, weight_ns)) in &sums.0 {
        let sum = nodes.entry(node).or_default();
        *sum = (sum.0 + count, sum.1 + weight_ns);
    }
    nodes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is recorded, at whatever spacing: sums by thread and node are exact and the limit holds.
    #[test]
    fn coarsening_keeps_all_sums(
        seed in any::<u64>(),
        threads in 1_u32..20,
        functions in 1_u64..300,
        samples in 1_usize..60_000,
        step_ns in prop_oneof![Just(0_u64), Just(100_000), Just(10_000_000), Just(50_000_000_000)],
        weight_bits in 0_u32..40,
        limit_bytes in prop_oneof![Just(MIN_MEMORY_LIMIT_BYTES), Just(600 << 10)],
    ) {
        let mut numbers = Numbers(seed);
        let mut profile = Profile::new(limit_bytes);
        for i in 0..threads {
            profile.thread(Thread { os_id: u64::from(i), ..Thread::default() });
        }
        let functions: Vec<_> = (0..functions).map(|i| function(&mut profile, &format!("f{i}"))).collect();
        let mut expected = Sums::default();
        for i in 0..samples {
            let function = functions[numbers.below(functions.len() as u64) as usize];
            let sample = Sample {
                // Threads are drained one after the other: times step back.
                time_ns: i as u64 * step_ns + numbers.below(step_ns + 1),
                thread: ThreadId::from_index(numbers.below(u64::from(threads)) as u32),
                node: profile.child(NodeId::ROOT, function, 1),
                weight_ns: numbers.below(1 << weight_bits),
                count: 1,
            };
            profile.record(sample.time_ns, sample.thread, sample.node, sample.weight_ns);
            expected.add(&sample);
        }
        check(&profile, &expected, threads);
        // 20 threads at 300 nodes need 28 bytes each: that is no reason to merge threads in 600 kB.
        if limit_bytes > MIN_MEMORY_LIMIT_BYTES {
            prop_assert_eq!(profile.threads().len(), threads as usize);
        }
    }

    /// Reading from any position gives exactly the samples from the position it names on.
    #[test]
    fn samples_from_a_position(samples in 1_u64..30_000, at in 0_u64..31_000, limited in any::<bool>()) {
        let mut profile = if limited { Profile::new(0) } else { Profile::unlimited() };
        let thread = profile.thread(Thread::default());
        let f = function(&mut profile, "f");
        for i in 0..samples {
            let node = profile.child(NodeId::ROOT, f, (i % 7) as u32);
            profile.record(i * 1_000_000, thread, node, 1_000_000);
        }
        let (start, tail) = profile.samples_from(at);
        prop_assert!(start <= at);
        let count: u64 = tail.map(|sample| sample.count).sum();
        prop_assert_eq!(count, samples.saturating_sub(start));
        if !profile.is_coarsened() && at <= samples {
            prop_assert_eq!(start, at);
        }
    }
}

/// 16 bytes a sample, measured, for a million of them.
#[test]
fn sixteen_bytes_a_sample() {
    let mut profile = Profile::unlimited();
    let thread = profile.thread(Thread::default());
    let f = function(&mut profile, "f");
    let node = profile.child(NodeId::ROOT, f, 1);
    let before = profile.memory_bytes();
    const SAMPLES: u64 = 1_000_000;
    for i in 0..SAMPLES {
        profile.record(i * 1_000_000, thread, node, 1_000_000);
    }
    assert_eq!(profile.retained_samples() as u64, SAMPLES);
    // Chunk headers, and the capacity of their table that is not used yet, are all that is more.
    let per_sample = (profile.memory_bytes() - before) as f64 / SAMPLES as f64;
    assert!(per_sample < 16.1, "{per_sample}");
}

/// A coarse timeline still tells when: buckets are at most as wide as the memory demands.
#[test]
fn coarsening_keeps_resolution() {
    let mut profile = Profile::new(1 << 20);
    let thread = profile.thread(Thread::default());
    let f = function(&mut profile, "f");
    // 1000 s of 1 kHz; one line a second: 16 MB uncoarsened, 1000 distinct stacks.
    for i in 0..1_000_000_u64 {
        let node = profile.child(NodeId::ROOT, f, (i / 1000) as u32);
        profile.record(i * 1_000_000, thread, node, 1_000_000);
    }
    assert!(profile.is_coarsened());
    assert!(profile.memory_bytes() <= 1 << 20);
    assert!(profile.retained_samples() > 12_000, "{}", profile.retained_samples());
    let mut last_ns = 0;
    for sample in profile.samples() {
        let line = u64::from(profile.node(sample.node).line);
        assert!(sample.time_ns.abs_diff(line * 1_000_000_000) < 3_000_000_000, "{sample:?} of second {line}");
        assert!(sample.time_ns >= last_ns, "a thread's samples are in order");
        last_ns = sample.time_ns;
    }
}

/// Threads without number: the last resort merges them by node on one row that says so.
#[test]
fn thread_churn_stays_bounded() {
    let mut profile = Profile::new(MIN_MEMORY_LIMIT_BYTES);
    let f = function(&mut profile, "f");
    let (mut count, mut weight_ns) = (0, 0);
    for i in 0..200_000_u64 {
        let thread = profile.thread(Thread { os_id: i + 1, ..Thread::default() });
        let node = profile.child(NodeId::ROOT, f, (i % 50) as u32);
        profile.record(i * 10_000_000, thread, node, i);
        count += 1;
        weight_ns += i;
    }
    assert!(profile.memory_bytes() <= MIN_MEMORY_LIMIT_BYTES, "{}", profile.memory_bytes());
    assert_eq!(profile.samples().map(|s| s.count).sum::<u64>(), count);
    assert_eq!(profile.samples().map(|s| s.weight_ns).sum::<u64>(), weight_ns);
    assert!(profile.losses().iter().any(|(reason, count)| reason == "threads_full" && *count > 100_000));
    let shared = profile.threads().last().unwrap();
    assert_eq!(profile.bytes(shared.name.unwrap()), b"<several threads>");
}

/// A full tree: stacks end at the deepest frame that exists, no pair is invented, every sample still counts.
#[test]
fn full_tree_cuts_stacks() {
    let mut profile = Profile::new(MIN_MEMORY_LIMIT_BYTES);
    let thread = profile.thread(Thread::default());
    let (a, b, c) = (function(&mut profile, "a"), function(&mut profile, "b"), function(&mut profile, "c"));
    let top = profile.child(NodeId::ROOT, a, 1);
    profile.child(top, c, 1);
    let mut line = 0;
    while profile.losses().is_empty() {
        line += 1;
        profile.child(NodeId::ROOT, b, line);
    }
    assert!(line > 500, "{line}");
    let before = profile.nodes().len();
    // `b` was never seen below `top`, so it is cut there; `c`, which was, must not be taken for its child.
    let missing = profile.child(top, b, 1);
    let leaf = profile.child(missing, c, 1);
    assert!(leaf.is_cut());
    profile.record(0, thread, leaf, 5);
    assert_eq!(profile.nodes().len(), before);
    assert_eq!(profile.sample(0).unwrap().node, top);
    assert_eq!(profile.value(Column::CpuNs, top), Some(5));
    assert_eq!(profile.losses(), [("tree_full".to_owned(), 2)]);
}

/// Names without number become `<memory limit>`, counted.
#[test]
fn full_tables_refuse_names() {
    let mut profile = Profile::new(MIN_MEMORY_LIMIT_BYTES);
    let last = (0..100_000).map(|i| function(&mut profile, &format!("exec'd function {i}"))).last().unwrap();
    assert_eq!(profile.bytes(profile.function_info(last).name), b"<memory limit>");
    assert_eq!(profile.function_info(last).kind, FunctionKind::Synthetic);
    let losses: HashMap<_, _> = profile.losses().into_iter().collect();
    assert!(losses["strings_full"] > 90_000 && losses["functions_full"] > 0, "{losses:?}");
    assert!(profile.memory_bytes() < MIN_MEMORY_LIMIT_BYTES);
}

/// Unique stacks at full rate under a small limit: bounded, exact, and quick enough to drain rings by.
#[test]
fn unique_stacks_stay_bounded() {
    let mut profile = Profile::new(1 << 20);
    let thread = profile.thread(Thread::default());
    let f = function(&mut profile, "f");
    for i in 0..300_000_u64 {
        let node = profile.child(NodeId::ROOT, f, i as u32);
        profile.record(i * 1_000_000, thread, node, 3);
    }
    assert!(profile.memory_bytes() <= 1 << 20, "{}", profile.memory_bytes());
    assert_eq!(profile.samples().map(|s| s.weight_ns).sum::<u64>(), 900_000);
    assert_eq!(profile.sample_count(), 300_000);
}
