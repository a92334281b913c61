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

#[cfg(test)]
mod tests {
    use super::*;
    use spprof_model::Thread;

    const LIBC: &[u8] = b"/lib/libc.so.6";
    const PYTHON: &[u8] = b"/lib/libpython3.so";
    const OTHER: &[u8] = b"/lib/other.so";

    /// What is where: names innermost first; `?` for what has none.
    fn fake(file: File<'_>, addresses: &[u64], _: &[&Path]) -> Resolved {
        let names = |address| -> &[&str] {
            match (file.path, address) {
                (LIBC, 1) => &["_start"],
                (LIBC, 2) => &["?"],
                (LIBC, 3) => &["qsort"],
                (PYTHON, 1) => &["main"],
                (PYTHON, 2) => &["run_mod"],
                (PYTHON, 3) => &["_PyEval_EvalFrameDefault"],
                (PYTHON, 4) => &["Py_DECREF", "_PyEval_EvalFrameDefault"],
                (PYTHON, 5) => &["_PyObject_VectorcallTstate", "list_sort_impl"],
                (PYTHON, 6) => &["hash", "find", "dict_get"],
                (PYTHON, 7) => &["pythread_wrapper"],
                (OTHER, 1) => &["main"],
                (OTHER, 2) => &["run_mod"],
                _ => &["?"],
            }
        };
        let place = |name: &&str, address: u64, line| Place {
            name: if *name == "?" { format!("{}+{address:#x}", file.path.len()) } else { (*name).to_owned() },
            file: String::new(),
            line,
            start: address,
            known: *name != "?",
        };
        let places = addresses
            .iter()
            .map(|&address| names(address).iter().zip(10..).map(|(name, line)| place(name, address, line)).collect());
        Resolved { places: places.collect(), is_interpreter: file.path == PYTHON, found: file.path != b"/gone.so" }
    }

    /// The stacks, root first, of a profile with one sample of each of these: (module, address), or a Python function's name.
    fn shown(native: &str, stacks: &[&[(&[u8], u64)]]) -> (Profile, Vec<Vec<String>>) {
        let mut profile = Profile::unlimited();
        profile.meta.native = native.to_owned();
        let thread = profile.thread(Thread::default());
        for (i, stack) in stacks.iter().enumerate() {
            let mut node = NodeId::ROOT;
            for &(path, address) in *stack {
                let function = if path.starts_with(b"/") {
                    let row = profile.module(&Module { path: path.to_vec(), inode: 1, ..Module::default() });
                    Function::of_address(row, address)
                } else if path == b"?" {
                    Function::of_address(0, 0)
                } else {
                    let name = profile.intern(path);
                    Function { name, kind: FunctionKind::Python, ..Function::of_address(0, 0) }
                };
                let function = profile.function(function);
                node = profile.child(node, function, 0);
            }
            profile.record(i as u64, thread, node, 1 << i);
        }
        let named = named(&profile, fake);
        let sum = |profile: &Profile| profile.samples().map(|sample| sample.weight_ns).sum::<u64>();
        assert_eq!(sum(&named), sum(&profile));
        assert!(!has_addresses(&named));
        let names = |leaf| {
            let mut names: Vec<String> = named
                .stack(leaf)
                .map(|node| named.function_info(named.node(node).function).name)
                .map(|name| String::from_utf8_lossy(named.bytes(name)).into_owned())
                .collect();
            names.reverse();
            names
        };
        let stacks = named.samples().map(|sample| names(sample.node)).collect();
        (named, stacks)
    }

    const PROGRAM: &[(&[u8], u64)] = &[
        (LIBC, 1),
        (LIBC, 2),
        (PYTHON, 1),
        (PYTHON, 2),
        (PYTHON, 3),
        (b"f", 0),
        (PYTHON, 5),
        (PYTHON, 3),
        (b"key", 0),
        (PYTHON, 6),
    ];

    /// Folded: what starts Python and what carries its calls is gone, inlined or not; what works is there, with its parts.
    #[test]
    fn folded() {
        let (named, stacks) = shown("folded", &[PROGRAM]);
        assert_eq!(stacks, [["f", "list_sort_impl", "key", "dict_get", "find", "hash"]]);
        let leaf = named.node(named.sample(0).unwrap().node);
        assert_eq!((leaf.line, named.bytes(named.function_info(leaf.function).module)), (10, PYTHON));
    }

    /// Full: everything, as it was called.
    #[test]
    fn full() {
        let (_, stacks) = shown("full", &[PROGRAM]);
        assert_eq!(stacks[0].len(), 13, "{stacks:?}");
        assert_eq!(stacks[0][..4], ["_start", "14+0x2", "main", "run_mod"]);
        assert_eq!(stacks[0][6..9], ["list_sort_impl", "_PyObject_VectorcallTstate", "_PyEval_EvalFrameDefault"]);
    }

    /// The interpreter's loop goes with what was put into it.
    #[test]
    fn inlined_in_plumbing() {
        assert_eq!(shown("folded", &[&[(b"f", 0), (PYTHON, 4)]]).1, [["f"]]);
    }

    /// Only the interpreter's functions are plumbing, not those of the same names elsewhere.
    #[test]
    fn same_names_elsewhere() {
        let (_, stacks) = shown("folded", &[&[(LIBC, 1), (OTHER, 1), (OTHER, 2), (LIBC, 3)]]);
        assert_eq!(stacks, [["_start", "main", "run_mod", "qsort"]]);
    }

    /// Threads: of Python they begin with Python; of native code alone they keep their start, though both begin alike. Stacks
    /// in which nothing is left stay as one frame.
    #[test]
    fn starts_of_threads() {
        let python: &[(&[u8], u64)] = &[(LIBC, 1), (PYTHON, 7), (b"run", 0)];
        let native: &[(&[u8], u64)] = &[(LIBC, 1), (OTHER, 9)];
        let starting: &[(&[u8], u64)] = &[(LIBC, 1), (PYTHON, 7)];
        let (_, stacks) = shown("folded", &[python, native, starting]);
        let expected: [&[&str]; 3] = [&["run"], &["_start", "13+0x9"], &["<native>"]];
        assert_eq!(stacks, expected);
    }

    /// A program that embeds Python is a caller that one asks for.
    #[test]
    fn embedded() {
        let (_, stacks) = shown("folded", &[&[(LIBC, 1), (OTHER, 1), (PYTHON, 2), (b"f", 0)]]);
        assert_eq!(stacks, [["_start", "main", "f"]]);
    }

    /// What has no name is counted, what has no file is noted, code of no file is one function.
    #[test]
    fn losses() {
        let (named, stacks) = shown("folded", &[&[(OTHER, 9)], &[(b"/gone.so", 4)], &[(b"?", 0)]]);
        assert_eq!(stacks, [["13+0x9"], ["8+0x4"], ["[anon]"]]);
        assert_eq!(named.losses(), [(UNNAMED.to_owned(), 2)]);
        assert!(named.meta.notes.iter().any(|note| note.contains("/gone.so")), "{:?}", named.meta.notes);
        let modules: Vec<&[u8]> = named.modules().iter().map(|module| &module.path[..]).collect();
        assert!(modules.contains(&OTHER) && modules.contains(&&b"[anon]"[..]));
    }

    /// Two files that were at one path are two modules; one file loaded twice is one.
    #[test]
    fn modules_of_one_path() {
        let mut profile = Profile::unlimited();
        let thread = profile.thread(Thread::default());
        for (id, build_id) in [(1, [7]), (2, [8]), (3, [7])] {
            let module = Module { id, path: OTHER.to_vec(), build_id: build_id.to_vec(), ..Module::default() };
            let row = profile.module(&module);
            let function = profile.function(Function::of_address(row, 1));
            let node = profile.child(NodeId::ROOT, function, 0);
            profile.record(0, thread, node, 1);
        }
        let named = named(&profile, fake);
        let paths: Vec<&[u8]> = named.modules().iter().map(|module| &module.path[..]).collect();
        assert_eq!(paths, [OTHER, b"/lib/other.so (build id 08)"]);
        assert_eq!(named.functions().len(), 2);
    }
}
