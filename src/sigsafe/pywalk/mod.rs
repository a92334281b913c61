//! Walking a thread's Python frames by guarded loads. Runs in the signal handler of the thread itself, or on the manager
//! thread for a thread that is proven not to run. Never writes, never takes a reference, always ends.
//!
//! One file per way CPython hangs frames off the thread state: [`v39`] (3.9, 3.10), [`v311`] (3.11, 3.12), [`v313`] (3.13+).

pub mod v311;
pub mod v313;
pub mod v39;

use crate::layout::{FrameChain, Layout, OWNER_CSTACK};
use crate::mem::{is_plausible, load_u8, load_u32, load_word};
use crate::stack::{LEAF_FRAMES, ROOT_FRAMES, RawFrame, Stack};
use crate::zone::Runtime;

/// More frames than any stack has: CPython's recursion limit is a 32-bit int, but a C `Py_EnterRecursiveCall` stack ends
/// far below; 2^22 frames of 80 bytes would be 320 MB of frames.
const MAX_STEPS: u32 = 1 << 22;

/// Ends the following of a chain that has no end. A cycle is noticed within twice its length (Brent's algorithm): a walk that
/// runs on in one takes longer than a sampling interval, and then the thread never gets out of its handler again.
#[derive(Debug)]
struct Bound {
    steps: u32,
    /// The frame that the walk passed at the last power of two of its steps.
    mark: usize,
}

impl Bound {
    const fn new() -> Self {
        Self { steps: 0, mark: 0 }
    }

    /// Counts a step to `frame`; false when the walk was here before.
    #[inline(always)]
    fn step(&mut self, frame: usize) -> bool {
        self.steps = self.steps.wrapping_add(1);
        if frame == self.mark || self.steps > MAX_STEPS {
            return false;
        }
        if self.steps.is_power_of_two() {
            self.mark = frame;
        }
        true
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkOutcome {
    /// The chain was followed to its root.
    Complete,
    /// The innermost call was being set up: the stack begins at its caller.
    Restarted,
    /// The chain could not be followed; the frames are not to be used.
    Broken,
}

/// What a signal handler knows of the interrupted code; zero for a remote walk.
#[derive(Clone, Copy, Default, Debug)]
pub struct Interrupted {
    pub pc: usize,
    /// Native frames are wanted, too: note where C called Python (see [`Stack::entries`]).
    pub note_entries: bool,
}

/// One link of the chain.
#[derive(Clone, Copy, Debug)]
struct Link {
    code: usize,
    instr: usize,
    previous: usize,
    /// A frame without Python code, between C and Python.
    shim: bool,
}

/// CPYTHON 3.11: the interpreter's C calls, innermost first; each has an object on the C stack. Others: nothing.
#[derive(Clone, Copy, Debug)]
struct Calls {
    cframe: usize,
}

impl Calls {
    const NONE: Self = Self { cframe: 0 };

    /// The object of the call that runs `frame`, if it is the frame that C called in it; then goes on to the next call.
    #[inline(always)]
    fn entered_by(&mut self, layout: &Layout, frame: usize) -> Option<usize> {
        if self.cframe == 0 {
            return None;
        }
        let (entry_at, previous_at) = (layout.frame_is_entry?, layout.cframe_previous?);
        if load_u8(frame.wrapping_add(entry_at))? == 0 || !is_plausible(self.cframe) {
            return None;
        }
        let this = self.cframe;
        self.cframe = load_word(this.wrapping_add(previous_at)).unwrap_or(0);
        Some(this)
    }
}

#[inline(always)]
fn read_link(layout: &Layout, frame: usize) -> Option<Link> {
    if !is_plausible(frame) {
        return None;
    }
    let code = load_word(frame.wrapping_add(layout.frame_code))?;
    let previous = load_word(frame.wrapping_add(layout.frame_previous))?;
    let (instr, shim) = match layout.frame_owner {
        Some(owner) => (
            load_word(frame.wrapping_add(layout.frame_instr))?,
            // CPYTHON 3.11: no shim frames, and the byte at `owner` never reaches this value there.
            load_u8(frame.wrapping_add(owner))? >= OWNER_CSTACK,
        ),
        None => (load_u32(frame.wrapping_add(layout.frame_instr))? as usize, false),
    };
    Some(Link { code: code & !layout.code_tag_mask, instr, previous, shim })
}

/// Addresses that were seen to be code objects. Looking at an object's type costs a cache miss a frame, which is most of the
/// time of a walk; a frame's code is nearly always one that the thread's last samples had.
///
/// An entry holds as long as no code object is released, which the generation tells.
#[derive(Debug)]
pub struct Verified {
    codes: [usize; Self::SLOTS],
    generation: u64,
}

impl Verified {
    const SLOTS: usize = 64;

    #[must_use]
    pub const fn new() -> Self {
        Self { codes: [0; Self::SLOTS], generation: u64::MAX }
    }

    /// Forgets everything if code objects were released since the last walk.
    #[inline(always)]
    pub fn renew(&mut self, generation: u64) {
        if self.generation != generation {
            self.codes = [0; Self::SLOTS];
            self.generation = generation;
        }
    }

    /// True when `code` is the address of a code object.
    #[inline(always)]
    fn check(&mut self, runtime: &Runtime, code: usize) -> bool {
        // Objects are 16-aligned and some 200 bytes apart.
        let Some(slot) = self.codes.get_mut((code >> 6 ^ code >> 12) % Self::SLOTS) else { return false };
        // First, because an empty slot holds what a frame without code holds: 0.
        if !is_plausible(code) {
            return false;
        }
        if *slot == code {
            return true;
        }
        let is_code = load_word(code.wrapping_add(runtime.layout.ob_type)) == Some(runtime.code_type);
        if is_code {
            *slot = code;
        }
        is_code
    }
}

impl Default for Verified {
    fn default() -> Self {
        Self::new()
    }
}

/// Turns a link into a frame, checking that its code really is a code object.
#[inline(always)]
fn to_frame(runtime: &Runtime, verified: &mut Verified, frame: usize, link: &Link) -> Option<RawFrame> {
    let layout = runtime.layout;
    if !verified.check(runtime, link.code) {
        return None;
    }
    let offset = match layout.chain {
        FrameChain::FrameObjects => {
            let lasti = link.instr as i32 as i64;
            // CPYTHON 3.10: `f_lasti` counts 2-byte instructions.
            if layout.minor >= 10 { lasti.wrapping_mul(2) } else { lasti }
        }
        _ => link.instr.wrapping_sub(instructions(layout, frame, link.code)?) as i64,
    };
    Some(RawFrame { code: link.code, offset })
}

/// Where the frame's instructions start.
#[inline(always)]
fn instructions(layout: &Layout, frame: usize, code: usize) -> Option<usize> {
    if let (Some(index_at), Some(table_at)) = (layout.frame_tlbc_index, layout.code_tlbc) {
        // CPYTHON 3.14t+: each thread runs its own copy of the bytecode; entry 0 is the one in the code object.
        let index = load_u32(frame.wrapping_add(index_at))? as usize;
        if index != 0 {
            const ENTRIES: usize = 8;
            let table = load_word(code.wrapping_add(table_at))?;
            if !is_plausible(table) || index >= load_word(table)? {
                return None;
            }
            return load_word(table.wrapping_add(ENTRIES).wrapping_add(index.wrapping_mul(8)));
        }
    }
    Some(code.wrapping_add(layout.code_instructions))
}

/// True when a chain may end with `frame`. A generator's frame is for an instant current and linked to nobody, when it is resumed
/// and when it yields; taken for the root, it would hide everything that called it.
#[inline(always)]
fn is_root(layout: &Layout, frame: usize, shim: bool) -> bool {
    match (layout.chain, layout.frame_is_entry) {
        (FrameChain::FrameObjects, _) => true,
        // CPYTHON 3.11: the frame that C called.
        (FrameChain::CFrameEntry, Some(entry_at)) => {
            load_u8(frame.wrapping_add(entry_at)).is_some_and(|entry| entry != 0)
        }
        // CPYTHON 3.12+: below what C called lies a shim.
        _ => shim,
    }
}

/// Follows the chain from `frame` to its root. Deep stacks keep both ends; the middle is only counted.
fn follow(
    runtime: &Runtime,
    verified: &mut Verified,
    mut frame: usize,
    mut calls: Calls,
    out: &mut Stack,
) -> WalkOutcome {
    let layout = runtime.layout;
    let mut bound = Bound::new();
    let mut last = (0, true);
    while frame != 0 && out.frames().len() < LEAF_FRAMES {
        if !bound.step(frame) {
            return WalkOutcome::Broken;
        }
        let Some(link) = read_link(layout, frame) else { return WalkOutcome::Broken };
        if !link.shim {
            match to_frame(runtime, verified, frame, &link) {
                Some(raw) => out.push(raw),
                None => return WalkOutcome::Broken,
            };
            if let Some(call) = calls.entered_by(layout, frame) {
                out.set_entry(call);
            }
        } else {
            out.set_shim(frame);
        }
        last = (frame, link.shim);
        frame = link.previous;
    }
    if frame == 0 {
        let whole = last.0 == 0 || is_root(layout, last.0, last.1);
        return if whole { WalkOutcome::Complete } else { WalkOutcome::Broken };
    }
    follow_deep(runtime, verified, frame, calls, out, bound)
}

/// The rest of a deep stack: remembers where the last `ROOT_FRAMES` Python frames were, then captures those.
#[cold]
fn follow_deep(
    runtime: &Runtime,
    verified: &mut Verified,
    mut frame: usize,
    mut calls: Calls,
    out: &mut Stack,
    mut bound: Bound,
) -> WalkOutcome {
    let layout = runtime.layout;
    // Frames, each with its entry.
    let mut trail = [(0_usize, 0_usize); ROOT_FRAMES];
    let mut seen: usize = 0;
    while frame != 0 {
        if !bound.step(frame) || !is_plausible(frame) {
            return WalkOutcome::Broken;
        }
        let shim = match layout.frame_owner {
            Some(owner) => match load_u8(frame.wrapping_add(owner)) {
                Some(owner) => owner >= OWNER_CSTACK,
                None => return WalkOutcome::Broken,
            },
            None => false,
        };
        if !shim {
            if let Some(slot) = trail.get_mut(seen % ROOT_FRAMES) {
                *slot = (frame, calls.entered_by(layout, frame).unwrap_or(0));
            }
            seen = seen.wrapping_add(1);
        } else if seen == 0 {
            out.set_shim(frame);
        } else if let Some(slot) = trail.get_mut(seen.wrapping_sub(1) % ROOT_FRAMES)
            && slot.1 == 0
        {
            slot.1 = frame;
        }
        let Some(previous) = load_word(frame.wrapping_add(layout.frame_previous)) else {
            return WalkOutcome::Broken;
        };
        if previous == 0 && !is_root(layout, frame, shim) {
            return WalkOutcome::Broken;
        }
        frame = previous;
    }
    let kept = seen.min(ROOT_FRAMES);
    out.set_gap(seen.wrapping_sub(kept) as u32);
    for position in seen.wrapping_sub(kept)..seen {
        let (at, entry) = trail.get(position % ROOT_FRAMES).copied().unwrap_or((0, 0));
        match read_link(layout, at).and_then(|link| to_frame(runtime, verified, at, &link)) {
            Some(raw) => out.push(raw),
            None => return WalkOutcome::Broken,
        };
        out.set_entry(entry);
    }
    WalkOutcome::Complete
}

/// Captures the Python stack of thread state `tstate` into `out`.
#[inline]
pub fn walk(
    runtime: &Runtime,
    verified: &mut Verified,
    tstate: usize,
    at: Interrupted,
    out: &mut Stack,
) -> WalkOutcome {
    out.clear();
    if !is_plausible(tstate) {
        return WalkOutcome::Broken;
    }
    let outcome = match runtime.layout.chain {
        FrameChain::FrameObjects => v39::walk(runtime, verified, tstate, at, out),
        FrameChain::CFrameEntry | FrameChain::CFrameShim => v311::walk(runtime, verified, tstate, at, out),
        FrameChain::CurrentFrame => v313::walk(runtime, verified, tstate, out),
    };
    if outcome == WalkOutcome::Broken {
        out.clear();
    }
    outcome
}
