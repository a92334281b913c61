//! The call graph as JSON: functions and edges to look at, and the calling-context tree they follow from, without loss.
//!
//! `docs/formats.md` describes the schema. Times are seconds in `nodes` and `edges`, nanoseconds in `tree`; what the profile
//! does not know is null, never 0.

use crate::frames::used_nodes;
use crate::wtf8;
use spprof_model::{Amounts, CallGraph, Column, Metadata, Profile, StringId, full_names, module_of, time_of};
use std::io::{self, Write};

pub(crate) const SCHEMA: &str = "spprof-callgraph";
pub(crate) const VERSION: u32 = 1;

pub(crate) fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let graph = CallGraph::of(profile);
    let view = View::new(profile, &graph);
    write!(out, "{{\"schema\":\"{SCHEMA}\",\"version\":{VERSION},\n\"metadata\":")?;
    write_metadata(profile, out)?;
    out.write_all(b",\n\"nodes\":[")?;
    for (id, name) in view.names.iter().enumerate() {
        out.write_all(if id == 0 { b"\n" } else { b",\n" })?;
        view.write_node(id, name, out)?;
    }
    out.write_all(b"],\n\"edges\":[")?;
    for (i, edge) in graph.edges.iter().enumerate() {
        let mut text = if i == 0 { b"\n{\"caller\":".to_vec() } else { b",\n{\"caller\":".to_vec() };
        wtf8::push_json(&mut text, &view.names[edge.caller]);
        text.extend_from_slice(b",\"callee\":");
        wtf8::push_json(&mut text, &view.names[edge.callee]);
        out.write_all(&text)?;
        write!(out, ",\"caller_id\":{},\"callee_id\":{}", edge.caller, edge.callee)?;
        view.write_amounts(&edge.amounts, out)?;
        out.write_all(b"}")?;
    }
    out.write_all(b"],\n\"threads\":[")?;
    write_threads(profile, out)?;
    out.write_all(b"],\n\"tree\":{")?;
    write_tree(profile, &graph, out)?;
    out.write_all(b"}}\n")
}

/// The graph with what its numbers mean.
struct View<'a> {
    profile: &'a Profile,
    graph: &'a CallGraph,
    names: Vec<Vec<u8>>,
    time: Option<usize>,
}

impl<'a> View<'a> {
    fn new(profile: &'a Profile, graph: &'a CallGraph) -> Self {
        let names = full_names(profile, graph.nodes.iter().map(|node| node.function));
        let time = time_of(profile).and_then(|column| graph.position(column));
        Self { profile, graph, names, time }
    }

    fn write_node(&self, id: usize, full_name: &[u8], out: &mut dyn Write) -> io::Result<()> {
        let node = &self.graph.nodes[id];
        let function = self.profile.function_info(node.function);
        let qualname = self.profile.bytes(function.name);
        let module = module_of(self.profile, node.function);
        let mut text = format!("{{\"id\":{id}").into_bytes();
        for (key, value) in [
            ("name", short_name(qualname)),
            ("full_name", full_name),
            ("qualname", qualname),
            ("module", &module),
            ("file", self.profile.bytes(function.file)),
            ("kind", function.kind.name().as_bytes()),
        ] {
            text.extend_from_slice(format!(",\"{key}\":").as_bytes());
            wtf8::push_json(&mut text, value);
        }
        out.write_all(&text)?;
        write!(out, ",\"line\":{}", function.first_line)?;
        self.write_amounts(&node.amounts, out)?;
        let calls = self.graph.position(Column::Calls).map(|_| node.primitive_calls);
        put(out, "primitive_calls", calls.map(|calls| calls.to_string()))?;
        out.write_all(b"}")
    }

    fn write_amounts(&self, amounts: &Amounts, out: &mut dyn Write) -> io::Result<()> {
        let calls = self.graph.position(Column::Calls).map(|i| amounts.own[i]);
        let seconds = |values: &[u64]| self.time.map(|i| values[i] as f64 / 1e9);
        let total = seconds(&amounts.total);
        put(out, "call_count", calls.map(|calls| calls.to_string()))?;
        put(out, "total_time", total.map(|time| format!("{time:?}")))?;
        put(out, "self_time", seconds(&amounts.own).map(|time| format!("{time:?}")))?;
        let average = total.zip(calls).filter(|&(_, calls)| calls > 0).map(|(time, calls)| time / calls as f64);
        put(out, "avg_time", average.map(|time| format!("{time:?}")))?;
        for (i, &column) in self.graph.columns.iter().enumerate() {
            let own = amounts.own[i];
            match column.name() {
                _ if Some(i) == self.time || column == Column::Calls => {}
                "samples" => {
                    put(out, "samples", Some(amounts.total[i].to_string()))?;
                    put(out, "self_samples", Some(own.to_string()))?;
                }
                name => match name.strip_suffix("_ns") {
                    Some(name) => put(out, &format!("{name}_time"), Some(format!("{:?}", own as f64 / 1e9)))?,
                    None => put(out, name, Some(own.to_string()))?,
                },
            }
        }
        Ok(())
    }
}

/// The last part of a qualified name.
pub(crate) fn short_name(qualname: &[u8]) -> &[u8] {
    qualname.rsplit(|&byte| byte == b'.').next().unwrap_or(qualname)
}

fn put(out: &mut dyn Write, key: &str, value: Option<String>) -> io::Result<()> {
    write!(out, ",\"{key}\":{}", value.as_deref().unwrap_or("null"))
}

fn write_metadata(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    let meta = Metadata { losses: profile.losses(), ..profile.meta.clone() };
    let time = time_of(profile).map(Column::name);
    let json = serde_json::json!({
        "duration": meta.duration_ns as f64 / 1e9,
        "start": meta.start_unix_ns as f64 / 1e9,
        "source": if profile.is_trace() { "trace" } else { "samples" },
        "time": time,
        "python": meta.python_version,
        "platform": meta.platform,
        "argv": meta.argv,
        "threads": profile.threads().len(),
        "overhead_ns_per_call": meta.overhead_ns_per_call,
        "overhead": meta.overhead_ns as f64 / 1e9,
        "max_depth": meta.max_depth,
        "columns": profile.columns().map(Column::name).collect::<Vec<_>>(),
        "spprof": meta,
    });
    let mut text = Vec::new();
    wtf8::push_json_text(&mut text, &json.to_string());
    out.write_all(&text)
}

fn write_threads(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    for (i, thread) in profile.threads().iter().enumerate() {
        let mut text = if i == 0 { b"{\"name\":".to_vec() } else { b",{\"name\":".to_vec() };
        match thread.name {
            Some(name) if name != StringId::EMPTY => wtf8::push_json(&mut text, profile.bytes(name)),
            _ => text.extend_from_slice(b"null"),
        }
        out.write_all(&text)?;
        write!(
            out,
            ",\"thread_id\":{},\"python_ident\":{},\"start_ns\":{},\"end_ns\":{},\"cpu_ns\":{},\"unattributed_ns\":{}}}",
            thread.os_id, thread.python_ident, thread.start_ns, thread.end_ns, thread.cpu_ns, thread.unattributed_ns
        )?;
    }
    Ok(())
}

/// Columns over the used nodes of the profile's own tree, renumbered; the root is row 0 and has only values.
fn write_tree(profile: &Profile, graph: &CallGraph, out: &mut dyn Write) -> io::Result<()> {
    let columns: Vec<(Column, &[u64])> =
        profile.columns().map(|column| (column, profile.column(column).unwrap_or_default())).collect();
    let value = |values: &[u64], i: usize| values.get(i).copied().unwrap_or(0);
    let used = used_nodes(profile, |i| columns.iter().any(|(_, values)| value(values, i) > 0));
    let mut id_of = vec![0; profile.functions().len()];
    for (id, node) in graph.nodes.iter().enumerate() {
        id_of[node.function.index()] = id as u64;
    }
    let rows: Vec<usize> = (1..profile.nodes().len()).filter(|&i| used[i]).collect();
    let mut row_of = vec![0_u64; profile.nodes().len()];
    for (row, &i) in rows.iter().enumerate() {
        row_of[i] = row as u64 + 1;
    }
    let node = |i: &usize| profile.nodes()[*i];
    out.write_all(b"\"parent\":")?;
    numbers(out, rows.iter().map(|i| row_of[node(i).parent.index()]))?;
    out.write_all(b",\n\"node\":")?;
    numbers(out, rows.iter().map(|i| id_of[node(i).function.index()]))?;
    out.write_all(b",\n\"line\":")?;
    numbers(out, rows.iter().map(|i| u64::from(node(i).line)))?;
    out.write_all(b",\n\"columns\":{")?;
    for (i, (column, values)) in columns.iter().enumerate() {
        write!(out, "{}\"{}\":", if i == 0 { "\n" } else { ",\n" }, column.name())?;
        numbers(out, std::iter::once(0).chain(rows.iter().copied()).map(|i| value(values, i)))?;
    }
    out.write_all(b"}")
}

fn numbers(out: &mut dyn Write, values: impl Iterator<Item = u64>) -> io::Result<()> {
    out.write_all(b"[")?;
    let mut buffer = itoa::Buffer::new();
    for (i, value) in values.enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        out.write_all(buffer.format(value).as_bytes())?;
    }
    out.write_all(b"]")
}
