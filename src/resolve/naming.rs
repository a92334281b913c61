//! Names for the native addresses of a profile. Runs when somebody looks at it, on that thread, without the GIL.
//!
//! A frame with an address becomes the functions that are there, inlined ones and all; the interpreter's own plumbing is folded
//! unless the run asked for everything: see `spprof_symbols::plumbing`.
#![forbid(unsafe_code)]

use rustc_hash::FxHashMap;
use spprof_model::{Copies, Function, FunctionId, FunctionKind, Module, Node, NodeId, Profile, rewrite};
use spprof_symbols::{DEBUG_ROOTS, File, Place, Resolved, plumbing};
use std::path::Path;

/// Code that belongs to no file: made at run time.
const ANONYMOUS: &[u8] = b"[anon]";
/// In the losses: native addresses without a name.
pub const UNNAMED: &str = "native_addresses_without_symbol";

/// Whether there is something to name.
#[must_use]
pub fn has_addresses(profile: &Profile) -> bool {
    profile.functions().iter().any(|function| function.address().is_some())
}

/// What is at some addresses of a file, with these folders of debug files: [`spprof_symbols::resolve`].
pub type Resolve = fn(File<'_>, &[u64], &[&Path]) -> Resolved;

/// The same profile with names for its native addresses.
#[must_use]
pub fn named(profile: &Profile, resolve: Resolve) -> Profile {
    let mut names = Names::read(profile, resolve);
    let mut rewritten = rewrite(profile, false, |copies, to, parent, node| names.place(copies, to, parent, node));
    for module in &names.modules {
        rewritten.module(module);
    }
    if names.unnamed > 0 {
        rewritten.meta.losses.push((UNNAMED.to_owned(), names.unnamed));
    }
    rewritten.meta.notes.extend(names.notes);
    rewritten
}

/// What a native address is shown as.
struct Shown {
    /// Outermost first; empty when it is folded.
    frames: Vec<Place>,
    /// The same as functions and lines, once a node needed them.
    functions: Option<Vec<(FunctionId, u32)>>,
    /// Row in `Names::modules`.
    module: usize,
    /// How programs and threads of any kind begin.
    is_start: bool,
    /// Where Python begins.
    is_entry: bool,
}

struct Names {
    shown: Vec<Option<Shown>>,
    /// By their final paths, each once.
    modules: Vec<Module>,
    /// By node, of those placed so far: whether it and all its callers only start a program or a thread.
    starts: Vec<bool>,
    fold: bool,
    unnamed: u64,
    notes: Vec<String>,
}

impl Names {
    fn read(profile: &Profile, resolve: Resolve) -> Self {
        let mut this = Self {
            shown: Vec::new(),
            modules: Vec::new(),
            starts: vec![true],
            fold: profile.meta.native != "full",
            unnamed: 0,
            notes: Vec::new(),
        };
        this.shown.resize_with(profile.functions().len(), || None);
        let mut by_module: FxHashMap<u32, Vec<(usize, u64)>> = FxHashMap::default();
        for (i, function) in profile.functions().iter().enumerate() {
            if let Some((row, address)) = function.address() {
                by_module.entry(row).or_default().push((i, address));
            }
        }
        let mut rows: Vec<u32> = by_module.keys().copied().collect();
        rows.sort_unstable();
        for row in rows {
            let module = (row as usize).checked_sub(1).and_then(|row| profile.modules().get(row));
            match module {
                Some(module) => this.name_module(module, &by_module[&row], resolve),
                None => this.name_anonymous(&by_module[&row]),
            }
        }
        this
    }

    fn name_anonymous(&mut self, addresses: &[(usize, u64)]) {
        let module = self.module_row(&Module { path: ANONYMOUS.to_vec(), ..Module::default() });
        for &(i, _) in addresses {
            let name = String::from_utf8_lossy(ANONYMOUS).into_owned();
            let frames = vec![Place { name, file: String::new(), line: 0, start: 0, known: false }];
            self.shown[i] = Some(Shown { frames, functions: None, module, is_start: false, is_entry: false });
        }
    }

    fn name_module(&mut self, module: &Module, addresses: &[(usize, u64)], resolve: Resolve) {
        let row = self.module_row(module);
        let file = File { path: &module.path, build_id: &module.build_id, inode: module.inode };
        let list: Vec<u64> = addresses.iter().map(|&(_, address)| address).collect();
        let resolved = resolve(file, &list, &DEBUG_ROOTS.map(Path::new));
        if !resolved.found {
            let path = String::from_utf8_lossy(&module.path);
            self.notes
                .push(format!("no names for {path}: the file that was loaded is not there any more, or no ELF file"));
        }
        let base = module.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let is_libc = [&b"libc.so"[..], b"libc-2", b"libpthread"].iter().any(|prefix| base.starts_with(prefix));
        for (&(i, _), mut frames) in addresses.iter().zip(resolved.places) {
            let Some(outer) = frames.last() else { continue };
            self.unnamed += u64::from(!outer.known);
            let is_start = if outer.known { plumbing::is_start(&outer.name) } else { is_libc };
            let is_entry = resolved.is_interpreter && outer.known && plumbing::is_entry(&outer.name);
            if self.fold && resolved.is_interpreter {
                if outer.known && plumbing::is_plumbing(&outer.name) {
                    frames.clear();
                }
                frames.retain(|place| !place.known || !plumbing::is_plumbing(&place.name));
            }
            frames.reverse();
            self.shown[i] = Some(Shown { frames, functions: None, module: row, is_start, is_entry });
        }
    }

    /// Loadings of one file are one module; two files that were at one path are told apart.
    fn module_row(&mut self, module: &Module) -> usize {
        // A path may be any bytes, a string of the model may not.
        let path = String::from_utf8_lossy(&module.path).into_owned().into_bytes();
        let mut module = Module { path, ..module.clone() };
        let others: Vec<&Module> = self.modules.iter().filter(|known| known.path == module.path).collect();
        let is_same = |known: &Module| {
            let no_id = known.build_id.is_empty() && module.build_id.is_empty();
            if no_id { known.inode == module.inode } else { known.build_id == module.build_id }
        };
        if !others.is_empty() && !others.iter().any(|known| is_same(known)) {
            let which = match module.build_id.is_empty() {
                false => format!(" (build id {})", module.build_id_hex()),
                true => format!(" (inode {})", module.inode),
            };
            module.path.extend_from_slice(which.as_bytes());
        }
        let known = self.modules.iter().position(|known| known.path == module.path);
        known.unwrap_or_else(|| {
            self.modules.push(module);
            self.modules.len() - 1
        })
    }

    fn place(&mut self, copies: &mut Copies<'_>, to: &mut Profile, parent: NodeId, node: &Node) -> NodeId {
        let after_starts = self.starts[node.parent.index()];
        let Some(shown) = &mut self.shown[node.function.index()] else {
            self.starts.push(false);
            let function = copies.function(to, node.function);
            return to.child(parent, function, node.line);
        };
        self.starts.push(after_starts && shown.is_start);
        if self.fold && shown.is_entry && after_starts {
            // What starts Python is not a caller of it that anyone asks for.
            return NodeId::ROOT;
        }
        let module = &self.modules[shown.module].path;
        let functions = shown.functions.get_or_insert_with(|| {
            shown.frames.iter().map(|place| (function(to, module, place), place.line)).collect()
        });
        functions.iter().fold(parent, |at, &(function, line)| to.child(at, function, line))
    }
}

fn function(to: &mut Profile, module: &[u8], place: &Place) -> FunctionId {
    let function = Function {
        name: to.intern(place.name.as_bytes()),
        file: to.intern(place.file.as_bytes()),
        module: to.intern(module),
        first_line: 0,
        kind: FunctionKind::Native,
        discriminator: place.start,
    };
    to.function(function)
}
