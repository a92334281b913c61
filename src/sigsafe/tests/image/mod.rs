//! A made-up interpreter: thread states, frames and code objects laid out in memory as a row of the layout table says.
//! What is made is leaked, as the walk keeps addresses only.
#![allow(dead_code, reason = "every test binary uses a part")]

pub mod sampled;

use spprof_sigsafe::handler::absorb_fault;
use spprof_sigsafe::layout::{FrameChain, Layout, OWNER_CSTACK};
use spprof_sigsafe::stack::RawFrame;
use spprof_sigsafe::zone::{Runtime, TstateGetter};
use std::sync::Once;

/// An address where nothing is mapped: a load there faults.
pub const UNMAPPED: usize = 0x1000;
/// Distance of `_PyEval_EvalFrameDefault` from anything else.
pub const EVAL: usize = 0x5000_0000;

/// Every row of the table.
pub fn layouts() -> impl Iterator<Item = &'static Layout> {
    (0..=u8::MAX).flat_map(|minor| [false, true].map(|threaded| Layout::find(minor, threaded))).flatten()
}

pub fn layout(minor: u8) -> &'static Layout {
    Layout::find(minor, false).expect("a known version")
}

/// Zeroed memory for ever, with the alignment of CPython's objects.
pub fn block(bytes: usize) -> usize {
    let words = Vec::leak(vec![0_u128; bytes.div_ceil(16)]);
    words.as_mut_ptr() as usize
}

pub fn read_word(at: usize) -> usize {
    // SAFETY: the tests read from blocks they made.
    unsafe { (at as *const usize).read() }
}

pub fn write_word(at: usize, value: usize) {
    // SAFETY: the tests write to blocks they made.
    unsafe { (at as *mut usize).write(value) }
}

fn write_u32(at: usize, value: u32) {
    // SAFETY: as above.
    unsafe { (at as *mut u32).write(value) }
}

fn write_u8(at: usize, value: u8) {
    // SAFETY: as above.
    unsafe { (at as *mut u8).write(value) }
}

unsafe extern "C" fn no_tstate() -> usize {
    0
}

#[derive(Clone, Copy)]
pub struct Image {
    pub layout: &'static Layout,
    pub code_type: usize,
}

/// What a frame runs: an instruction of a code object, or nothing of Python's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Python(RawFrame),
    Shim,
}

impl Image {
    pub fn new(layout: &'static Layout) -> Self {
        Self { layout, code_type: block(512) }
    }

    /// The runtime to walk by, with getters of the caller's.
    pub fn runtime_with(&self, gilstate: TstateGetter, unchecked: TstateGetter) -> Runtime {
        Runtime { layout: self.layout, code_type: self.code_type, gilstate, unchecked, eval: EVAL }
    }

    pub fn runtime(&self) -> Runtime {
        self.runtime_with(no_tstate, no_tstate)
    }

    pub fn code(&self) -> usize {
        let code = block(self.layout.sizeof_code + 64);
        write_word(code + self.layout.ob_type, self.code_type);
        code
    }

    pub fn has_shims(&self) -> bool {
        self.layout.frame_owner.is_some() && self.layout.minor >= 12
    }

    /// A frame of its own; `previous` is what runs below it, or 0.
    pub fn frame(&self, kind: Kind, previous: usize) -> usize {
        let frame = block(128);
        self.frame_at(frame, kind, previous);
        frame
    }

    pub fn frame_at(&self, frame: usize, kind: Kind, previous: usize) {
        let layout = self.layout;
        write_word(frame + layout.frame_previous, previous);
        match kind {
            Kind::Shim => write_u8(frame + layout.frame_owner.expect("a version with shims"), OWNER_CSTACK),
            Kind::Python(RawFrame { code, offset }) => {
                // CPYTHON 3.14+: a deferred reference has its lowest bit set.
                write_word(frame + layout.frame_code, code | usize::from(layout.code_tag_mask != 0));
                match layout.chain {
                    // CPYTHON 3.10: counted in instructions.
                    FrameChain::FrameObjects if layout.minor == 10 => {
                        write_u32(frame + layout.frame_instr, (offset / 2) as u32);
                    }
                    FrameChain::FrameObjects => write_u32(frame + layout.frame_instr, offset as u32),
                    _ => self.set_instr(frame, code + layout.code_instructions, offset),
                }
            }
        }
    }

    fn set_instr(&self, frame: usize, first: usize, offset: i64) {
        write_word(frame + self.layout.frame_instr, first.wrapping_add_signed(offset as isize));
    }

    /// Makes `frame` run copy `index` of its bytecode, of `copies` that its code has (3.14t+).
    pub fn use_copy(&self, frame: usize, raw: RawFrame, index: usize, copies: usize) {
        let table = block(8 + copies * 8);
        write_word(table, copies);
        for copy in 0..copies {
            write_word(table + 8 + copy * 8, block(256));
        }
        let first = block(256);
        if index < copies {
            write_word(table + 8 + index * 8, first);
        }
        write_word(raw.code + self.layout.code_tlbc.expect("a version with copies"), table);
        write_u32(frame + self.layout.frame_tlbc_index.expect("a version with copies"), index as u32);
        self.set_instr(frame, first, raw.offset);
    }

    /// Links frames, leaf first; gives the address of each. C has called the last.
    pub fn chain(&self, kinds: &[Kind]) -> Vec<usize> {
        let root = if self.has_shims() { self.frame(Kind::Shim, 0) } else { 0 };
        let frames = self.chain_on(kinds, root);
        if let (Some(_), Some(last)) = (self.layout.frame_is_entry, frames.last()) {
            self.set_entry(*last);
        }
        frames
    }

    /// As `chain`, above `previous`.
    pub fn chain_on(&self, kinds: &[Kind], mut previous: usize) -> Vec<usize> {
        let mut frames = vec![];
        for kind in kinds.iter().rev() {
            previous = self.frame(*kind, previous);
            frames.push(previous);
        }
        frames.reverse();
        frames
    }

    /// A chain of Python frames alone; gives its innermost.
    pub fn stack(&self, frames: &[RawFrame]) -> usize {
        let kinds: Vec<Kind> = frames.iter().map(|raw| Kind::Python(*raw)).collect();
        self.chain(&kinds).first().copied().unwrap_or(0)
    }

    /// A thread state whose innermost frame is `frame`, within one call of eval.
    pub fn tstate(&self, frame: usize) -> usize {
        let tstate = block(512);
        // A restart (3.11, 3.12) finds nothing to begin at.
        let root = self.cframe(UNMAPPED, 0);
        self.set_innermost(tstate, frame, root);
        tstate
    }

    /// `caller`: the cframe of the eval call that called this one (3.11, 3.12).
    pub fn set_innermost(&self, tstate: usize, frame: usize, caller: usize) {
        let innermost = if self.layout.cframe_current.is_some() { self.cframe(frame, caller) } else { frame };
        write_word(tstate + self.layout.tstate_frame, innermost);
    }

    pub fn cframe(&self, frame: usize, caller: usize) -> usize {
        let cframe = block(64);
        if let (Some(current), Some(previous)) = (self.layout.cframe_current, self.layout.cframe_previous) {
            write_word(cframe + current, frame);
            write_word(cframe + previous, caller);
        }
        cframe
    }

    /// 3.11: says that C called this frame.
    pub fn set_entry(&self, frame: usize) {
        write_u8(frame + self.layout.frame_is_entry.expect("3.11"), 1);
    }

    /// Says which part of the data stack is in use.
    pub fn set_datastack(&self, tstate: usize, chunk: usize, top: usize) {
        write_word(tstate + self.layout.tstate_datastack_chunk.expect("3.11+"), chunk);
        write_word(tstate + self.layout.tstate_datastack_top.expect("3.11+"), top);
    }

    /// `count` frames of as many code objects.
    pub fn frames(&self, count: usize) -> Vec<RawFrame> {
        (0..count).map(|i| RawFrame { code: self.code(), offset: 2 * i as i64 }).collect()
    }
}

unsafe extern "C" fn on_fault(_: i32, _: *mut libc::siginfo_t, context: *mut core::ffi::c_void) {
    // SAFETY: the kernel's context.
    if !unsafe { absorb_fault(context) } {
        std::process::abort();
    }
}

/// Guarded loads may fault from here on. Gives the handler's address.
pub fn catch_faults() -> usize {
    static ONCE: Once = Once::new();
    let handler = on_fault as *const () as usize;
    ONCE.call_once(|| {
        // SAFETY: a plain sigaction with a handler of the right type.
        unsafe {
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = handler;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
            for signal in [libc::SIGSEGV, libc::SIGBUS] {
                assert_eq!(libc::sigaction(signal, &action, core::ptr::null_mut()), 0);
            }
        }
    });
    handler
}
