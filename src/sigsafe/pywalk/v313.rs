//! CPython 3.13 and later: `tstate->current_frame`, with shim frames wherever C called Python.

use super::{Calls, Verified, WalkOutcome, follow};
use crate::mem::load_word;
use crate::stack::Stack;
use crate::zone::Runtime;

pub fn walk(runtime: &Runtime, verified: &mut Verified, tstate: usize, out: &mut Stack) -> WalkOutcome {
    match load_word(tstate.wrapping_add(runtime.layout.tstate_frame)) {
        Some(frame) => follow(runtime, verified, frame, Calls::NONE, out),
        None => WalkOutcome::Broken,
    }
}
