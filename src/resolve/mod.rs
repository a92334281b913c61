//! Raw frames to model: which function and line an address in a code object is. Runs on the resolver thread, no GIL.
//!
//! [`code`] reads a code object out of [`memory`], [`lines`] decodes its line table, [`lifetime`] keeps it from being freed
//! until then (by the protocol in [`limbo`]). [`Resolver`] remembers what it has read. [`native`] takes native frames as
//! addresses; [`naming`] names those when somebody looks at the profile.

pub mod code;
pub mod lifetime;
pub mod limbo;
pub mod lines;
pub mod memory;
pub mod naming;
pub mod native;
mod spin;

use code::Unresolved;
use limbo::Batch;
use lines::LineMap;
use memory::{Memory, Process};
use rustc_hash::FxHashMap;
use spprof_model::{Function, FunctionId, FunctionKind, Profile, StringId};
use spprof_sigsafe::layout::Layout;

/// The name of the function that stands for frames whose code object could not be read.
pub const UNRESOLVED: &[u8] = b"<unresolved>";
/// Line of an instruction that stems from no line (`f_lineno` is `None` there).
pub const NO_LINE: u32 = 0;

#[derive(Debug)]
struct Known {
    function: FunctionId,
    lines: LineMap,
}

/// Frames that could not be resolved, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Failures {
    pub not_code: u64,
    pub unreadable: u64,
    pub bad_string: u64,
    pub bad_table: u64,
}

/// Resolves the frames of one profile: what it remembers are ids of that profile.
#[derive(Debug)]
pub struct Resolver<M = Process> {
    memory: M,
    layout: &'static Layout,
    code_type: usize,
    known: FxHashMap<usize, Known>,
    failures: Failures,
}

impl Resolver {
    /// `code_type` is the address of `PyCode_Type`.
    #[must_use]
    pub fn new(layout: &'static Layout, code_type: usize) -> Self {
        Self::reading(Process, layout, code_type)
    }
}

impl<M: Memory> Resolver<M> {
    #[must_use]
    pub fn reading(memory: M, layout: &'static Layout, code_type: usize) -> Self {
        Self { memory, layout, code_type, known: FxHashMap::default(), failures: Failures::default() }
    }

    /// The function and line of the instruction `offset` bytes into the code object at `code`.
    #[inline]
    pub fn frame(&mut self, profile: &mut Profile, code: usize, offset: i64) -> (FunctionId, u32) {
        let known = match self.known.get(&code) {
            Some(known) => known,
            None => match self.read(profile, code) {
                Ok(known) => self.known.entry(code).or_insert(known),
                Err(reason) => return (self.fail(profile, reason), NO_LINE),
            },
        };
        (known.function, known.lines.line_at(offset).unwrap_or(NO_LINE))
    }

    /// These objects are about to be freed: their addresses may soon belong to others.
    pub fn forget(&mut self, batch: &Batch) {
        if batch.incomplete() {
            self.known.clear();
        }
        for code in batch.codes() {
            self.known.remove(&code);
        }
    }

    #[must_use]
    pub fn failures(&self) -> Failures {
        self.failures
    }

    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let tables: usize = self.known.values().map(|known| known.lines.memory_bytes()).sum();
        (tables + self.known.capacity() * size_of::<(usize, Known)>()) as u64
    }

    #[cold]
    fn read(&self, profile: &mut Profile, code: usize) -> Result<Known, Unresolved> {
        let info = code::read(&self.memory, self.layout, self.code_type, code)?;
        let function = Function {
            name: profile.intern(&info.name),
            file: profile.intern(&info.file),
            module: StringId::EMPTY,
            first_line: info.first_line,
            kind: FunctionKind::Python,
            discriminator: info.discriminator,
        };
        Ok(Known { function: profile.function(function), lines: info.lines })
    }

    #[cold]
    fn fail(&mut self, profile: &mut Profile, reason: Unresolved) -> FunctionId {
        *match reason {
            Unresolved::NotCode => &mut self.failures.not_code,
            Unresolved::Unreadable => &mut self.failures.unreadable,
            Unresolved::BadString => &mut self.failures.bad_string,
            Unresolved::BadTable => &mut self.failures.bad_table,
        } += 1;
        let name = profile.intern(UNRESOLVED);
        profile.function(Function {
            name,
            file: StringId::EMPTY,
            module: StringId::EMPTY,
            first_line: 0,
            kind: FunctionKind::Synthetic,
            discriminator: 0,
        })
    }
}
