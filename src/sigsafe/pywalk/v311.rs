//! CPython 3.11 and 3.12: `tstate->cframe->current_frame`, where each `_PyCFrame` is a local variable of an eval call.
//!
//! An eval call publishes its cframe before it fills in `current_frame`, so a signal between the two sees an old value.
//! That value may be anything that was in that stack slot: then the walk breaks, or, worse, succeeds on frames that are no
//! longer linked that way. Two checks catch it: the frame must not lie above the data stack's top, and in the first
//! instructions of eval the first C entry of the chain must lead to the frame of the calling eval. Then the walk starts
//! again from the caller, which is whole: only the call that was just being made is missing.

use super::{Bound, Calls, Interrupted, Link, Verified, WalkOutcome, follow, read_link};
use crate::layout::FrameChain;
use crate::mem::{is_plausible, load_u8, load_word};
use crate::stack::Stack;
use crate::zone::Runtime;

/// Bytes of code from eval's entry that may run before `current_frame` is written.
const EVAL_PROLOGUE: usize = 1024;
/// Links followed to find the C entry: as many Python-to-Python calls as one eval call may have inlined.
const MAX_ENTRY_STEPS: u32 = 1 << 16;
/// Size of a datastack chunk's header fields we rely on: a chunk is at least this large.
const CHUNK_BYTES: usize = 16 * 1024;

pub fn walk(
    runtime: &Runtime,
    verified: &mut Verified,
    tstate: usize,
    at: Interrupted,
    out: &mut Stack,
) -> WalkOutcome {
    let layout = runtime.layout;
    let (Some(current_at), Some(previous_at)) = (layout.cframe_current, layout.cframe_previous) else {
        return WalkOutcome::Broken;
    };
    let Some(cframe) = load_word(tstate.wrapping_add(layout.tstate_frame)) else { return WalkOutcome::Broken };
    if !is_plausible(cframe) {
        return WalkOutcome::Broken;
    }
    let (Some(frame), Some(caller_cframe)) =
        (load_word(cframe.wrapping_add(current_at)), load_word(cframe.wrapping_add(previous_at)))
    else {
        return WalkOutcome::Broken;
    };
    let caller_frame = if caller_cframe == 0 {
        // The root cframe inside the thread state: no eval call is running.
        return follow(runtime, verified, frame, Calls::NONE, out);
    } else if is_plausible(caller_cframe) {
        load_word(caller_cframe.wrapping_add(current_at)).unwrap_or(0)
    } else {
        return WalkOutcome::Broken;
    };

    let in_prologue = runtime.eval != 0 && at.pc.wrapping_sub(runtime.eval) < EVAL_PROLOGUE;
    let suspect = above_top(runtime, tstate, frame) || (in_prologue && !leads_to(runtime, frame, caller_frame));
    let calls = |cframe| if at.note_entries { Calls { cframe } } else { Calls::NONE };
    if !suspect && follow(runtime, verified, frame, calls(cframe), out) == WalkOutcome::Complete {
        return WalkOutcome::Complete;
    }
    out.clear();
    if caller_frame == 0 && !in_prologue {
        // The thread's outermost eval call, past its first instructions: it has a frame, and not to find it is no empty stack.
        return WalkOutcome::Broken;
    }
    match follow(runtime, verified, caller_frame, calls(caller_cframe), out) {
        WalkOutcome::Complete => WalkOutcome::Restarted,
        other => other,
    }
}

/// True when `frame` lies in the current datastack chunk beyond its used part: popped, or never pushed.
fn above_top(runtime: &Runtime, tstate: usize, frame: usize) -> bool {
    let layout = runtime.layout;
    let (Some(chunk_at), Some(top_at)) = (layout.tstate_datastack_chunk, layout.tstate_datastack_top) else {
        return false;
    };
    match (load_word(tstate.wrapping_add(chunk_at)), load_word(tstate.wrapping_add(top_at))) {
        (Some(chunk), Some(top)) if chunk != 0 => {
            frame >= top && frame > chunk && frame < chunk.wrapping_add(CHUNK_BYTES)
        }
        _ => false,
    }
}

/// True when the first C entry on the chain from `frame` was called from `caller`.
fn leads_to(runtime: &Runtime, mut frame: usize, caller: usize) -> bool {
    let layout = runtime.layout;
    let mut bound = Bound::new();
    while bound.step(frame) && bound.steps < MAX_ENTRY_STEPS {
        let Some(Link { previous, shim, .. }) = read_link(layout, frame) else { return false };
        let entry = match (layout.chain, layout.frame_is_entry) {
            (FrameChain::CFrameEntry, Some(entry_at)) => {
                load_u8(frame.wrapping_add(entry_at)).is_some_and(|entry| entry != 0)
            }
            _ => shim,
        };
        if entry {
            return previous == caller;
        }
        frame = previous;
    }
    false
}
