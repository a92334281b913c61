//! Speedscope, collapsed, pprof and SVG by their contents, written and read back.

mod fixture;

use fixture::{EVIL, bytes, bytes_with, example, reread, samples};
use flate2::read::GzDecoder;
use spprof_export::{CountUnit, Format, WriteOptions, read};
use spprof_model::{Column, FunctionKind, Profile, Thread};
use std::io::Read;
use std::path::Path;

const ALL: [Format; 6] =
    [Format::Speedscope, Format::AggregatedSpeedscope, Format::Collapsed, Format::Pprof, Format::Svg, Format::Spprof];

/// The exact text: contract and escapes.
#[test]
fn speedscope_golden() {
    let text = String::from_utf8(bytes(&example(), Format::Speedscope)).unwrap();
    let expected = r#"{"$schema":"https://www.speedscope.app/file-format-schema.json","version":"1.0.0",
"shared":{"frames":[
{"name":"main","file":"/src/a (1).py","line":5},
{"name":"a;b\"c'\u000a<\\x3b&\ud83e\udd80\ud800>","file":"C:\\users\\x;y.py","line":7},
{"name":"[native] sort","file":"libc.so.6","line":0,"module":"mod"},
{"name":"<truncated>","file":"","line":0},
{"name":"a;b\"c'\u000a<\\x3b&\ud83e\udd80\ud800>","file":"C:\\users\\x;y.py","line":8}]},
"profiles":[
{"type":"sampled","name":"Main\"Thread\udc00","unit":"nanoseconds","startValue":0,"endValue":2000008,
"samples":[[0,1,2],[0,1,2],[0],[0,1]],
"weights":[1000000,1000001,7,0]},
{"type":"sampled","name":"Thread-12","unit":"nanoseconds","startValue":0,"endValue":5000000000,
"samples":[[3,4]],
"weights":[5000000000]}],
"name":"spprof profile",
"exporter":"spprof 0.1.0",
"#;
    assert_eq!(&text[..expected.len()], expected);
    let meta = &text[expected.len()..];
    assert!(meta.starts_with("\"spprof\":{") && meta.contains("\"losses\":[[\"ring_full\",3]]"), "{meta}");
    assert!(text.is_ascii());
}

/// Unique stacks per thread, weights summed, everything else as before.
#[test]
fn aggregated_speedscope_sums_weights() {
    let text = String::from_utf8(bytes(&example(), Format::AggregatedSpeedscope)).unwrap();
    assert!(text.contains("\"samples\":[[0,1,2],[0],[0,1]],\n\"weights\":[2000001,7,0]"), "{text}");
    assert!(text.contains("\"endValue\":2000008") && text.contains("\"name\":\"spprof profile (aggregated)\""));
}

/// What speedscope keeps comes back: stacks, weights, threads (surrogates too), metadata.
#[test]
fn speedscope_round_trip() {
    let profile = example();
    let again = reread(&bytes(&profile, Format::Speedscope));
    let by_thread = |p: &Profile| {
        let mut all: Vec<_> = samples(p).into_iter().map(|(_, name, id, stack, w, _)| (name, id, stack, w)).collect();
        all.iter_mut().filter(|s| s.0.is_some()).for_each(|s| s.1 = 0);
        all.sort_by_key(|s| s.0.is_none());
        all
    };
    assert_eq!(by_thread(&again), by_thread(&profile));
    assert_eq!(again.meta, profile.meta);
}

/// The exact text: order, escapes, marks, threads merged, no final newline.
#[test]
fn collapsed_golden() {
    let profile = example();
    let evil = "a\\x3bb\"c'\\x0a<\\x5cx3b&\u{1f980}\\ud800>";
    let file = "C:\\users\\x\\x3by.py";
    let expected = format!(
        "<truncated>;{evil} ({file}:8) 1\nmain (/src/a (1).py:5) 1\nmain (/src/a (1).py:5);{evil} ({file}:7) 1\n\
         main (/src/a (1).py:5);{evil} ({file}:7);[native] sort 2"
    );
    assert_eq!(String::from_utf8(bytes(&profile, Format::Collapsed)).unwrap(), expected);
    let options = WriteOptions { mark_native: false, count_unit: CountUnit::Nanoseconds, title: None };
    let text = String::from_utf8(bytes_with(&profile, Format::Collapsed, &options)).unwrap();
    assert!(text.ends_with(";sort 2000001"), "{text}");
    assert!(text.starts_with("<truncated>") && text.contains(" 5000000000\n"), "{text}");
}

/// Lines come sorted as whole lines even where one frame's text begins another's.
#[test]
fn collapsed_lines_are_sorted() {
    let mut p = Profile::unlimited();
    let t = p.thread(Thread::default());
    let names: [&[u8]; 7] = [b"a", b"a b", b"a!", b"a;", b"a 1", b"", b"b"];
    for (i, outer) in names.iter().enumerate() {
        let f = fixture::function(&mut p, outer, b"", FunctionKind::Python);
        let node = p.child(spprof_model::NodeId::ROOT, f, 0);
        for inner in names {
            let f = fixture::function(&mut p, inner, b"", FunctionKind::Python);
            let leaf = p.child(node, f, 0);
            p.record(0, t, leaf, i as u64);
        }
        p.record(0, t, node, 1);
    }
    let text = String::from_utf8(bytes(&p, Format::Collapsed)).unwrap();
    let lines: Vec<_> = text.split('\n').collect();
    let mut sorted = lines.clone();
    sorted.sort_unstable();
    assert_eq!(lines, sorted);
    assert_eq!(lines.len(), 56);
}

/// Functions that differ only in what a line does not show are one line.
#[test]
fn collapsed_merges_equal_text() {
    let mut p = Profile::unlimited();
    let t = p.thread(Thread::default());
    let f = fixture::function(&mut p, b"f", b"f.py", FunctionKind::Python);
    let g = p.function(spprof_model::Function { discriminator: 1, ..*p.function_info(f) });
    for function in [f, g] {
        let node = p.child(spprof_model::NodeId::ROOT, function, 1);
        p.record(0, t, node, 1);
    }
    assert_eq!(bytes(&p, Format::Collapsed), b"f (f.py:1) 2");
}

/// Names and counts come back from collapsed text exactly, escapes undone.
#[test]
fn collapsed_round_trip() {
    let profile = example();
    let text = bytes(&profile, Format::Collapsed);
    let again = reread(&text);
    assert_eq!(bytes(&again, Format::Collapsed), text);
    let stacks: Vec<_> = samples(&again).into_iter().map(|s| (s.3, s.5)).collect();
    assert_eq!(stacks[3].0[1].0, EVIL);
    assert_eq!(stacks[3].0[2], (b"sort".to_vec(), Vec::new(), 0, FunctionKind::Native));
    assert_eq!(stacks[3].1, 2);
}

/// Values, stacks, labels and lines come back from pprof; lone surrogates are replaced.
#[test]
fn pprof_round_trip() {
    let profile = example();
    let file = bytes(&profile, Format::Pprof);
    let again = reread(&file);
    let mut seen = samples(&again);
    seen.sort_by_key(|s| (s.2, s.3.len()));
    let evil = String::from_utf8_lossy(EVIL).replace("\u{fffd}\u{fffd}\u{fffd}", "\u{fffd}").into_bytes();
    assert_eq!(seen.len(), 4);
    assert_eq!((seen[0].2, seen[0].4, seen[0].5), (11, 7, 1));
    let (_, name, _, stack, weight_ns, count) = &seen[2];
    assert_eq!(name.as_deref(), Some("Main\"Thread\u{fffd}".as_bytes()));
    assert_eq!((*weight_ns, *count), (2_000_001, 2));
    assert_eq!(
        stack,
        &[
            (b"main".to_vec(), b"/src/a (1).py".to_vec(), 5, FunctionKind::Python),
            (evil.clone(), b"C:\\users\\x;y.py".to_vec(), 7, FunctionKind::Python),
            (b"sort".to_vec(), b"libc.so.6".to_vec(), 0, FunctionKind::Native),
        ]
    );
    assert_eq!((seen[3].2, seen[3].4), (12, 5_000_000_000));
    assert_eq!(seen[3].3[0].3, FunctionKind::Synthetic);
    assert_eq!(again.meta.interval_ns, 1_000_000);
    assert_eq!(again.meta.start_unix_ns, profile.meta.start_unix_ns);
    assert!(again.meta.notes.contains(&"loss: ring_full 3".to_owned()));
    let mut raw = Vec::new();
    GzDecoder::new(&file[..]).read_to_end(&mut raw).unwrap();
    for text in ["samples", "count", "cpu", "nanoseconds"] {
        assert!(raw.windows(text.len()).any(|window| window == text.as_bytes()), "{text}");
    }
}

/// Frames with their share, kinds by colour, names escaped, controls replaced.
#[test]
fn svg_contents() {
    let svg = String::from_utf8(bytes(&example(), Format::Svg)).unwrap();
    assert!(svg.contains("<title>all: 5.00 s, 100.00 %</title>"), "{svg}");
    assert!(
        svg.contains("a;b&quot;c' &lt;\\x3b&amp;\u{1f980}\u{fffd}&gt; (C:\\users\\x;y.py): 5.00 s, 99.96 %"),
        "{svg}"
    );
    assert!(!svg.contains('\u{d}') && svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    let options = WriteOptions { title: Some("<t> & co".to_owned()), ..WriteOptions::default() };
    let titled = String::from_utf8(bytes_with(&example(), Format::Svg, &options)).unwrap();
    assert!(titled.contains(">&lt;t&gt; &amp; co</text>"));
}

/// Losses are told by their reasons (they are not of one unit, so no sum), and those that did not happen are not told.
#[test]
fn losses_in_words() {
    let mut profile = example();
    profile.meta.losses.push(("broken_stack".to_owned(), 2));
    profile.meta.losses.push(("stale_signal".to_owned(), 0));
    let svg = String::from_utf8(bytes(&profile, Format::Svg)).unwrap();
    assert!(svg.contains("losses: ring_full 3 broken_stack 2</text>"), "{svg}");
    let again = reread(&bytes(&profile, Format::Pprof)).meta.notes;
    assert!(again.contains(&"loss: broken_stack 2".to_owned()));
    assert!(!again.iter().any(|note| note.contains("stale_signal")));
}

/// What is too narrow to draw is stated, with its amount.
#[test]
fn svg_states_what_it_leaves_out() {
    let mut p = Profile::unlimited();
    let t = p.thread(Thread::default());
    for (name, weight_ns) in [("big", 10_000_000_000), ("tiny1", 1_000_000), ("tiny2", 500_000)] {
        let f = fixture::function(&mut p, name.as_bytes(), b"", FunctionKind::Python);
        let node = p.child(spprof_model::NodeId::ROOT, f, 1);
        p.record(0, t, node, weight_ns);
    }
    let svg = String::from_utf8(bytes(&p, Format::Svg)).unwrap();
    assert!(svg.contains(">big</text>") && !svg.contains("tiny"), "{svg}");
    assert!(svg.contains("2 stacks too narrow or too deep to draw left out: 1.50 ms (0.01 %)"), "{svg}");
}

/// Every format writes a profile without samples, and readers take it back.
#[test]
fn empty_profile() {
    let empty = Profile::unlimited();
    let text = String::from_utf8(bytes(&empty, Format::Speedscope)).unwrap();
    assert!(text.contains("\"frames\":[]},\n\"profiles\":[],"), "{text}");
    assert_eq!(bytes(&empty, Format::Collapsed), b"");
    for format in ALL.into_iter().filter(|format| !matches!(format, Format::Svg | Format::Collapsed)) {
        assert_eq!(reread(&bytes(&empty, format)).sample_count(), 0, "{format:?}");
    }
    assert!(String::from_utf8(bytes(&empty, Format::Svg)).unwrap().ends_with("</svg>\n"));
}

/// A stack of 100,000 frames is written and read in every format without recursion.
#[test]
fn deep_stacks() {
    let mut p = Profile::unlimited();
    let t = p.thread(Thread::default());
    let f = fixture::function(&mut p, b"f", b"f.py", FunctionKind::Python);
    let mut node = spprof_model::NodeId::ROOT;
    for _ in 0..100_000 {
        node = p.child(node, f, 1);
    }
    p.record(0, t, node, 1_000);
    for format in ALL {
        let file = bytes(&p, format);
        if format != Format::Svg {
            let again = reread(&file);
            assert_eq!(again.stack(again.sample(0).unwrap().node).count(), 100_000, "{format:?}");
        }
    }
}

/// Names and suffixes choose the format.
#[test]
fn format_by_name_and_path() {
    for name in Format::NAMES {
        assert_eq!(Format::from_name(name).unwrap().name(), name);
    }
    assert_eq!(Format::from_name("Speedscope"), None);
    let cases = [
        ("p.json", Format::Speedscope),
        ("p", Format::Speedscope),
        ("p.COLLAPSED", Format::Collapsed),
        ("p.txt", Format::Collapsed),
        ("p.folded", Format::Collapsed),
        ("d/p.pb.gz", Format::Pprof),
        ("p.pprof", Format::Pprof),
        ("p.svg", Format::Svg),
        ("p.spprof", Format::Spprof),
    ];
    for (path, format) in cases {
        assert_eq!(Format::from_path(Path::new(path)), format, "{path}");
    }
}

/// Foreign and broken files: the message names the file, the byte and what was expected.
#[test]
fn errors_name_file_and_offset() {
    let error = |bytes: &[u8]| read(bytes, Path::new("dir/f.x")).unwrap_err().to_string();
    assert_eq!(error(b""), "dir/f.x: at byte 0: expected a profile, the file is empty");
    assert_eq!(
        error(b"\x7fELF\x02\x01"),
        "dir/f.x: at byte 0: expected a profile (spprof, speedscope, pprof or collapsed), this is none of them"
    );
    assert_eq!(error(b"a;b 3\na;c x\n"), "dir/f.x: at byte 6: expected `frame;...;frame count`");
    let json = error(b"{\"shared\":\n{]");
    assert!(json.starts_with("dir/f.x: at byte 12: expected speedscope JSON"), "{json}");
    let file = bytes(&example(), Format::Speedscope);
    assert!(error(&file[..file.len() / 2]).contains("expected speedscope JSON"));
    let pprof = bytes(&example(), Format::Pprof);
    assert!(error(&pprof[..pprof.len() - 9]).contains("expected more or other gzip data"));
}

/// Weights on the tree and in the files agree.
#[test]
fn totals_agree_between_formats() {
    let profile = example();
    let total: u64 = profile.column(Column::CpuNs).unwrap().iter().sum();
    for format in [Format::Speedscope, Format::AggregatedSpeedscope, Format::Pprof, Format::Spprof] {
        let again = reread(&bytes(&profile, format));
        assert_eq!(again.column(Column::CpuNs).unwrap().iter().sum::<u64>(), total, "{format:?}");
    }
}

/// The bound of the product: a million samples of repeated stacks to speedscope in under a second. Only an optimised build can
/// say; `cargo test --release -p spprof-export -- --ignored --nocapture` prints the figures of all formats.
#[test]
#[ignore = "a measurement of the release build"]
fn a_million_samples_in_a_second() {
    let mut p = Profile::unlimited();
    let functions: Vec<_> = (0..200)
        .map(|i| fixture::function(&mut p, format!("function_{i}").as_bytes(), b"/app/module.py", FunctionKind::Python))
        .collect();
    let threads: Vec<_> = (0..4).map(|i| p.thread(Thread { os_id: i, ..Thread::default() })).collect();
    let started = std::time::Instant::now();
    for i in 0..1_000_000_u64 {
        let mut node = spprof_model::NodeId::ROOT;
        for depth in 0..30 {
            // 3000 distinct stacks of 30 frames.
            let branch = if depth < 27 { depth } else { (i * 7919 % 3000) / [1, 15, 200][depth as usize - 27] };
            node = p.child(node, functions[(branch % 200) as usize], (branch % 3000) as u32);
        }
        p.record(i * 1_000_000, threads[(i % 4) as usize], node, 1_000_000);
    }
    println!("record: {:?}, {} nodes, {} bytes", started.elapsed(), p.nodes().len(), p.memory_bytes());
    for format in ALL {
        let started = std::time::Instant::now();
        let file = bytes(&p, format);
        let took = started.elapsed();
        println!("{}: {took:?}, {} bytes", format.name(), file.len());
        if format == Format::Speedscope {
            assert!(took.as_secs_f64() < 1.0, "{took:?}");
        }
    }
}

/// Rendered stacks beyond the cache's size come out as before it started anew.
#[test]
fn speedscope_cache_starts_anew() {
    let mut p = Profile::unlimited();
    let t = p.thread(Thread::default());
    let f = fixture::function(&mut p, b"f", b"f.py", FunctionKind::Python);
    let mut node = spprof_model::NodeId::ROOT;
    for _ in 0..30_000 {
        node = p.child(node, f, 1);
    }
    // 600 stacks of 60 kB: twice the cache, and all of them again.
    let leaves: Vec<_> = (0..600).map(|i| p.child(node, f, i + 2)).collect();
    for &leaf in leaves.iter().chain(&leaves) {
        p.record(0, t, leaf, 1);
    }
    let text = String::from_utf8(bytes(&p, Format::Speedscope)).unwrap();
    let start = text.find("\"samples\":[[").unwrap() + 12;
    let end = start + text[start..].find("]],").unwrap();
    let stacks: Vec<_> = text[start..end].split("],[").collect();
    assert_eq!(stacks.len(), 1200);
    for (i, stack) in stacks.iter().enumerate() {
        let leaf = format!("0,{}", i % 600 + 1);
        assert!(stack.len() == 60_000 + leaf.len() - 2 && stack.ends_with(&leaf), "stack {i}");
    }
}
