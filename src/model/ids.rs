//! Identities inside one profile: indices into its tables. They mean nothing in another profile.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub(crate) u32);

        impl $name {
            #[must_use]
            pub fn from_index(index: u32) -> Self {
                Self(index)
            }
            #[must_use]
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

id!(
    /// An interned byte string.
    StringId
);
id!(
    /// An interned function.
    FunctionId
);
id!(
    /// A row of the thread table: one run of one thread.
    ThreadId
);

/// A node of the calling-context tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub(crate) u32);

impl StringId {
    /// The empty string, present in every profile.
    pub const EMPTY: Self = Self(0);
}

impl NodeId {
    /// The root: the empty stack.
    pub const ROOT: Self = Self(0);

    /// Set when the tree was full below this node: descending further stays here, so that a frame that could not be
    /// inserted is never skipped over into a caller/callee pair that did not happen.
    const CUT: u32 = 1 << 31;
    /// Nodes are numbered below this.
    pub(crate) const MAX: usize = Self::CUT as usize - 1;

    #[must_use]
    pub fn from_index(index: u32) -> Self {
        Self(index & !Self::CUT)
    }
    #[must_use]
    pub fn index(self) -> usize {
        (self.0 & !Self::CUT) as usize
    }
    pub(crate) fn cut(self) -> Self {
        Self(self.0 | Self::CUT)
    }
    /// Whether this stands for a deeper stack that the full tree could not take.
    #[must_use]
    pub fn is_cut(self) -> bool {
        self.0 & Self::CUT != 0
    }
}
