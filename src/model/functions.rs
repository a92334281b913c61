//! Interned functions. Identity is the code object or the symbol (the discriminator tells), never the printed name.

use crate::ids::{FunctionId, StringId};
use crate::strings::{table_growth, vec_growth};
use hashbrown::HashTable;
use rustc_hash::FxHasher;
use std::hash::{Hash, Hasher};

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum FunctionKind {
    /// A Python function, or module or class body.
    Python,
    /// Compiled code.
    Native,
    /// Made by the profiler, to make a loss visible: `<truncated>`, `<unresolved>`...
    Synthetic,
    /// A Python function whose calls make generators.
    Generator,
    /// An `async def`.
    Coroutine,
    /// An `async def` that yields.
    AsyncGenerator,
    /// A function or type of an extension or of the interpreter, called from Python.
    Builtin,
}

impl FunctionKind {
    /// In the order of their numbers in files: new ones go to the end.
    pub const ALL: [Self; 7] = [
        Self::Python,
        Self::Native,
        Self::Synthetic,
        Self::Generator,
        Self::Coroutine,
        Self::AsyncGenerator,
        Self::Builtin,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Native => "native",
            Self::Synthetic => "synthetic",
            Self::Generator => "generator",
            Self::Coroutine => "coroutine",
            Self::AsyncGenerator => "async generator",
            Self::Builtin => "builtin",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Function {
    /// The qualified name.
    pub name: StringId,
    pub file: StringId,
    /// May be the empty string.
    pub module: StringId,
    pub first_line: u32,
    pub kind: FunctionKind,
    /// Tells two code objects of the same name, file and line apart.
    pub discriminator: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Functions {
    rows: Vec<Function>,
    index: HashTable<u32>,
}

impl Functions {
    pub fn find(&self, function: &Function) -> Option<FunctionId> {
        self.index.find(hash(function), |&i| self.rows[i as usize] == *function).map(|&i| FunctionId(i))
    }

    /// Inserts a function that `find` did not find.
    pub fn insert(&mut self, function: Function) -> FunctionId {
        let id = self.rows.len() as u32;
        self.rows.push(function);
        let rows = &self.rows;
        self.index.insert_unique(hash(&function), id, |&i| hash(&rows[i as usize]));
        FunctionId(id)
    }

    /// Bytes the tables would grow by if a function were inserted and room kept for the stand-in.
    pub fn growth(&self) -> u64 {
        vec_growth(&self.rows, 2) + table_growth(&self.index, 2)
    }

    pub fn rows(&self) -> &[Function] {
        &self.rows
    }

    pub fn memory_bytes(&self) -> u64 {
        (self.rows.capacity() * size_of::<Function>() + self.index.allocation_size()) as u64
    }
}

fn hash(function: &Function) -> u64 {
    let mut hasher = FxHasher::default();
    function.hash(&mut hasher);
    hasher.finish()
}
