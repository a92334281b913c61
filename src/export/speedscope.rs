//! speedscope JSON: a profile per thread, samples root first, weights as measured.
//!
//! The stack of a node is rendered once and copied for each of its samples: that is what makes a million samples quick.
//! Metadata is under the top-level key `spprof`; the schema allows further keys and the viewer ignores them.

use crate::evented;
use crate::format::WriteOptions;
use crate::frames::{FrameTable, NATIVE_MARK, frame, thread_name, used_nodes};
use crate::wtf8;
use rustc_hash::FxHashMap;
use spprof_model::{Metadata, NodeId, Profile, Sample, StringId, Values};
use std::io::{self, Write};

/// Rendered stacks kept at most, in bytes; beyond it the cache starts anew.
const CACHE_BYTES: usize = 16 << 20;

/// One entry per sample on the timeline.
pub(crate) fn write(profile: &Profile, out: &mut dyn Write, options: &WriteOptions) -> io::Result<()> {
    if evented::has_timeline(profile) {
        return evented::write(profile, out, options);
    }
    write_file(profile, out, options, "spprof profile", &by_thread(profile))
}

/// One entry per thread and unique stack, in order of first appearance.
pub(crate) fn write_aggregated(profile: &Profile, out: &mut dyn Write, options: &WriteOptions) -> io::Result<()> {
    let threads = by_thread(profile)
        .into_iter()
        .map(|entries| {
            let mut merged: Vec<Entry> = Vec::new();
            let mut slots: FxHashMap<NodeId, usize> = FxHashMap::default();
            for entry in entries {
                let slot = *slots.entry(entry.node).or_insert(merged.len());
                match merged.get_mut(slot) {
                    Some(known) => known.weight_ns = known.weight_ns.saturating_add(entry.weight_ns),
                    None => merged.push(entry),
                }
            }
            merged
        })
        .collect::<Vec<_>>();
    write_file(profile, out, options, "spprof profile (aggregated)", &threads)
}

#[derive(Clone, Copy)]
struct Entry {
    node: NodeId,
    weight_ns: u64,
}

/// The samples of each thread, in order. Where the columns are all there is, one entry a stack, all threads in one.
fn by_thread(profile: &Profile) -> Vec<Vec<Entry>> {
    if is_of_columns(profile) {
        let values = Values::of_profile(profile);
        let entry = |(i, weight_ns)| Entry { node: NodeId::from_index(i as u32), weight_ns };
        let used = |(i, _): &(usize, u64)| *i > 0 && (values.samples[*i] > 0 || values.weight_ns[*i] > 0);
        return vec![values.weight_ns.iter().copied().enumerate().filter(used).map(entry).collect()];
    }
    let mut sizes = vec![0; profile.threads().len()];
    for sample in profile.samples() {
        sizes[sample.thread.index()] += 1;
    }
    let mut threads: Vec<Vec<Entry>> = sizes.into_iter().map(Vec::with_capacity).collect();
    for Sample { thread, node, weight_ns, .. } in profile.samples() {
        threads[thread.index()].push(Entry { node, weight_ns });
    }
    threads
}

/// A trace, or a call graph from a file: calls and times that no timeline tells the order of.
fn is_of_columns(profile: &Profile) -> bool {
    profile.is_trace() || profile.is_without_timeline()
}

fn write_file(
    profile: &Profile,
    out: &mut dyn Write,
    options: &WriteOptions,
    name: &str,
    threads: &[Vec<Entry>],
) -> io::Result<()> {
    write_head(out)?;
    let mut stacks = Stacks::new(profile, threads);
    write_frames(profile, &stacks.table, out, options)?;
    out.write_all(b"\"profiles\":[")?;
    let mut first = true;
    for (thread, entries) in threads.iter().enumerate().filter(|(_, entries)| !entries.is_empty()) {
        out.write_all(if std::mem::take(&mut first) { b"\n" } else { b",\n" })?;
        write_thread(profile, thread, entries, &mut stacks, out)?;
    }
    write_tail(profile, out, name)
}

pub(crate) fn write_head(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(b"{\"$schema\":\"https://www.speedscope.app/file-format-schema.json\",\"version\":\"1.0.0\",\n")
}

pub(crate) fn write_tail(profile: &Profile, out: &mut dyn Write, name: &str) -> io::Result<()> {
    writeln!(out, "],\n\"name\":\"{name}\",")?;
    let meta = Metadata { losses: profile.losses(), ..profile.meta.clone() };
    let mut tail = b"\"exporter\":".to_vec();
    wtf8::push_json(&mut tail, meta.exporter.as_bytes());
    tail.extend_from_slice(b",\n\"spprof\":");
    wtf8::push_json_text(&mut tail, &serde_json::to_string(&meta)?);
    tail.extend_from_slice(b"}\n");
    out.write_all(&tail)
}

pub(crate) fn write_frames(
    profile: &Profile,
    table: &FrameTable,
    out: &mut dyn Write,
    options: &WriteOptions,
) -> io::Result<()> {
    out.write_all(b"\"shared\":{\"frames\":[")?;
    let mut text = Vec::new();
    for (i, frame) in table.frames.iter().enumerate() {
        text.clear();
        text.extend_from_slice(if i == 0 { b"\n{\"name\":" } else { b",\n{\"name\":" });
        if frame.is_native() && options.mark_native {
            let marked = [NATIVE_MARK.as_bytes(), profile.bytes(frame.name)].concat();
            wtf8::push_json(&mut text, &marked);
        } else {
            wtf8::push_json(&mut text, profile.bytes(frame.name));
        }
        text.extend_from_slice(b",\"file\":");
        wtf8::push_json(&mut text, profile.bytes(frame.file));
        text.extend_from_slice(b",\"line\":");
        text.extend_from_slice(itoa::Buffer::new().format(frame.line).as_bytes());
        if frame.is_native() && frame.module != StringId::EMPTY {
            // The schema allows further keys.
            text.extend_from_slice(b",\"module\":");
            wtf8::push_json(&mut text, profile.bytes(frame.module));
        }
        text.push(b'}');
        out.write_all(&text)?;
    }
    out.write_all(b"]},\n")
}

fn write_thread(
    profile: &Profile,
    thread: usize,
    entries: &[Entry],
    stacks: &mut Stacks,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut name = Vec::new();
    let all = b"all threads".as_slice();
    wtf8::push_json(&mut name, &if is_of_columns(profile) { all.to_vec() } else { thread_name(profile, thread) });
    let end_value = entries.iter().fold(0_u64, |sum, entry| sum.saturating_add(entry.weight_ns));
    out.write_all(b"{\"type\":\"sampled\",\"name\":")?;
    out.write_all(&name)?;
    let unit = if profile.is_heap() { "bytes" } else { "nanoseconds" };
    write!(out, ",\"unit\":\"{unit}\",\"startValue\":0,\"endValue\":{end_value},\n\"samples\":[")?;
    for (i, entry) in entries.iter().enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        out.write_all(stacks.render(entry.node))?;
    }
    out.write_all(b"],\n\"weights\":[")?;
    let mut number = itoa::Buffer::new();
    for (i, entry) in entries.iter().enumerate() {
        if i > 0 {
            out.write_all(b",")?;
        }
        out.write_all(number.format(entry.weight_ns).as_bytes())?;
    }
    out.write_all(b"]}")
}

/// Stacks as `[root,...,leaf]` by frame number.
struct Stacks<'a> {
    profile: &'a Profile,
    table: FrameTable,
    frame_of: Vec<u32>,
    text: Vec<u8>,
    /// Where a node's stack is in `text`; empty: nowhere.
    place: Vec<(u32, u32)>,
    scratch: Vec<u32>,
}

impl<'a> Stacks<'a> {
    fn new(profile: &'a Profile, threads: &[Vec<Entry>]) -> Self {
        let nodes = profile.nodes().len();
        let mut sampled = vec![false; nodes];
        for entry in threads.iter().flatten() {
            sampled[entry.node.index()] = true;
        }
        let mut table = FrameTable::default();
        let mut frame_of = vec![0; nodes];
        for (i, _) in used_nodes(profile, |i| sampled[i]).iter().enumerate().skip(1).filter(|(_, used)| **used) {
            frame_of[i] = table.number(frame(profile, NodeId::from_index(i as u32)));
        }
        Self { profile, table, frame_of, text: Vec::new(), place: vec![(0, 0); nodes], scratch: Vec::new() }
    }

    fn render(&mut self, leaf: NodeId) -> &[u8] {
        let (start, end) = self.place[leaf.index()];
        if start != end {
            return &self.text[start as usize..end as usize];
        }
        if self.text.len() > CACHE_BYTES {
            self.text.clear();
            self.place.fill((0, 0));
        }
        let start = self.text.len();
        self.scratch.clear();
        self.scratch.extend(self.profile.stack(leaf).map(|node| self.frame_of[node.index()]));
        self.text.push(b'[');
        let mut number = itoa::Buffer::new();
        for (i, &frame) in self.scratch.iter().rev().enumerate() {
            if i > 0 {
                self.text.push(b',');
            }
            self.text.extend_from_slice(number.format(frame).as_bytes());
        }
        self.text.push(b']');
        if let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(self.text.len())) {
            self.place[leaf.index()] = (start, end);
        }
        &self.text[start..]
    }
}
