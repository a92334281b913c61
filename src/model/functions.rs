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
    /// An address in compiled code that has no name yet: [`Function::of_address`].
    Address,
}

impl FunctionKind {
    /// In the order of their numbers in files: new ones go to the end.
    pub const ALL: [Self; 8] = [
        Self::Python,
        Self::Native,
        Self::Synthetic,
        Self::Generator,
        Self::Coroutine,
        Self::AsyncGenerator,
        Self::Builtin,
        Self::Address,
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
            Self::Address => "address",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Function {
    /// The qualified name.
    pub name: StringId,
    pub file: StringId,
    /// Of native code the path of its [`Module`](crate::Module); else it may be the empty string.
    pub module: StringId,
    pub first_line: u32,
    pub kind: FunctionKind,
    /// Tells two code objects of the same name, file and line apart.
    pub discriminator: u64,
}

impl Function {
    /// The stand-in for a native address until it has a name: in row `module` of the profile's modules, counted from 1 (0: in
    /// none), as in the module's file.
    #[must_use]
    pub fn of_address(module: u32, address: u64) -> Self {
        let nothing = StringId::EMPTY;
        let kind = FunctionKind::Address;
        Self { name: nothing, file: nothing, module: nothing, first_line: module, kind, discriminator: address }
    }

    /// The module's row, counted from 1, and the address.
    #[must_use]
    pub fn address(&self) -> Option<(u32, u64)> {
        (self.kind == FunctionKind::Address).then_some((self.first_line, self.discriminator))
    }
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
