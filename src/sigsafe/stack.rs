//! One captured stack, in a fixed buffer: Python frames, and native frames between them where a run asks for those.

/// Frames kept from the leaf end, before anything is left out.
pub const LEAF_FRAMES: usize = 224;
/// Frames kept from the root end of a deeper stack.
pub const ROOT_FRAMES: usize = 32;
pub const MAX_FRAMES: usize = LEAF_FRAMES + ROOT_FRAMES;

/// A frame as captured: nothing is dereferenced, nothing has a name yet.
///
/// A native frame is told by the top bit of its first word, which no address in user space has:
/// `1 << 63 | marks << 56 | module id`; its second word is the address.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct RawFrame {
    /// Address of the `PyCodeObject`, kept alive by the session until the sample is resolved.
    pub code: usize,
    /// Byte offset of the executing instruction from the first one; negative before the first.
    pub offset: i64,
}

/// What is known of a native frame besides its address.
pub mod marks {
    /// A call of the interpreter's loop: the Python frames above it, up to the next native one, ran in it.
    pub const EVAL: u8 = 1;
    /// The address is of an instruction that was interrupted, not that of a call.
    pub const EXACT: u8 = 2;
    /// Who called it is not known, though it is no thread's start.
    pub const ENDS: u8 = 4;
    /// The native frames that called it are left out, as many as do not fit.
    pub const GAP: u8 = 8;
}

/// A native frame, unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NativeFrame {
    /// Id of the module (`spprof_model::Module`) that held the address at the time; 0 when none did.
    pub module: u32,
    /// Where to look up: the interrupted instruction, or the last byte of the call. As in the module's file (the bias is
    /// taken off); without a module, as in memory.
    pub address: u64,
    /// Of [`marks`].
    pub marks: u8,
}

const NATIVE: u64 = 1 << 63;
const MARKS_SHIFT: u32 = 56;
const MARKS_MASK: u64 = 0x7f;

impl RawFrame {
    #[inline(always)]
    #[must_use]
    pub const fn native(frame: NativeFrame) -> Self {
        let marks = (frame.marks as u64 & MARKS_MASK) << MARKS_SHIFT;
        Self { code: (NATIVE | marks | frame.module as u64) as usize, offset: frame.address as i64 }
    }

    /// `None` for a Python frame.
    #[inline(always)]
    #[must_use]
    pub const fn as_native(&self) -> Option<NativeFrame> {
        let word = self.code as u64;
        if word & NATIVE == 0 {
            return None;
        }
        let marks = (word >> MARKS_SHIFT & MARKS_MASK) as u8;
        Some(NativeFrame { module: word as u32, address: self.offset as u64, marks })
    }
}

/// Leaf first. When `omitted` is not 0, that many Python frames are missing before the frame at index `gap`.
#[derive(Debug)]
pub struct Stack<const SIZE: usize = MAX_FRAMES> {
    frames: [RawFrame; SIZE],
    /// See [`Stack::entries`].
    entries: [usize; SIZE],
    len: usize,
    pub omitted: u32,
    pub gap: u32,
}

impl<const SIZE: usize> Stack<SIZE> {
    #[must_use]
    pub const fn new() -> Self {
        Self { frames: [RawFrame { code: 0, offset: 0 }; SIZE], entries: [0; SIZE], len: 0, omitted: 0, gap: 0 }
    }

    #[inline(always)]
    pub fn clear(&mut self) {
        self.len = 0;
        self.omitted = 0;
        self.gap = 0;
    }

    /// Says that `omitted` frames are missing between the last one pushed and the next.
    #[inline(always)]
    pub fn set_gap(&mut self, omitted: u32) {
        self.omitted = omitted;
        self.gap = self.len as u32;
    }

    /// Says that the last frame pushed is the one that C called, and where on the stack that call is.
    #[inline(always)]
    pub fn set_entry(&mut self, address: usize) {
        self.set_entry_of(self.len.wrapping_sub(1), address);
    }

    /// CPYTHON 3.12+: the shim of an interpreter call, a variable of that call, follows the frame that C called. Below it may
    /// be another that belongs to the thread and not to a call.
    #[inline(always)]
    pub fn set_shim(&mut self, address: usize) {
        if self.entries().last() == Some(&0) {
            self.set_entry(address);
        }
    }

    /// As `set_entry`, for the frame at `index`.
    #[inline(always)]
    pub fn set_entry_of(&mut self, index: usize, address: usize) {
        if let Some(slot) = self.entries.get_mut(index) {
            *slot = address;
        }
    }

    /// For each frame that C called, an address in the part of the stack that belongs to the interpreter's call that runs it;
    /// 0 for frames that Python called, which run in the call of the next entry.
    #[inline(always)]
    #[must_use]
    pub fn entries(&self) -> &[usize] {
        self.entries.get(..self.len).unwrap_or(&[])
    }

    /// Appends towards the root; false when full.
    #[inline(always)]
    pub fn push(&mut self, frame: RawFrame) -> bool {
        match (self.frames.get_mut(self.len), self.entries.get_mut(self.len)) {
            (Some(slot), Some(entry)) => {
                *slot = frame;
                *entry = 0;
                self.len = self.len.wrapping_add(1);
                true
            }
            _ => false,
        }
    }

    #[inline(always)]
    #[must_use]
    pub fn frames(&self) -> &[RawFrame] {
        self.frames.get(..self.len).unwrap_or(&[])
    }

    /// How many frames at the root end are the same as in `other`.
    #[inline(always)]
    #[must_use]
    pub fn shared_with(&self, other: &Self) -> usize {
        if self.omitted != 0 || other.omitted != 0 {
            return 0;
        }
        self.frames().iter().rev().zip(other.frames().iter().rev()).take_while(|(a, b)| a == b).count()
    }
}

impl<const SIZE: usize> Default for Stack<SIZE> {
    fn default() -> Self {
        Self::new()
    }
}
