//! One captured Python stack, in a fixed buffer.

/// Frames kept from the leaf end, before anything is left out.
pub const LEAF_FRAMES: usize = 224;
/// Frames kept from the root end of a deeper stack.
pub const ROOT_FRAMES: usize = 32;
pub const MAX_FRAMES: usize = LEAF_FRAMES + ROOT_FRAMES;

/// A frame as captured: nothing is dereferenced, nothing has a name yet.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct RawFrame {
    /// Address of the `PyCodeObject`, kept alive by the session until the sample is resolved.
    pub code: usize,
    /// Byte offset of the executing instruction from the first one; negative before the first.
    pub offset: i64,
}

/// Leaf first. When `omitted` is not 0, that many frames are missing between the first [`LEAF_FRAMES`] and the rest.
#[derive(Debug)]
pub struct Stack {
    frames: [RawFrame; MAX_FRAMES],
    len: usize,
    pub omitted: u32,
}

impl Stack {
    #[must_use]
    pub const fn new() -> Self {
        Self { frames: [RawFrame { code: 0, offset: 0 }; MAX_FRAMES], len: 0, omitted: 0 }
    }

    #[inline(always)]
    pub fn clear(&mut self) {
        self.len = 0;
        self.omitted = 0;
    }

    /// Appends towards the root; false when full.
    #[inline(always)]
    pub fn push(&mut self, frame: RawFrame) -> bool {
        match self.frames.get_mut(self.len) {
            Some(slot) => {
                *slot = frame;
                self.len = self.len.wrapping_add(1);
                true
            }
            None => false,
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
    pub fn shared_with(&self, other: &Stack) -> usize {
        if self.omitted != 0 || other.omitted != 0 {
            return 0;
        }
        self.frames().iter().rev().zip(other.frames().iter().rev()).take_while(|(a, b)| a == b).count()
    }
}

impl Default for Stack {
    fn default() -> Self {
        Self::new()
    }
}
