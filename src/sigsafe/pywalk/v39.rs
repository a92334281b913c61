//! CPython 3.9 and 3.10: `tstate->frame` is the innermost `PyFrameObject`, linked by `f_back`.

use super::{Verified, WalkOutcome, follow};
use crate::mem::load_word;
use crate::stack::Stack;
use crate::zone::Runtime;

pub fn walk(runtime: &Runtime, verified: &mut Verified, tstate: usize, out: &mut Stack) -> WalkOutcome {
    match load_word(tstate.wrapping_add(runtime.layout.tstate_frame)) {
        Some(frame) => follow(runtime, verified, frame, out),
        None => WalkOutcome::Broken,
    }
}
