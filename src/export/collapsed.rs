//! Collapsed stacks: `root;...;leaf count`, sorted, no final newline. Writer and reader.
//!
//! A frame is `func (file:line)`, `func` without file or line, or `[native] func`. Characters that would break a line apart are
//! written as `\xNN` or `\uNNNN` (so are lone surrogates), and a backslash that would read as such an escape as `\x5c`.

use crate::format::{CountUnit, WriteOptions};
use crate::frames::{Frame, FrameTable, MergedTree, NATIVE_MARK, frame};
use crate::load::{Builder, ReadError};
use crate::wtf8;
use spprof_model::{FunctionKind, Profile, Values};
use std::io::{self, Write};

pub(crate) fn write(profile: &Profile, out: &mut dyn Write, options: &WriteOptions) -> io::Result<()> {
    let mut table = FrameTable::default();
    // Where frames are told apart by kind alone, the text is the same: number texts, not frames.
    let mut texts: Vec<Vec<u8>> = Vec::new();
    let mut text_of: Vec<u32> = Vec::new();
    let mut numbers = rustc_hash::FxHashMap::default();
    let tree = MergedTree::new(profile, &Values::of_profile(profile), |node| {
        let number = table.number(frame(profile, node)) as usize;
        if number == text_of.len() {
            let text = text(profile, &table.frames[number], options.mark_native);
            text_of.push(*numbers.entry(text.clone()).or_insert_with(|| {
                texts.push(text);
                texts.len() as u32 - 1
            }));
        }
        text_of[number]
    });
    // Calls are no measure of a stack's weight, and neither is the number of a heap profile's samples.
    let unit = match (profile.is_trace(), profile.is_heap()) {
        (true, _) => CountUnit::Microseconds,
        (_, true) => CountUnit::Nanoseconds,
        _ => options.count_unit,
    };
    write_sorted(&tree, &texts, unit, out)
}

enum Step {
    /// A line that ends at this frame.
    Line(Vec<u8>),
    /// All lines that go on below this node, and the text up to there.
    Below(u32, Vec<u8>),
}

/// In the order of the sorted lines without holding them: frames hold no `;`, so all lines through `frame;` are neighbours, and
/// sorting what can follow a prefix, at each prefix, sorts the whole.
fn write_sorted(tree: &MergedTree, texts: &[Vec<u8>], unit: CountUnit, out: &mut dyn Write) -> io::Result<()> {
    let steps = |node: u32| {
        let mut steps = Vec::new();
        for child in tree.children(node) {
            let merged = &tree.nodes[child as usize];
            let text = &texts[merged.key as usize];
            let count = match unit {
                CountUnit::Samples => merged.samples,
                CountUnit::Microseconds => merged.weight_ns.saturating_add(500) / 1000,
                CountUnit::Nanoseconds => merged.weight_ns,
            };
            if count > 0 {
                steps.push(Step::Line([text, format!(" {count}").as_bytes()].concat()));
            }
            if merged.first_child != 0 {
                steps.push(Step::Below(child, [text, &b";"[..]].concat()));
            }
        }
        // Reversed: taken from the end.
        steps.sort_by(|a, b| b.text().cmp(a.text()));
        steps
    };
    let mut prefix: Vec<u8> = Vec::new();
    let mut pending = vec![(0, steps(0))];
    let mut first = true;
    while let Some((prefix_len, level)) = pending.last_mut() {
        prefix.truncate(*prefix_len);
        match level.pop() {
            None => {
                pending.pop();
            }
            Some(Step::Line(line)) => {
                if !std::mem::take(&mut first) {
                    out.write_all(b"\n")?;
                }
                out.write_all(&prefix)?;
                out.write_all(&line)?;
            }
            Some(Step::Below(node, text)) => {
                prefix.extend_from_slice(&text);
                pending.push((prefix.len(), steps(node)));
            }
        }
    }
    Ok(())
}

impl Step {
    fn text(&self) -> &[u8] {
        match self {
            Self::Line(text) | Self::Below(_, text) => text,
        }
    }
}

fn text(profile: &Profile, frame: &Frame, mark_native: bool) -> Vec<u8> {
    let mut text = Vec::new();
    let native = frame.is_native();
    if native && mark_native {
        text.extend_from_slice(NATIVE_MARK.as_bytes());
    }
    escape(&mut text, profile.bytes(frame.name));
    let file = profile.bytes(frame.file);
    if !native && !file.is_empty() && frame.line != 0 {
        text.extend_from_slice(b" (");
        escape(&mut text, file);
        text.extend_from_slice(format!(":{})", frame.line).as_bytes());
    }
    text
}

fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    let points: Vec<u32> = wtf8::code_points(bytes).collect();
    for (i, &point) in points.iter().enumerate() {
        match point {
            0x5c if escape_at(&points[i..]).is_some() => out.extend_from_slice(b"\\x5c"),
            // What ends a line for some reader, and the separator.
            0..0x20 | 0x3b | 0x7f..0xa0 => out.extend_from_slice(format!("\\x{point:02x}").as_bytes()),
            0x2028 | 0x2029 | 0xd800..0xe000 => out.extend_from_slice(format!("\\u{point:04x}").as_bytes()),
            _ => wtf8::push(out, point),
        }
    }
}

/// The code point that an escape at the start stands for, and the escape's length.
fn escape_at(points: &[u32]) -> Option<(u32, usize)> {
    let digits = match points {
        [0x5c, 0x78, ..] => 2,
        [0x5c, 0x75, ..] => 4,
        _ => return None,
    };
    let hex = points.get(2..2 + digits)?;
    let value = hex.iter().try_fold(0, |value, &point| Some(value << 4 | char::from_u32(point)?.to_digit(16)?))?;
    Some((value, 2 + digits))
}

fn unescape(bytes: &[u8]) -> Vec<u8> {
    if !bytes.contains(&b'\\') {
        return bytes.to_vec();
    }
    let points: Vec<u32> = wtf8::code_points(bytes).collect();
    let mut out = Vec::new();
    let mut rest = &points[..];
    while let Some(&first) = rest.first() {
        let (point, len) = escape_at(rest).unwrap_or((first, 1));
        wtf8::push(&mut out, point);
        rest = &rest[len..];
    }
    out
}

/// One thread, one sample entry per line, weights 0: the format has no time.
pub(crate) fn read(bytes: &[u8]) -> Result<Profile, ReadError> {
    let mut builder = Builder::new();
    let thread = builder.thread(b"all threads", 0);
    let mut offset = 0;
    for line in bytes.split(|&byte| byte == b'\n') {
        let start = offset;
        offset += line.len() + 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let expected = || ReadError::new(start, "expected `frame;...;frame count`");
        let space = line.iter().rposition(|&byte| byte == b' ').ok_or_else(expected)?;
        let count = std::str::from_utf8(&line[space + 1..]).ok().and_then(|text| text.parse::<u64>().ok());
        let count = count.filter(|&count| count <= u64::from(u32::MAX)).ok_or_else(expected)?;
        let mut node = spprof_model::NodeId::ROOT;
        for frame in line[..space].split(|&byte| byte == b';') {
            let (name, file, line, kind) = parse_frame(frame);
            node = builder.child(node, &unescape(name), &unescape(file), line, kind);
        }
        builder.record(0, thread, node, 0, count);
    }
    let mut profile = builder.profile;
    profile.meta.notes.push("read from collapsed stacks: counts only, no times, no threads".to_owned());
    Ok(profile)
}

fn parse_frame(frame: &[u8]) -> (&[u8], &[u8], u32, FunctionKind) {
    if let Some(name) = frame.strip_prefix(NATIVE_MARK.as_bytes()) {
        return (name, b"", 0, FunctionKind::Native);
    }
    let parts = || {
        let inside = frame.strip_suffix(b")")?;
        let open = inside.windows(2).position(|pair| pair == b" (")?;
        let colon = inside.iter().rposition(|&byte| byte == b':').filter(|&colon| colon > open)?;
        let line = std::str::from_utf8(&inside[colon + 1..]).ok()?.parse().ok()?;
        Some((&inside[..open], &inside[open + 2..colon], line))
    };
    match parts() {
        Some((name, file, line)) => (name, file, line, FunctionKind::Python),
        None if frame.starts_with(b"<") && frame.ends_with(b">") => (frame, b"", 0, FunctionKind::Synthetic),
        None => (frame, b"", 0, FunctionKind::Python),
    }
}
