//! CPython 3.13+ publishes the offsets of its structures at the start of `_PyRuntime` (`_Py_DebugOffsets`). Its own layout
//! changes with each minor version, so it cannot replace our table; but where both speak, they must agree.

use crate::error::{Error, Result};
use spprof_sigsafe::layout::Layout;
use spprof_sigsafe::mem::load_word;

const COOKIE: [u8; 8] = *b"xdebugpy";
/// Words from the start of the structure (Include/internal/pycore_runtime.h, from 3.14 on pycore_debug_offsets.h).
const VERSION: usize = 1;
const INTERPRETER: usize = 6;

/// The first words of the sub-structures that grew before the fields we use.
struct Schema {
    thread: usize,
    thread_id: usize,
    frame: usize,
    code: usize,
    object: usize,
    tlbc: Option<(usize, usize)>,
}

fn schema(minor: u8) -> Option<Schema> {
    match minor {
        13 => Some(Schema { thread: 19, thread_id: 24, frame: 28, code: 34, object: 44, tlbc: None }),
        14 => Some(Schema { thread: 22, thread_id: 27, frame: 31, code: 39, object: 50, tlbc: Some((38, 49)) }),
        15 => Some(Schema { thread: 22, thread_id: 30, frame: 39, code: 47, object: 58, tlbc: Some((46, 57)) }),
        _ => None,
    }
}

/// Compares `layout` with what the interpreter says of itself; before 3.13 there is nothing to compare with.
pub fn check(layout: &Layout) -> Result<()> {
    let Some(schema) = schema(layout.minor) else { return Ok(()) };
    let Some(base) = super::runtime::symbol(c"_PyRuntime") else { return Ok(()) };
    let word = |index: usize| load_word(base + index * 8);
    if word(0) != Some(usize::from_ne_bytes(COOKIE))
        || word(VERSION).is_none_or(|v| (v >> 16 & 0xff) as u8 != layout.minor)
    {
        return Err(Error::runtime(format!(
            "CPython 3.{} does not carry its debug offsets where spprof expects them: this build is not one spprof knows, \
             so it refuses to guess. Please report the output of `spprof doctor`",
            layout.minor
        )));
    }
    let mut fields = vec![
        ("PyInterpreterState.id", INTERPRETER + 1, layout.interp_id),
        ("PyInterpreterState.next", INTERPRETER + 2, layout.interp_next),
        ("PyInterpreterState.threads.head", INTERPRETER + 3, layout.interp_threads_head),
        ("PyThreadState.next", schema.thread + 2, layout.tstate_next),
        ("PyThreadState.interp", schema.thread + 3, layout.tstate_interp),
        ("PyThreadState.current_frame", schema.thread + 4, layout.tstate_frame),
        ("PyThreadState.thread_id", schema.thread_id, layout.tstate_thread_id),
        ("_PyInterpreterFrame.previous", schema.frame + 1, layout.frame_previous),
        ("_PyInterpreterFrame.f_executable", schema.frame + 2, layout.frame_code),
        ("_PyInterpreterFrame.instr_ptr", schema.frame + 3, layout.frame_instr),
        ("PyCodeObject.co_filename", schema.code + 1, layout.code_filename),
        ("PyCodeObject.co_name", schema.code + 2, layout.code_name),
        ("PyCodeObject.co_qualname", schema.code + 3, layout.code_qualname),
        ("PyCodeObject.co_linetable", schema.code + 4, layout.code_linetable),
        ("PyCodeObject.co_firstlineno", schema.code + 5, layout.code_firstlineno),
        ("PyCodeObject.co_code_adaptive", schema.code + 9, layout.code_instructions),
        ("PyObject.ob_type", schema.object + 1, layout.ob_type),
    ];
    fields
        .extend(layout.tstate_native_thread_id.map(|at| ("PyThreadState.native_thread_id", schema.thread_id + 1, at)));
    fields.extend(layout.tstate_datastack_chunk.map(|at| ("PyThreadState.datastack_chunk", schema.thread_id + 2, at)));
    fields.extend(layout.frame_owner.map(|at| ("_PyInterpreterFrame.owner", schema.frame + 5, at)));
    if let (Some((index, _)), Some(at)) = (schema.tlbc, layout.frame_tlbc_index) {
        fields.push(("_PyInterpreterFrame.tlbc_index", index, at));
    }
    if let (Some((_, index)), Some(at)) = (schema.tlbc, layout.code_tlbc) {
        fields.push(("PyCodeObject.co_tlbc", index, at));
    }
    for (name, index, ours) in fields {
        let theirs = word(index);
        if theirs != Some(ours) {
            return Err(Error::runtime(format!(
                "spprof's layout of CPython 3.{} does not fit this build: {name} is at {theirs:?}, expected {ours}. \
                 Upgrade spprof, or report the output of `spprof doctor`",
                layout.minor
            )));
        }
    }
    Ok(())
}
