//! Entries of the stack table to nodes of the model, while the code objects they name are alive.
//!
//! On the keeper's thread, on that of a snapshot, and on whichever releases dead code objects, one at a time; no GIL.

use crate::resolve::Resolver;
use crate::resolve::limbo::Batch;
use rustc_hash::FxHashMap;
use spprof_heap::stacks::{Entry, Table};
use spprof_model::{Function, FunctionId, FunctionKind, HEAP, NodeId, Profile, StringId};
use spprof_sigsafe::stack::LEAF_FRAMES;
use spprof_sigsafe::zone::Runtime;
use std::ffi::{CStr, c_void};

/// Memory for names, files and the tree, at most; beyond it the model counts what it refuses.
const MEMORY_BYTES: u64 = 512 << 20;

pub struct Names {
    /// Functions and the tree; it has no samples.
    pub model: Profile,
    resolver: Resolver,
    /// Entries published so far that are resolved.
    done: u32,
    /// Which entries name a code object.
    by_code: FxHashMap<usize, Vec<u32>>,
    callers: FxHashMap<u64, Option<FunctionId>>,
    /// Where the interpreter's own code begins in memory.
    interpreter: usize,
    /// Where ours does. Between CPython and malloc are our hooks, and both may leave by a jump.
    own: usize,
    native: FunctionId,
    unresolved: FunctionId,
    truncated: FunctionId,
    overflow: FunctionId,
}

/// Stands for the caller of the entry that holds all stacks without room in the table.
pub const OVERFLOW: u64 = 8;

impl Names {
    #[must_use]
    pub fn new(runtime: &'static Runtime) -> Self {
        let mut model = Profile::new(MEMORY_BYTES);
        model.meta.clock = HEAP.to_owned();
        let mut make = |name: &[u8], kind| {
            let name = model.intern(name);
            model.function(Function {
                name,
                file: StringId::EMPTY,
                module: StringId::EMPTY,
                first_line: 0,
                kind,
                discriminator: 0,
            })
        };
        let native = make(b"<native>", FunctionKind::Native);
        let unresolved = make(b"<unresolved>", FunctionKind::Synthetic);
        let truncated = make(b"<truncated>", FunctionKind::Synthetic);
        let overflow = make(b"<stack table full>", FunctionKind::Synthetic);
        Self {
            resolver: Resolver::new(runtime.layout, runtime.code_type),
            done: 0,
            by_code: FxHashMap::default(),
            callers: FxHashMap::default(),
            interpreter: object_of(runtime.gilstate as usize).map_or(0, |object| object.base),
            own: object_of(Self::new as *const () as usize).map_or(0, |object| object.base),
            native,
            unresolved,
            truncated,
            overflow,
            model,
        }
    }

    /// Resolves every entry that was published since the last time.
    pub fn resolve(&mut self, table: &Table) {
        while self.done < table.len() {
            let Some(entry) = table.nth(self.done) else { return };
            let node = self.node(&entry);
            entry.resolve(node.index() as u32);
            for frame in entry.frames() {
                let entries = self.by_code.entry(frame.code).or_default();
                if entries.last() != Some(&entry.id) {
                    entries.push(entry.id);
                }
            }
            self.done += 1;
        }
    }

    pub fn node(&mut self, entry: &Entry<'_>) -> NodeId {
        let mut node = NodeId::ROOT;
        if entry.caller() == OVERFLOW {
            return self.model.child(node, self.overflow, 0);
        }
        for (position, frame) in entry.frames().enumerate().rev() {
            let (function, line) = self.resolver.frame(&mut self.model, frame.code, frame.offset);
            node = self.model.child(node, function, line);
            if entry.omitted() != 0 && position == LEAF_FRAMES {
                node = self.model.child(node, self.truncated, 0);
            }
        }
        if entry.is_broken() {
            node = self.model.child(node, self.unresolved, 0);
        }
        if let Some(function) = self.caller(entry.caller()) {
            node = self.model.child(node, function, 0);
        }
        if node == NodeId::ROOT { self.model.child(node, self.native, 0) } else { node }
    }

    /// The function that called malloc; `None` where that is the interpreter or the C library on somebody's behalf.
    fn caller(&mut self, address: u64) -> Option<FunctionId> {
        if address == 0 {
            return None;
        }
        if let Some(known) = self.callers.get(&address) {
            return *known;
        }
        // A return address may be the first byte of the next function.
        let object = object_of(address as usize - 1);
        let function = object
            .filter(|object| object.base != self.interpreter && object.base != self.own && !object.is_c_library())
            .map(|object| {
                let name = object.symbol.unwrap_or_else(|| {
                    let file = object.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                    format!("{}+{:#x}", String::from_utf8_lossy(file), address as usize - object.base).into_bytes()
                });
                Function {
                    name: self.model.intern(&name),
                    file: self.model.intern(&object.path),
                    module: StringId::EMPTY,
                    first_line: 0,
                    kind: FunctionKind::Native,
                    discriminator: 0,
                }
            });
        let function = function.map(|function| self.model.function(function));
        self.callers.insert(address, function);
        function
    }

    /// These code objects are about to be freed: entries that name them must not be found any more.
    pub fn forget(&mut self, table: &Table, batch: &Batch) {
        self.resolve(table);
        if batch.incomplete() {
            for n in 0..self.done {
                table.nth(n).inspect(Entry::retire);
            }
            self.by_code.clear();
        }
        for code in batch.codes() {
            for id in self.by_code.remove(&code).unwrap_or_default() {
                table.entry(id).inspect(Entry::retire);
            }
        }
        self.resolver.forget(batch);
    }

    /// A new run: addresses of code that were seen before mean nothing any more.
    pub fn renew(&mut self, runtime: &'static Runtime) {
        self.resolver = Resolver::new(runtime.layout, runtime.code_type);
        self.by_code.clear();
        // An object may have been loaded where another one was.
        self.callers.clear();
    }

    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let codes: usize = self.by_code.values().map(|entries| 40 + entries.capacity() * 4).sum();
        self.model.memory_bytes() + self.resolver.memory_bytes() + codes as u64 + self.callers.capacity() as u64 * 24
    }
}

/// A loaded object, and the function of it that was asked for.
struct Object {
    base: usize,
    path: Vec<u8>,
    symbol: Option<Vec<u8>>,
}

impl Object {
    /// strdup and its like allocate for their callers; operator new does so, too.
    fn is_c_library(&self) -> bool {
        const LIBRARIES: [&[u8]; 5] = [b"libc.so", b"libc-", b"libstdc++", b"ld-", b"libc.musl"];
        let file = self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        LIBRARIES.iter().any(|name| file.starts_with(name))
    }
}

fn object_of(address: usize) -> Option<Object> {
    // SAFETY: all zero is a valid Dl_info, which dladdr fills in; its strings live as long as the object is loaded, and are copied.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(address as *const c_void, &mut info) == 0 {
            return None;
        }
        let copy = |text: *const std::ffi::c_char| (!text.is_null()).then(|| CStr::from_ptr(text).to_bytes().to_vec());
        Some(Object {
            base: info.dli_fbase as usize,
            path: copy(info.dli_fname).unwrap_or_default(),
            symbol: copy(info.dli_sname),
        })
    }
}
