//! speedscope JSON read back: `sampled` profiles of any exporter. Times are the running sums of the weights.

use crate::frames::NATIVE_MARK;
use crate::load::{Builder, ReadError};
use crate::wtf8;
use serde::Deserialize;
use serde_json::value::RawValue;
use spprof_model::{FunctionKind, Metadata, NodeId, Profile};

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    shared: Shared<'a>,
    #[serde(borrow)]
    profiles: Vec<ThreadProfile<'a>>,
    spprof: Option<Metadata>,
}

#[derive(Deserialize)]
struct Shared<'a> {
    #[serde(borrow)]
    frames: Vec<Frame<'a>>,
}

/// Strings are taken raw: they may hold lone surrogates, which the JSON library refuses.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow)]
    name: &'a RawValue,
    #[serde(borrow)]
    file: Option<&'a RawValue>,
    line: Option<f64>,
    /// Of native frames, in our own files; elsewhere it may be anything.
    #[serde(borrow)]
    module: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ThreadProfile<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    name: &'a RawValue,
    unit: &'a str,
    #[serde(default)]
    samples: Vec<Vec<u32>>,
    #[serde(default)]
    weights: Vec<f64>,
}

pub(crate) fn read(bytes: &[u8]) -> Result<Profile, ReadError> {
    let text = std::str::from_utf8(bytes).map_err(|error| ReadError::new(error.valid_up_to(), "expected UTF-8"))?;
    let file: File = serde_json::from_str(text)
        .map_err(|error| ReadError::new(offset(text, &error), format!("expected speedscope JSON: {error}")))?;
    // What is wrong with the content has no offset of its own; it is told by its place in the document.
    let invalid = |what: String| ReadError::new(0, format!("expected a speedscope profile, but {what}"));
    let string = |raw: Option<&RawValue>| match raw.map(RawValue::get) {
        None | Some("null") => Some(Vec::new()),
        Some(literal) => wtf8::from_json(literal),
    };
    let mut frames = Vec::new();
    for (i, frame) in file.shared.frames.iter().enumerate() {
        let name = string(Some(frame.name)).ok_or_else(|| invalid(format!("frame {i} has no name")))?;
        let source = string(frame.file).ok_or_else(|| invalid(format!("the file of frame {i} is no string")))?;
        let (name, kind) = match name.strip_prefix(NATIVE_MARK.as_bytes()) {
            Some(name) => (name.to_vec(), FunctionKind::Native),
            None if source.is_empty() && name.starts_with(b"<") => (name, FunctionKind::Synthetic),
            None => (name, FunctionKind::Python),
        };
        let module = Some(frame.module).filter(|_| kind == FunctionKind::Native).and_then(string).unwrap_or_default();
        frames.push((name, source, frame.line.unwrap_or(0.0) as u32, kind, module));
    }
    let mut builder = Builder::new();
    if let Some(meta) = file.spprof {
        builder.profile.meta = meta;
    } else {
        builder.profile.meta.exporter.clear();
    }
    for (i, thread) in file.profiles.iter().enumerate() {
        if thread.r#type != "sampled" {
            return Err(invalid(format!("profile {i} is of type {:?}, only \"sampled\" can be read", thread.r#type)));
        }
        if thread.samples.len() != thread.weights.len() {
            return Err(invalid(format!(
                "profile {i} has {} samples and {} weights",
                thread.samples.len(),
                thread.weights.len()
            )));
        }
        let unit_ns = match thread.unit {
            "nanoseconds" | "none" => 1.0,
            "microseconds" => 1e3,
            "milliseconds" => 1e6,
            "seconds" => 1e9,
            other => {
                return Err(invalid(format!("profile {i} is in {other:?}, which is no time")));
            }
        };
        let name = string(Some(thread.name)).ok_or_else(|| invalid(format!("profile {i} has no name")))?;
        let os_id = name.strip_prefix(b"Thread-").and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
        let id = builder.thread(if os_id.is_some() { b"" } else { &name }, os_id.unwrap_or(0));
        let mut time_ns = 0_u64;
        for (stack, &weight) in thread.samples.iter().zip(&thread.weights) {
            let mut node = NodeId::ROOT;
            for &frame in stack {
                let (name, file, line, kind, module) = frames
                    .get(frame as usize)
                    .ok_or_else(|| invalid(format!("profile {i} names frame {frame} of {}", frames.len())))?;
                node = builder.child_of_module(node, name, file, *line, *kind, module);
            }
            let weight_ns = (weight * unit_ns).max(0.0) as u64;
            builder.record(time_ns, id, node, weight_ns, 1);
            time_ns = time_ns.saturating_add(weight_ns);
        }
        let row = builder.profile.thread_mut(id);
        row.end_ns = time_ns;
    }
    Ok(builder.profile)
}

/// The JSON library tells line and column (in bytes, from 1).
fn offset(text: &str, error: &serde_json::Error) -> usize {
    let line = error.line().saturating_sub(1);
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    (start + error.column().saturating_sub(1)).min(text.len())
}
