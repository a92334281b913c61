//! Traces with a timeline as speedscope JSON: an evented profile a thread.

use crate::format::WriteOptions;
use crate::frames::{FrameTable, frame, thread_name};
use crate::nesting::{Edge, edges};
use crate::speedscope::{write_frames, write_head, write_tail};
use crate::wtf8;
use spprof_model::{NodeId, Profile, SpanKind};
use std::io::{self, Write};

/// Whether there are intervals of calls.
pub(crate) fn has_timeline(profile: &Profile) -> bool {
    profile.activity.spans.iter().any(|span| matches!(span.kind, SpanKind::Call(_)))
}

pub(crate) fn write(profile: &Profile, out: &mut dyn Write, options: &WriteOptions) -> io::Result<()> {
    let mut table = FrameTable::default();
    let frames: Vec<u32> = (0..profile.nodes().len() as u32)
        .map(|node| if node == 0 { 0 } else { table.number(frame(profile, NodeId::from_index(node))) })
        .collect();
    write_head(out)?;
    write_frames(profile, &table, out, options)?;
    out.write_all(b"\"profiles\":[")?;
    let mut first = true;
    for thread in 0..profile.threads().len() {
        let spans = profile.activity.spans.iter().filter(|span| span.thread.index() == thread);
        let edges = edges(spans);
        if edges.is_empty() {
            continue;
        }
        out.write_all(if std::mem::take(&mut first) { b"\n" } else { b",\n" })?;
        write_thread(&thread_name(profile, thread), &edges, &frames, out)?;
    }
    write_tail(profile, out, "spprof trace")
}

fn write_thread(name: &[u8], edges: &[Edge], frames: &[u32], out: &mut dyn Write) -> io::Result<()> {
    let at = |edge: Option<&Edge>| match edge {
        Some(Edge::Open(_, at) | Edge::Close(_, at)) => *at,
        None => 0,
    };
    let mut text = b"{\"type\":\"evented\",\"name\":".to_vec();
    wtf8::push_json(&mut text, name);
    out.write_all(&text)?;
    let (start, end) = (at(edges.first()), at(edges.last()));
    write!(out, ",\"unit\":\"nanoseconds\",\"startValue\":{start},\"endValue\":{end},\n\"events\":[")?;
    for (i, edge) in edges.iter().enumerate() {
        let (kind, node, at) = match edge {
            Edge::Open(node, at) => ('O', node, at),
            Edge::Close(node, at) => ('C', node, at),
        };
        let comma = if i > 0 { "," } else { "" };
        write!(out, "{comma}{{\"type\":\"{kind}\",\"frame\":{},\"at\":{at}}}", frames[node.index()])?;
    }
    out.write_all(b"]}")
}
