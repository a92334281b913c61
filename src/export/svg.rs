//! A flame graph as one SVG file: root at the bottom, colour by kind of frame, hover for figures, click to zoom, search.
//!
//! Frames too narrow to see and levels beyond `MAX_DEPTH` are left out, and how much that is stands in the picture.

use crate::format::WriteOptions;
use crate::frames::{Frame, FrameTable, MergedTree, frame};
use crate::wtf8;
use spprof_model::{FunctionKind, Profile, StringId, Values};
use std::io::{self, Write};

const WIDTH: f64 = 1200.0;
const MARGIN: f64 = 10.0;
const ROW: usize = 17;
const HEADER: usize = 60;
/// At 11 px in a monospaced font.
const CHAR_WIDTH: f64 = 6.65;
/// In pixels; frames below are left out.
const MIN_WIDTH: f64 = 0.2;
const MAX_DEPTH: usize = 2000;
const SCRIPT: &str = include_str!("svg.js");
const STYLE: &str = "svg{background:#fff}text{font:11px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#111}\
    .f text{pointer-events:none}.f{cursor:pointer}.f:hover rect{stroke:#111;stroke-width:1}\
    .hit rect{fill:#d63ad6}.dim{opacity:.45}#title{font-size:16px;font-weight:bold}.button{cursor:pointer;fill:#36c}";

struct Bar {
    key: u32,
    x: f64,
    width: f64,
    depth: usize,
    total: u64,
}

pub(crate) fn write(profile: &Profile, out: &mut dyn Write, options: &WriteOptions) -> io::Result<()> {
    let mut table = FrameTable::default();
    let values = Values::of_profile(profile);
    let timed = values.weight_ns.iter().any(|&weight_ns| weight_ns > 0);
    // A flame graph shows functions; their lines are for other formats.
    let tree = MergedTree::new(profile, &values, |node| {
        let frame = frame(profile, node);
        // Code from several headers can be in one native function.
        let file = if frame.is_native() && frame.module != StringId::EMPTY { frame.module } else { frame.file };
        table.number(Frame { line: 0, file, ..frame })
    });
    let mut totals: Vec<u64> =
        tree.nodes.iter().map(|node| if timed { node.weight_ns } else { node.samples }).collect();
    for i in (1..totals.len()).rev() {
        let parent = tree.nodes[i].parent as usize;
        totals[parent] = totals[parent].saturating_add(totals[i]);
    }
    let names: Vec<String> = table.frames.iter().map(|frame| wtf8::to_text(profile.bytes(frame.name))).collect();
    let layout = lay_out(&tree, &totals, &names);
    let depth = layout.bars.iter().map(|bar| bar.depth).max().unwrap_or(0);
    let height = HEADER + (depth + 1) * ROW + 30;
    let title = options.title.as_deref().unwrap_or("spprof flame graph");
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\">\n\
         <style>{STYLE}</style>\n<text id=\"title\" x=\"{MARGIN}\" y=\"22\">{}</text>",
        xml(title)
    )?;
    let unit = Unit::of(profile, timed);
    let amount = |value: u64| amount(value, unit);
    let total = totals[0];
    writeln!(out, "<text x=\"{MARGIN}\" y=\"40\">{}</text>", xml(&summary(profile, &amount(total), unit)))?;
    if layout.left_out > 0 {
        let what = format!(
            "{} too narrow or too deep to draw left out: {} ({})",
            if layout.left_out == 1 { "1 stack".to_owned() } else { format!("{} stacks", layout.left_out) },
            amount(layout.left_out_value),
            percent(layout.left_out_value, total)
        );
        writeln!(out, "<text x=\"{MARGIN}\" y=\"55\">{}</text>", xml(&what))?;
    }
    writeln!(
        out,
        "<text id=\"reset\" class=\"button\" x=\"{0}\" y=\"22\" visibility=\"hidden\">reset zoom</text>\n\
         <text id=\"search\" class=\"button\" x=\"{1}\" y=\"22\">search</text>\n\
         <text id=\"found\" x=\"{1}\" y=\"40\" text-anchor=\"middle\"></text>",
        WIDTH - 210.0,
        WIDTH - 90.0
    )?;
    for bar in &layout.bars {
        let y = HEADER + (depth - bar.depth) * ROW;
        let (label, place, fill) = match bar.depth {
            0 => ("all".to_owned(), String::new(), "#ddd".to_owned()),
            _ => {
                let frame = &table.frames[bar.key as usize];
                let name = names[bar.key as usize].clone();
                let file = wtf8::to_text(profile.bytes(frame.file));
                let place = if file.is_empty() { String::new() } else { format!(" ({file})") };
                let fill = colour(frame.kind, &name);
                (name, place, fill)
            }
        };
        writeln!(
            out,
            "<g class=\"f\"><title>{}</title><rect x=\"{:.2}\" y=\"{y}\" width=\"{:.2}\" height=\"{}\" fill=\"{fill}\" rx=\"1\"/>\
             <text x=\"{:.2}\" y=\"{}\" data-label=\"{}\">{}</text></g>",
            xml(&format!("{label}{place}: {}, {}", amount(bar.total), percent(bar.total, total))),
            bar.x,
            bar.width,
            ROW - 1,
            bar.x + 3.0,
            y + 12,
            xml(&label),
            xml(&fit(&label, bar.width)),
        )?;
    }
    writeln!(
        out,
        "<text x=\"{MARGIN}\" y=\"{}\">orange: Python, blue: native, grey: made by the profiler</text>\n\
         <script><![CDATA[\n{SCRIPT}]]></script>\n</svg>",
        height - 10
    )
}

struct Layout {
    bars: Vec<Bar>,
    /// Subtrees not drawn, and their values.
    left_out: u64,
    left_out_value: u64,
}

fn lay_out(tree: &MergedTree, totals: &[u64], names: &[String]) -> Layout {
    let scale = (WIDTH - 2.0 * MARGIN) / totals[0].max(1) as f64;
    let mut layout = Layout { bars: Vec::new(), left_out: 0, left_out_value: 0 };
    let mut pending = vec![(0_u32, MARGIN, 0_usize)];
    while let Some((node, x, depth)) = pending.pop() {
        let total = totals[node as usize];
        let width = total as f64 * scale;
        if depth > 0 && (width < MIN_WIDTH || depth > MAX_DEPTH) {
            layout.left_out += 1;
            layout.left_out_value = layout.left_out_value.saturating_add(total);
            continue;
        }
        let width = if depth == 0 { WIDTH - 2.0 * MARGIN } else { width };
        layout.bars.push(Bar { key: tree.nodes[node as usize].key, x, width, depth, total });
        let mut children: Vec<u32> = tree.children(node).collect();
        children.sort_by_key(|&child| &names[tree.nodes[child as usize].key as usize]);
        let mut x = x;
        for child in children {
            pending.push((child, x, depth + 1));
            x += totals[child as usize] as f64 * scale;
        }
    }
    layout
}

/// What the widths measure.
#[derive(Clone, Copy)]
enum Unit {
    Samples,
    Nanoseconds,
    Bytes,
}

impl Unit {
    fn of(profile: &Profile, weighted: bool) -> Self {
        match (weighted, profile.is_heap()) {
            (false, _) => Self::Samples,
            (true, false) => Self::Nanoseconds,
            (true, true) => Self::Bytes,
        }
    }
}

fn summary(profile: &Profile, total: &str, unit: Unit) -> String {
    let meta = &profile.meta;
    let of = match unit {
        Unit::Samples => String::new(),
        Unit::Nanoseconds => format!(" {} time", meta.clock),
        Unit::Bytes => " alive".to_owned(),
    };
    let mut parts = vec![format!("{total}{of}")];
    parts.push(format!("{} samples", profile.sample_count()));
    if meta.unattributed_ns > 0 {
        parts.push(format!("{} unattributed", amount(meta.unattributed_ns, Unit::Nanoseconds)));
    }
    if !meta.python_version.is_empty() {
        parts.push(format!("Python {}", meta.python_version));
    }
    let losses: Vec<String> = profile
        .losses()
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    if !losses.is_empty() {
        parts.push(format!("losses: {}", losses.join(" ")));
    }
    if meta.incomplete {
        parts.push("incomplete".to_owned());
    }
    parts.join(", ")
}

fn amount(value: u64, unit: Unit) -> String {
    let v = value as f64;
    match (unit, value) {
        (Unit::Samples, _) => format!("{value} samples"),
        (Unit::Nanoseconds, 1_000_000_000..) => format!("{:.2} s", v / 1e9),
        (Unit::Nanoseconds, 1_000_000..) => format!("{:.2} ms", v / 1e6),
        (Unit::Nanoseconds, _) => format!("{:.2} us", v / 1e3),
        (Unit::Bytes, 1_000_000..) => format!("{:.2} MB", v / 1e6),
        (Unit::Bytes, _) => format!("{:.2} kB", v / 1e3),
    }
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.2} %", part as f64 * 100.0 / whole.max(1) as f64)
}

/// The label, cut to the width in pixels; nothing if not even three characters fit.
fn fit(label: &str, width: f64) -> String {
    let columns = |c: char| if (c as u32) < 0x1100 { 1.0 } else { 2.0 };
    let room = ((width - 6.0) / CHAR_WIDTH).floor();
    if label.chars().map(columns).sum::<f64>() <= room {
        return label.to_owned();
    }
    if room < 3.0 {
        return String::new();
    }
    let mut used = 2.0;
    let kept = label.chars().take_while(|&c| {
        used += columns(c);
        used <= room
    });
    kept.chain("..".chars()).collect()
}

/// A shade by name, so that neighbours differ and the same function looks the same everywhere.
fn colour(kind: FunctionKind, name: &str) -> String {
    let hash = crc32fast::hash(name.as_bytes());
    let (hue, spread, saturation) = match kind {
        FunctionKind::Native => (205, 20, 60),
        FunctionKind::Synthetic => (0, 1, 0),
        _ => (18, 34, 85),
    };
    format!("hsl({},{saturation}%,{}%)", hue + hash % spread, 62 + (hash >> 8) % 14)
}

/// Escaped for text and attributes; characters that XML cannot hold become U+FFFD.
fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' | '\r' => out.push(' '),
            '\0'..' ' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(c),
        }
    }
    out
}
