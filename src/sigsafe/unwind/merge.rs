//! One stack from two: each run of Python frames goes where the interpreter's call that ran it stands.
//!
//! An interpreter call leaves an object in its C frame that the chain of Python frames passes through (see
//! [`crate::stack::Stack::entries`]); the native frame whose part of the stack holds that address is that call. So names
//! and symbols are not needed, which optimised builds do not have where one would look for them.

use super::map::Map;
use super::{LEAF_NATIVES, Trace};
use crate::stack::{LEAF_FRAMES, MAX_FRAMES, NativeFrame, RawFrame, Stack, marks};

/// Python frames are never left out for the sake of native ones.
pub const MAX_MERGED: usize = MAX_FRAMES + super::MAX_NATIVES;
pub type Merged = Stack<MAX_MERGED>;

/// The Python frames not yet placed.
struct Rest<'a> {
    python: &'a Stack,
    next: usize,
    /// The first of them that C called, and where.
    entry: Option<(usize, usize)>,
}

impl<'a> Rest<'a> {
    fn new(python: &'a Stack) -> Self {
        let mut rest = Self { python, next: 0, entry: None };
        rest.find_entry();
        rest
    }

    fn find_entry(&mut self) {
        let mut left = self.python.entries().iter().enumerate().skip(self.next);
        self.entry = left.find(|(_, at)| **at != 0).map(|(index, at)| (index, *at));
    }

    /// Moves the frames before index `end` to `out`.
    #[inline(always)]
    fn take(&mut self, end: usize, out: &mut Merged) {
        while self.next < end
            && let Some(frame) = self.python.frames().get(self.next)
        {
            if self.python.omitted != 0 && self.next == LEAF_FRAMES {
                out.set_gap(self.python.omitted);
            }
            out.push(*frame);
            self.next = self.next.wrapping_add(1);
        }
    }
}

fn eval(frame: RawFrame) -> RawFrame {
    match frame.as_native() {
        Some(native) => RawFrame::native(NativeFrame { marks: native.marks | marks::EVAL, ..native }),
        None => frame,
    }
}

fn gap(frame: RawFrame) -> RawFrame {
    match frame.as_native() {
        Some(native) => RawFrame::native(NativeFrame { marks: native.marks | marks::GAP, ..native }),
        None => frame,
    }
}

/// Merges the Python frames of `python` and the native ones of `trace` into `out`.
pub fn merge(python: &Stack, trace: &Trace, out: &mut Merged) {
    out.clear();
    let mut rest = Rest::new(python);
    for (index, traced) in trace.frames().iter().enumerate() {
        let frame =
            if trace.omitted != 0 && index == LEAF_NATIVES.wrapping_sub(1) { gap(traced.frame) } else { traced.frame };
        if index < trace.other_stack {
            out.push(frame);
            continue;
        }
        let mut placed = frame;
        while let Some((last, entry)) = rest.entry {
            if entry >= traced.high {
                break;
            }
            // Below this frame: the call itself is one of those left out or not found.
            let here = entry >= traced.low;
            rest.take(last.wrapping_add(1), out);
            rest.find_entry();
            if here {
                placed = eval(frame);
                break;
            }
        }
        out.push(placed);
    }
    rest.take(usize::MAX, out);
}

/// As [`merge`], for CPython 3.9, which leaves no mark on the stack: each of its interpreter calls runs one frame.
pub fn merge_by_code(python: &Stack, trace: &Trace, map: &Map<'_>, out: &mut Merged) {
    out.clear();
    let mut rest = Rest::new(python);
    let is_eval = |frame: &RawFrame| frame.as_native().is_some_and(|native| map.is_eval(native.module, native.address));
    let calls = trace.frames().iter().filter(|traced| is_eval(&traced.frame)).count();
    // A call that has just begun, or is about to end, has no frame.
    let mut idle = if trace.is_whole() { calls.saturating_sub(python.frames().len()) } else { 0 };
    for (index, traced) in trace.frames().iter().enumerate() {
        let is_call = is_eval(&traced.frame);
        if is_call && idle == 0 {
            rest.take(rest.next.wrapping_add(1), out);
        }
        idle = idle.saturating_sub(usize::from(is_call));
        let frame = if is_call { eval(traced.frame) } else { traced.frame };
        let at_gap = trace.omitted != 0 && index == LEAF_NATIVES.wrapping_sub(1);
        out.push(if at_gap { gap(frame) } else { frame });
    }
    rest.take(usize::MAX, out);
}
