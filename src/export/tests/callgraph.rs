//! Call-graph JSON: what it says, that it comes back without loss, and that damaged files are told.

mod fixture;

use fixture::{EVIL, bytes, example, function, reread};
use spprof_export::{Format, read};
use spprof_model::{CallGraph, Column, FunctionKind, NodeId, Profile};
use std::path::Path;

/// main calls itself and EVIL, once a generator; one function name twice.
fn trace() -> Profile {
    let mut p = Profile::unlimited();
    p.meta.clock = "wall".to_owned();
    p.meta.duration_ns = 2_500_000_000;
    p.meta.start_unix_ns = 1_700_000_000_000_000_000;
    p.meta.argv = vec!["x.py".to_owned()];
    let main = function(&mut p, b"main", b"/src/a.py", FunctionKind::Python);
    let other = p.function(spprof_model::Function { discriminator: 1, ..*p.function_info(main) });
    let evil = function(&mut p, EVIL, b"/src/b.py", FunctionKind::Generator);
    let root = p.child(NodeId::ROOT, main, 5);
    let again = p.child(root, main, 6);
    let second = p.child(again, other, 7);
    let leaf = p.child(second, evil, 8);
    for (node, calls, self_ns) in [(root, 1, 1_500_000_000), (again, 2, 1), (second, 3, 499_999_999), (leaf, 4, 0)] {
        p.add(Column::Calls, node, calls);
        p.add(Column::SelfNs, node, self_ns);
    }
    p.add(Column::Resumes, leaf, 9);
    p
}

/// The document, in the words of the schema.
#[test]
fn says_what_is_known() {
    let text = String::from_utf8(bytes(&trace(), Format::CallGraph)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text.replace("\\ud800", "")).unwrap();
    assert_eq!((&json["schema"], &json["version"]), (&"spprof-callgraph".into(), &1.into()));
    assert_eq!(json["metadata"]["duration"], 2.5);
    assert_eq!(json["metadata"]["source"], "trace");
    let main = &json["nodes"][0];
    assert_eq!(
        (&main["full_name"], &main["module"], &main["file"]),
        (&"mod.main:3".into(), &"mod".into(), &"/src/a.py".into())
    );
    assert_eq!((&main["call_count"], &main["primitive_calls"]), (&3.into(), &1.into()));
    assert_eq!((&main["total_time"], &main["self_time"]), (&2.0.into(), &1.500_000_001.into()));
    assert_eq!(json["nodes"][1]["full_name"], "mod.main:3#2");
    assert_eq!((&json["nodes"][2]["kind"], &json["nodes"][2]["resumes"]), (&"generator".into(), &9.into()));
    let edges: Vec<_> = json["edges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (&e["caller_id"], &e["callee_id"], &e["call_count"]))
        .collect();
    assert_eq!(
        edges,
        [(&0.into(), &0.into(), &2.into()), (&0.into(), &1.into(), &3.into()), (&1.into(), &2.into(), &4.into())]
    );
    assert_eq!(json["tree"]["columns"]["calls"], serde_json::json!([0, 1, 2, 3, 4]));
}

/// What is not known is null, not 0.
#[test]
fn samples_have_no_calls() {
    let text = String::from_utf8(bytes(&example(), Format::CallGraph)).unwrap();
    let text = text.replace("\\ud800", "").replace("\\udc00", "");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let main = &json["nodes"][0];
    assert!(main["call_count"].is_null() && main["avg_time"].is_null() && main["primitive_calls"].is_null());
    assert_eq!((&main["samples"], &main["self_samples"]), (&4.into(), &1.into()));
    assert_eq!(json["metadata"]["source"], "samples");
}

/// Read and written again, it is the same to the byte; the graph and the other formats are the same, too.
#[test]
fn comes_back_without_loss() {
    for profile in [trace(), example()] {
        let written = bytes(&profile, Format::CallGraph);
        let back = reread(&written);
        assert_eq!(bytes(&back, Format::CallGraph), written);
        let (before, after) = (CallGraph::of(&profile), CallGraph::of(&back));
        assert_eq!((&before.edges, &before.tree), (&after.edges, &after.tree));
        assert_eq!(bytes(&back, Format::Collapsed), bytes(&profile, Format::Collapsed));
        // In spprof's own format the columns are kept that no timeline adds up to.
        assert_eq!(bytes(&reread(&bytes(&back, Format::Spprof)), Format::CallGraph), written);
    }
}

/// Of a trace, collapsed stacks count microseconds, and pprof has calls and time.
#[test]
fn a_trace_in_other_formats() {
    let collapsed = String::from_utf8(bytes(&trace(), Format::Collapsed)).unwrap();
    let lines: Vec<_> = collapsed.lines().collect();
    assert_eq!(
        lines,
        ["main (/src/a.py:5) 1500000", "main (/src/a.py:5);main (/src/a.py:6);main (/src/a.py:7) 500000"]
    );
    let speedscope = reread(&bytes(&trace(), Format::Speedscope));
    assert_eq!(
        speedscope.samples().map(|sample| sample.weight_ns).collect::<Vec<_>>(),
        [1_500_000_000, 1, 499_999_999, 0]
    );
    let pprof = reread(&bytes(&trace(), Format::Pprof));
    let sum = |profile: &Profile, column| profile.column(column).unwrap().iter().sum::<u64>();
    assert_eq!((sum(&pprof, Column::Calls), sum(&pprof, Column::SelfNs)), (10, 2_000_000_000));
    assert!(pprof.column(Column::Samples).is_none());
    assert_eq!(pprof.meta.clock, "wall");
}

/// A file that contradicts itself is told, with what is wrong.
#[test]
fn damage_is_told() {
    let text = String::from_utf8(bytes(&trace(), Format::CallGraph)).unwrap();
    for (from, to, told) in [
        ("\"version\":1", "\"version\":2", "version 2; this reads"),
        ("\"parent\":[0,1", "\"parent\":[0,9", "row 2 of its tree has parent 9"),
        ("\"node\":[0,0", "\"node\":[0,7", "row 2 of its tree has node 7"),
        ("\"calls\":[0,1", "\"calls\":[1", "column calls has 4 values for 5 rows"),
        ("\"self_ns\":", "\"moons\":", "its column \"moons\" is unknown"),
        ("\"kind\":\"generator\"", "\"kind\":\"poem\"", "node 2 has a name that is no string, or an unknown kind"),
        ("\"line\":[", "\"lines\":[", "missing field `line`"),
    ] {
        assert!(text.contains(from), "{from}");
        let error = read(text.replace(from, to).as_bytes(), Path::new("t.json")).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}
