//! CPython 3.13 and later: `tstate->current_frame`, with shim frames wherever C called Python.

use super::{WalkOutcome, follow};
use crate::mem::load_word;
use crate::stack::Stack;
use crate::zone::Runtime;

pub fn walk(runtime: &Runtime, tstate: usize, out: &mut Stack) -> WalkOutcome {
    match load_word(tstate.wrapping_add(runtime.layout.tstate_frame)) {
        Some(frame) => follow(runtime, frame, out),
        None => WalkOutcome::Broken,
    }
}
