//! CPython 3.9 and 3.10: `tstate->frame` is the innermost `PyFrameObject`, linked by `f_back`.

use super::{Bound, Calls, Interrupted, Verified, WalkOutcome, follow};
use crate::layout::Layout;
use crate::mem::{is_plausible, load_word};
use crate::stack::{LEAF_FRAMES, Stack};
use crate::zone::Runtime;

pub fn walk(
    runtime: &Runtime,
    verified: &mut Verified,
    tstate: usize,
    at: Interrupted,
    out: &mut Stack,
) -> WalkOutcome {
    let Some(frame) = load_word(tstate.wrapping_add(runtime.layout.tstate_frame)) else { return WalkOutcome::Broken };
    let outcome = follow(runtime, verified, frame, Calls::NONE, out);
    if outcome == WalkOutcome::Complete && at.note_entries {
        note_entries(runtime.layout, tstate, out);
    }
    outcome
}

/// No thread state is larger, and no stack as near to one.
const TSTATE_BYTES: usize = 1024;

/// CPYTHON 3.10: each frame is run by an interpreter call of its own, whose `CFrame` is on the C stack. A call that has just begun
/// or is about to end has no frame, so the two lists are matched from the root.
fn note_entries(layout: &Layout, tstate: usize, out: &mut Stack) {
    let (Some(cframe_at), Some(previous_at)) = (layout.tstate_cframe, layout.cframe_previous) else { return };
    let first = load_word(tstate.wrapping_add(cframe_at)).unwrap_or(0);
    // The last one is part of the thread state, and what it has for a previous one is never set.
    let next = |cframe: usize| {
        let is_last = cframe.wrapping_sub(tstate) < TSTATE_BYTES;
        let previous =
            if is_plausible(cframe) && !is_last { load_word(cframe.wrapping_add(previous_at)) } else { None };
        previous.filter(|previous| *previous != 0)
    };
    let mut calls: usize = 0;
    let (mut cframe, mut bound) = (first, Bound::new());
    while let Some(previous) = next(cframe) {
        if !bound.step(cframe) {
            return;
        }
        calls = calls.wrapping_add(1);
        cframe = previous;
    }
    let omitted = out.omitted as usize;
    let frames = out.frames().len().wrapping_add(omitted);
    let Some(idle) = calls.checked_sub(frames) else { return };
    let mut cframe = first;
    for call in 0..calls {
        if let Some(frame) = call.checked_sub(idle) {
            let index = if frame < LEAF_FRAMES { Some(frame) } else { frame.checked_sub(omitted) };
            if let Some(index) = index
                && (frame < LEAF_FRAMES || index >= LEAF_FRAMES)
            {
                out.set_entry_of(index, cframe);
            }
        }
        match next(cframe) {
            Some(previous) => cframe = previous,
            None => return,
        }
    }
}
