//! Trace events as Perfetto and chrome://tracing read them: a track a thread with its calls, and a track a task with what it did.
//! Times are microseconds since the trace began, with nanoseconds behind the point.

use crate::frames::thread_name;
use crate::wtf8;
use spprof_model::{Profile, SpanKind};
use std::io::{self, Write};

/// Tracks of tasks are numbered from here: kernels number threads below.
const FIRST_TASK: u64 = 1 << 32;

pub(crate) fn write(profile: &Profile, out: &mut dyn Write) -> io::Result<()> {
    if profile.activity.spans.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "this profile has no intervals to write: trace with timeline=True",
        ));
    }
    let pid = profile.meta.pid;
    write!(out, "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[")?;
    named(out, "\n", pid, 0, "process_name", profile.meta.argv.first().map_or(b"python", |name| name.as_bytes()))?;
    for (i, thread) in profile.threads().iter().enumerate() {
        named(out, ",\n", pid, thread.os_id, "thread_name", &thread_name(profile, i))?;
    }
    for (i, task) in profile.activity.tasks.iter().enumerate() {
        let name = [b"task ", profile.bytes(task.name)].concat();
        named(out, ",\n", pid, FIRST_TASK + i as u64, "thread_name", &name)?;
    }
    let mut text = Vec::new();
    for span in &profile.activity.spans {
        text.clear();
        text.extend_from_slice(b",\n{\"ph\":\"X\",\"name\":");
        let thread = profile.threads()[span.thread.index()].os_id;
        let (track, category) = match span.kind {
            SpanKind::Call(node) => {
                let node = profile.node(node);
                let function = profile.function_info(node.function);
                wtf8::push_json(&mut text, profile.bytes(function.name));
                text.extend_from_slice(b",\"args\":{\"file\":");
                wtf8::push_json(&mut text, profile.bytes(function.file));
                write!(text, ",\"line\":{}}}", function.first_line)?;
                (thread, "call")
            }
            SpanKind::Run(task) => (named_state(&mut text, "run", task), "task"),
            SpanKind::Wait(task) => (named_state(&mut text, "wait", task), "task"),
            SpanKind::Queued(task) => (named_state(&mut text, "queued", task), "task"),
            _ => continue,
        };
        let (start, length) = (span.start_ns, span.end_ns.saturating_sub(span.start_ns));
        write!(text, ",\"cat\":\"{category}\",\"pid\":{pid},\"tid\":{track},\"ts\":")?;
        write!(text, "{}.{:03},\"dur\":{}.{:03}}}", start / 1000, start % 1000, length / 1000, length % 1000)?;
        out.write_all(&text)?;
    }
    let mut tail = b"],\n\"otherData\":{\"exporter\":".to_vec();
    wtf8::push_json(&mut tail, profile.meta.exporter.as_bytes());
    for (reason, count) in profile.losses() {
        tail.extend_from_slice(b",");
        wtf8::push_json(&mut tail, reason.as_bytes());
        write!(tail, ":\"{count}\"")?;
    }
    tail.extend_from_slice(b"}}\n");
    out.write_all(&tail)
}

fn named_state(text: &mut Vec<u8>, state: &str, task: u32) -> u64 {
    wtf8::push_json(text, state.as_bytes());
    FIRST_TASK + u64::from(task)
}

fn named(out: &mut dyn Write, before: &str, pid: u32, track: u64, what: &str, name: &[u8]) -> io::Result<()> {
    let mut text = Vec::new();
    write!(text, "{before}{{\"ph\":\"M\",\"name\":\"{what}\",\"pid\":{pid},\"tid\":{track},\"args\":{{\"name\":")?;
    wtf8::push_json(&mut text, name);
    text.extend_from_slice(b"}}");
    out.write_all(&text)
}
