//! The lossless format and the journal: everything comes back; damage is told, never a panic.

mod fixture;

use fixture::{bytes, example, reread, samples};
use proptest::prelude::*;
use spprof_export::{Format, Journal, load, read};
use spprof_model::{Column, Function, FunctionKind, NodeId, Profile, StringId, Thread};
use std::path::{Path, PathBuf};

/// A file of its own, gone with the test.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("spprof-{}-{name}", std::process::id())))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn assert_same(a: &Profile, b: &Profile) {
    assert_eq!(a.functions(), b.functions());
    assert_eq!(a.nodes(), b.nodes());
    assert_eq!(a.threads(), b.threads());
    assert_eq!(samples(a), samples(b));
    for column in Column::ALL {
        let values = |p: &Profile| {
            let mut values = p.column(column).map(<[u64]>::to_vec);
            values.iter_mut().for_each(|values| values.resize(p.nodes().len(), 0));
            values
        };
        assert_eq!(values(a), values(b), "{column:?}");
    }
}

/// Functions, nodes, threads, samples, columns and metadata are the same after a round trip, and so is the file.
#[test]
fn round_trip_is_lossless() {
    let mut profile = example();
    let leaf = profile.sample(0).unwrap().node;
    profile.add(Column::Calls, leaf, u64::MAX);
    for (i, column) in [Column::SelfNs, Column::Resumes, Column::AwaitNs, Column::Exceptions, Column::Cancellations]
        .into_iter()
        .enumerate()
    {
        profile.add(column, leaf, i as u64 + 1);
    }
    profile.meta.overhead_ns_per_call = 55.5;
    profile.meta.overhead_ns = 123;
    profile.meta.max_depth = 3;
    for (i, kind) in FunctionKind::ALL.into_iter().enumerate() {
        let name = profile.intern(format!("kind {i}").as_bytes());
        let (file, module) = (StringId::EMPTY, StringId::EMPTY);
        let function = profile.function(Function {
            name,
            file,
            module,
            first_line: 0,
            kind,
            discriminator: 0xfeed_beef_dead_cafe,
        });
        profile.child(leaf, function, 0);
    }
    let file = bytes(&profile, Format::Spprof);
    let again = reread(&file);
    assert_same(&again, &profile);
    assert_eq!(again.meta, profile.meta);
    assert_eq!(bytes(&again, Format::Spprof), file);
}

/// A coarsened profile comes back with its counts.
#[test]
fn coarsened_round_trip() {
    let mut profile = Profile::new(0);
    let t = profile.thread(Thread::default());
    let f = fixture::function(&mut profile, b"f", b"f.py", FunctionKind::Python);
    for i in 0..50_000 {
        let node = profile.child(NodeId::ROOT, f, (i % 3) as u32);
        profile.record(i * 1_000_000, t, node, 1_000_000);
    }
    assert!(profile.is_coarsened());
    let again = reread(&bytes(&profile, Format::Spprof));
    assert_same(&again, &profile);
    assert_eq!(again.sample_count(), 50_000);
}

/// After each flush the file holds all there is, although the timeline coarsens between flushes, threads end and names appear.
#[test]
fn journal_holds_everything_at_each_flush() {
    let file = TempFile::new("coarse.journal");
    let mut journal = Journal::create(&file.0).unwrap();
    let mut profile = Profile::new(0);
    let mut sizes = Vec::new();
    let mut t = profile.thread(Thread { os_id: 1, ..Thread::default() });
    for round in 0..40_u64 {
        let f = fixture::function(&mut profile, format!("f{round}").as_bytes(), b"f.py", FunctionKind::Python);
        for i in 0..777 {
            let node = profile.child(NodeId::ROOT, f, (i % 5) as u32);
            profile.record((round * 777 + i) * 1_000_000, t, node, 1_000_000 + i);
        }
        profile.thread_mut(t).end_ns = round;
        if round % 7 == 0 {
            t = profile.thread(Thread { os_id: round + 2, ..Thread::default() });
        }
        let mut meta = profile.meta.clone();
        meta.duration_ns = round;
        journal.flush(&profile, &meta).unwrap();
        sizes.push(std::fs::metadata(&file.0).unwrap().len());
        let again = load(&file.0).unwrap();
        assert!(again.meta.incomplete && again.meta.duration_ns == round);
        assert_eq!(again.sample_count(), profile.sample_count());
        assert_eq!(again.threads(), profile.threads());
        for column in [Column::Samples, Column::CpuNs] {
            for i in 0..profile.nodes().len() {
                let node = NodeId::from_index(i as u32);
                assert_eq!(again.value(column, node), profile.value(column, node), "round {round}, {column:?} of {i}");
            }
        }
    }
    assert!(profile.is_coarsened());
    // A flush writes what is new: none is as large as all samples.
    let largest = sizes.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(largest < *sizes.last().unwrap() / 5, "{sizes:?}");
    journal.remove().unwrap();
    assert!(!file.0.exists());
}

/// A journal cut anywhere opens with a whole prefix of the samples.
#[test]
fn torn_journal_opens() {
    let file = TempFile::new("torn.journal");
    let mut journal = Journal::create(&file.0).unwrap();
    let mut profile = example();
    journal.flush(&profile, &profile.meta).unwrap();
    let first = std::fs::metadata(&file.0).unwrap().len() as usize;
    let (t, node) = profile.sample(0).map(|s| (s.thread, s.node)).unwrap();
    profile.record(9_000, t, node, 3);
    journal.flush(&profile, &profile.meta).unwrap();
    let whole = std::fs::read(&file.0).unwrap();
    let all = samples(&profile);
    for end in 12..=whole.len() {
        let opened = read(&whole[..end], Path::new("j")).unwrap();
        let seen = samples(&opened);
        assert_eq!(seen[..], all[..seen.len()], "cut at {end}");
        assert!(seen.len() >= if end >= first { 5 } else { 0 } && opened.meta.incomplete);
    }
    assert_eq!(samples(&reread(&whole)), all);
    let torn = read(&whole[..whole.len() - 1], Path::new("j")).unwrap();
    assert!(torn.meta.notes.iter().any(|note| note.contains("were not read")), "{:?}", torn.meta.notes);
}

/// A final file cut anywhere, or with any byte changed, is an error that names the file and an offset within it.
#[test]
fn damaged_final_file_is_an_error() {
    let file = bytes(&example(), Format::Spprof);
    for end in 4..file.len() {
        let error = read(&file[..end], Path::new("a.spprof")).unwrap_err();
        assert!(error.offset.unwrap() <= end && error.to_string().starts_with("a.spprof: at byte "), "{error}");
    }
    for i in 0..file.len() {
        let mut damaged = file.clone();
        damaged[i] ^= 0x20;
        let error = read(&damaged, Path::new("a.spprof")).expect_err(&format!("byte {i} changed"));
        assert!(error.offset.unwrap() <= i, "{error} for byte {i}");
    }
    let error = read(&file[..file.len() - 1], Path::new("a.spprof")).unwrap_err().to_string();
    assert!(error.contains("expected another chunk, the file is cut off here"), "{error}");
}

/// A missing file is told by name.
#[test]
fn missing_file() {
    let error = load(Path::new("/nonexistent/x.spprof")).unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/x.spprof: ") && error.source.is_some(), "{error}");
}

/// Sums saturate where a file's numbers add up to more than 64 bits; nothing overflows.
#[test]
fn extreme_numbers() {
    let mut profile = example();
    let (t, node) = profile.sample(0).map(|s| (s.thread, s.node)).unwrap();
    profile.thread_mut(t).end_ns = u64::MAX;
    profile.meta.start_unix_ns = u64::MAX;
    profile.meta.losses = vec![("x".to_owned(), u64::MAX), ("y".to_owned(), u64::MAX)];
    for _ in 0..3 {
        profile.record(u64::MAX, t, node, u64::MAX);
    }
    let again = reread(&bytes(&profile, Format::Spprof));
    assert_same(&again, &profile);
    for format in [Format::Speedscope, Format::AggregatedSpeedscope, Format::Collapsed, Format::Pprof, Format::Svg] {
        bytes(&again, format);
    }
    let merged = spprof_model::merge(&example(), &again);
    let rows = spprof_model::hot_functions(&merged, &spprof_model::Values::of_profile(&merged));
    assert_eq!(rows.iter().map(|row| row.total_ns).max(), Some(u64::MAX));
    let selection = spprof_model::Selection { time_ns: Some(0..5), ..Default::default() };
    assert_eq!(spprof_model::filter(&again, &selection).sample_count(), 0);
}

/// Recomputes every checksum, so that damage reaches the decoders behind it.
fn repair_checksums(file: &mut [u8]) {
    let mut offset = 12;
    while let Some(header) = file.get(offset..offset + 12) {
        let kind: [u8; 4] = header[..4].try_into().unwrap();
        let len = u32::from_le_bytes(header[4..8].try_into().unwrap()) as usize;
        let Some(payload) = file.get(offset + 12..offset + 12 + len) else {
            return;
        };
        let checksum = crc32fast::hash(&[&kind[..], payload].concat());
        file[offset + 8..offset + 12].copy_from_slice(&checksum.to_le_bytes());
        offset += 12 + len;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// No bytes make a reader panic; what it accepts can be viewed and written.
    #[test]
    fn arbitrary_bytes_never_panic(start in 0_usize..6, tail in proptest::collection::vec(any::<u8>(), 0..300)) {
        let starts: [&[u8]; 6] =
            [b"", b"SPPROF\r\n\x01\x00\x00\x00", b"SPPROF\r\n\x01\x00\x01\x00", b"\x1f\x8b\x08", b"{\"shared\":", b"a;b "];
        let file = [starts[start], &tail].concat();
        if let Ok(profile) = read(&file, Path::new("f")) {
            bytes(&profile, Format::Collapsed);
        }
    }

    /// Files with damage behind valid checksums never panic either, nor does what comes after reading them.
    #[test]
    fn damaged_payloads_never_panic(
        format in prop_oneof![
            Just(Format::Spprof), Just(Format::Speedscope), Just(Format::Pprof), Just(Format::Collapsed)
        ],
        journal in any::<bool>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut file = bytes(&example(), format);
        if format == Format::Pprof {
            let mut raw = Vec::new();
            std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&file[..]), &mut raw).unwrap();
            for (index, value) in &changes {
                let i = index.index(raw.len());
                raw[i] = *value;
            }
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut encoder, &raw).unwrap();
            file = encoder.finish().unwrap();
        } else {
            for (index, value) in &changes {
                let i = index.index(file.len());
                file[i] = *value;
            }
        }
        if format == Format::Spprof {
            file[10] = u8::from(journal);
            file[..10].copy_from_slice(b"SPPROF\r\n\x01\x00");
            repair_checksums(&mut file);
        }
        if let Ok(profile) = read(&file, Path::new("f")) {
            for format in [Format::Speedscope, Format::Collapsed, Format::Pprof, Format::Svg, Format::Spprof] {
                bytes(&profile, format);
            }
            let _ = spprof_model::hot_functions(&profile, &spprof_model::Values::of_profile(&profile));
            let _ = spprof_model::merge(&profile, &profile);
        }
    }
}
