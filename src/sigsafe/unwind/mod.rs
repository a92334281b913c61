//! Native stacks: from the registers that a signal found to the thread's start. Runs in the signal handler of the thread
//! itself, or on a thread for its own stack.
//!
//! No table is parsed here: the manager has turned each module's unwind information into [`rule::Rule`]s, which
//! [`map::Map`] finds by address. The stack is read by guarded loads; each frame lies above the one before, and
//! [`MAX_STEPS`] bounds what the tables of a hostile module could make of that.

pub mod map;
pub mod merge;
pub mod rule;

use crate::stack::{NativeFrame, RawFrame, marks};
use map::{Cache, Map};
use rule::{Registers, Step};

/// Frames kept from the leaf end, before anything is left out.
pub const LEAF_NATIVES: usize = 448;
/// Frames kept from the root end of a deeper stack.
pub const ROOT_NATIVES: usize = 64;
pub const MAX_NATIVES: usize = LEAF_NATIVES + ROOT_NATIVES;
/// A recursion of Python 3.9 at its deepest (some 30,000 calls fit into 8 MB) has about three native frames a call.
const MAX_STEPS: u32 = 1 << 17;

/// One native frame, and which part of the stack is its own.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Traced {
    pub frame: RawFrame,
    /// The stack pointer in it, and that of its caller: what lies between belongs to it.
    pub low: usize,
    pub high: usize,
}

/// Why a trace ended.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Ending {
    /// At the thread's start.
    #[default]
    Start,
    /// In code without unwind information, or whose information we do not understand.
    NoRule,
    /// Where the stack is not as the rules say.
    BadStack,
    /// After too many steps.
    TooDeep,
}

/// A native stack, leaf first. When `omitted` is not 0, so many are missing after the first [`LEAF_NATIVES`].
#[derive(Debug)]
pub struct Trace {
    frames: [Traced; MAX_NATIVES],
    len: usize,
    pub omitted: u32,
    pub ending: Ending,
    /// Frames before this one are on another stack than the rest: a signal handler's own.
    pub other_stack: usize,
}

impl Trace {
    #[must_use]
    pub const fn new() -> Self {
        const NONE: Traced = Traced { frame: RawFrame { code: 0, offset: 0 }, low: 0, high: 0 };
        Self { frames: [NONE; MAX_NATIVES], len: 0, omitted: 0, ending: Ending::Start, other_stack: 0 }
    }

    #[must_use]
    pub fn frames(&self) -> &[Traced] {
        self.frames.get(..self.len).unwrap_or(&[])
    }

    /// True when no frame is missing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.ending == Ending::Start && self.omitted == 0
    }

    pub fn clear(&mut self) {
        (self.len, self.omitted, self.other_stack, self.ending) = (0, 0, 0, Ending::Start);
    }

    /// Follows the stack from `registers` to its end.
    pub fn follow(&mut self, map: &Map<'_>, cache: &mut Cache, mut registers: Registers) -> &Self {
        cache.renew(map);
        self.clear();
        // Frames that are left out or overwritten by later ones: the root end is a ring of its own.
        let mut taken: usize = 0;
        let mut exact = true;
        self.ending = loop {
            if taken >= MAX_STEPS as usize {
                break Ending::TooDeep;
            }
            // A return address lies behind its call, maybe in the next function already.
            let address = if exact { registers.ip } else { registers.ip.wrapping_sub(1) };
            let found = cache.find(map, address);
            let rule = map.rule(found.rule);
            let low = registers.sp();
            let step = rule.step(&mut registers);
            let ends = match step {
                Step::Lost => marks::ENDS,
                _ => 0,
            };
            let native = NativeFrame {
                module: found.module,
                address: found.address,
                marks: ends | if exact { marks::EXACT } else { 0 },
            };
            // What belongs to a frame without a known caller cannot be told: nothing, so that no Python frame goes there.
            let high = if step == Step::Caller || step == Step::Interrupted { registers.sp() } else { low };
            self.put(taken, Traced { frame: RawFrame::native(native), low, high });
            taken = taken.wrapping_add(1);
            match step {
                Step::Caller => exact = false,
                Step::Interrupted => {
                    exact = true;
                    if high < low {
                        self.other_stack = taken;
                    }
                }
                Step::Start => break Ending::Start,
                Step::Lost if found.rule == map::UNKNOWN => break Ending::NoRule,
                Step::Lost => break Ending::BadStack,
            }
        };
        self.close(taken);
        self
    }

    /// Frame number `index` from the leaf.
    #[inline(always)]
    fn put(&mut self, index: usize, frame: Traced) {
        let place = match index.checked_sub(MAX_NATIVES) {
            None => index,
            Some(beyond) => LEAF_NATIVES.wrapping_add(beyond % ROOT_NATIVES),
        };
        if let Some(slot) = self.frames.get_mut(place) {
            *slot = frame;
        }
    }

    /// Sets the length, and the root end's frames in order.
    fn close(&mut self, taken: usize) {
        self.len = taken.min(MAX_NATIVES);
        if let Some(beyond) = taken.checked_sub(MAX_NATIVES)
            && let Some(root) = self.frames.get_mut(LEAF_NATIVES..)
        {
            self.omitted = beyond as u32;
            root.rotate_left(beyond % ROOT_NATIVES);
        }
    }
}

impl Default for Trace {
    fn default() -> Self {
        Self::new()
    }
}
