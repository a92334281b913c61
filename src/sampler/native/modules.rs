//! The modules of this process, each with its table, and the maps made of them. One list for the life of the process: what
//! was read for one run serves the next.

use super::eval;
use super::phdr::{self, Changes, Loaded};
use super::table::{Rules, Table};
use crate::sampler::runtime;
use spprof_model::Module;
use spprof_sigsafe::unwind::map::{Code, Map};
use spprof_sigsafe::unwind::rule::Rule;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Debug)]
struct Known {
    module: Arc<Module>,
    /// As the linker has it, which for the program itself is empty.
    name: Vec<u8>,
    code: (usize, usize),
    table: Arc<Table>,
    /// CPYTHON 3.9: see [`eval`].
    eval: Vec<(u64, u64)>,
}

#[derive(Debug, Default)]
struct Registry {
    known: Vec<Known>,
    rules: Rules,
    changes: Changes,
    next_id: u32,
    generation: u64,
    current: Option<Arc<Modules>>,
}

/// The modules at one time, and the map of their code.
#[derive(Debug)]
pub struct Modules {
    pub list: Vec<Arc<Module>>,
    /// Borrows from the fields below, which are never changed and live as long.
    map: Map<'static>,
    _code: Box<[Code<'static>]>,
    _rules: Box<[Rule]>,
    _eval: Box<[(u32, u64, u64)]>,
    _tables: Vec<Arc<Table>>,
}

impl Modules {
    #[must_use]
    pub fn map(&self) -> &Map<'_> {
        &self.map
    }

    /// For [`spprof_sigsafe::zone::Zone::replace_native`]: valid as long as this is.
    #[must_use]
    pub fn as_static(&self) -> *const Map<'static> {
        &raw const self.map
    }

    fn new(known: &[Known], rules: &Rules, generation: u64) -> Self {
        let rules: Box<[Rule]> = rules.list().into();
        let tables: Vec<Arc<Table>> = known.iter().map(|it| Arc::clone(&it.table)).collect();
        let mut code: Box<[Code<'static>]> = known
            .iter()
            .map(|it| Code {
                start: it.code.0,
                end: it.code.1,
                bias: it.module.bias as usize,
                id: it.module.id,
                starts: lasting(&it.table.starts),
                rules: lasting(&it.table.rules),
            })
            .collect();
        code.sort_by_key(|it| it.start);
        let eval: Box<[(u32, u64, u64)]> =
            known.iter().flat_map(|it| it.eval.iter().map(|(start, end)| (it.module.id, *start, *end))).collect();
        let map = Map { modules: lasting(&code), rules: lasting(&rules), eval: lasting(&eval), generation };
        Self {
            list: known.iter().map(|it| Arc::clone(&it.module)).collect(),
            map,
            _code: code,
            _rules: rules,
            _eval: eval,
            _tables: tables,
        }
    }
}

/// A slice of something that the same [`Modules`] owns, which hands it out only for its own lifetime, or by a pointer whose
/// user promises as much.
fn lasting<T>(slice: &[T]) -> &'static [T] {
    // SAFETY: see above: heap memory that neither moves nor changes while its owner lives.
    unsafe { std::slice::from_raw_parts(slice.as_ptr(), slice.len()) }
}

/// Leaked on creation. A forked child forgets it, locked or not, and makes its own.
static REGISTRY: AtomicPtr<Mutex<Registry>> = AtomicPtr::new(std::ptr::null_mut());

/// The modules as they are now. Cheap when nothing was loaded or unloaded since the last call.
#[must_use]
pub fn current() -> Arc<Modules> {
    let mut registry = REGISTRY.load(Ordering::Acquire);
    if registry.is_null() {
        let new = Box::into_raw(Box::default());
        match REGISTRY.compare_exchange(registry, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => registry = new,
            Err(others) => {
                // SAFETY: made above, given to nobody.
                drop(unsafe { Box::from_raw(new) });
                registry = others;
            }
        }
    }
    // SAFETY: leaked above, never freed.
    unsafe { &*registry }.lock().unwrap_or_else(PoisonError::into_inner).refresh()
}

/// In a forked child. Async-signal-safe.
pub fn abandon() {
    REGISTRY.store(std::ptr::null_mut(), Ordering::Release);
}

impl Registry {
    fn refresh(&mut self) -> Arc<Modules> {
        if let Some(current) = &self.current
            && phdr::changes() == self.changes
        {
            return Arc::clone(current);
        }
        let before = std::mem::take(&mut self.known);
        // Where nothing was unloaded, what is at the same place under the same name is the same.
        let is_same = |bias: u64, name: &[u8], build_id: &[u8], changes: Changes| {
            before.iter().position(|it| {
                (it.module.bias, it.name.as_slice(), it.module.build_id.as_slice()) == (bias, name, build_id)
                    && (!build_id.is_empty() || changes.unloaded == self.changes.unloaded)
            })
        };
        let (changes, found) = phdr::list(is_same);
        self.changes = changes;
        let mut before: Vec<Option<Known>> = before.into_iter().map(Some).collect();
        let files = if found.iter().any(Result::is_ok) { Files::read() } else { Files::default() };
        for module in found {
            match module {
                Ok(new) => {
                    let new = self.add(new, &files);
                    self.known.push(new);
                }
                Err(index) => self.known.extend(before.get_mut(index).and_then(Option::take)),
            }
        }
        self.generation += 1;
        let current = Arc::new(Modules::new(&self.known, &self.rules, self.generation));
        self.current = Some(Arc::clone(&current));
        current
    }

    fn add(&mut self, loaded: Loaded, files: &Files) -> Known {
        self.next_id += 1;
        let name = loaded.module.path.clone();
        let (device, inode) = files.of(loaded.module.start);
        let path = match name.as_slice() {
            b"" => fs::read_link("/proc/self/exe").map_or_else(|_| name.clone(), |path| into_bytes(&path)),
            b"linux-vdso.so.1" => b"[vdso]".to_vec(),
            _ => name.clone(),
        };
        let module = Module { id: self.next_id, path, device, inode, ..loaded.module };
        let span = (loaded.code_start as u64 - module.bias)..(loaded.code_end as u64 - module.bias);
        let file = own_file(&module);
        let code_at = |range: Range<u64>| read_code(file.as_ref()?, &loaded.segments, range);
        let table =
            loaded.sections.map(|sections| Table::new(&sections, span, &mut self.rules, code_at)).unwrap_or_default();
        let holds_eval = loop_by_code().is_some_and(|at| (loaded.code_start..loaded.code_end).contains(&at));
        Known {
            eval: if holds_eval { eval::ranges(&module) } else { Vec::new() },
            module: Arc::new(module),
            name,
            code: (loaded.code_start, loaded.code_end),
            table: Arc::new(table),
        }
    }
}

/// The module's file, if it is still the one that was loaded.
fn own_file(module: &Module) -> Option<File> {
    let file = File::open(OsStr::from_bytes(&module.path)).ok()?;
    (module.inode != 0 && file.metadata().ok()?.ino() == module.inode).then_some(file)
}

/// The code at a range of addresses, from the file.
fn read_code(file: &File, segments: &[(u64, u64, u64)], range: Range<u64>) -> Option<Vec<u8>> {
    let (address, offset, length) =
        *segments.iter().find(|(address, _, length)| (*address..address + length).contains(&range.start))?;
    let end = range.end.min(address + length);
    let mut bytes = vec![0; usize::try_from(end - range.start).ok()?];
    file.read_exact_at(&mut bytes, range.start - address + offset).ok()?;
    Some(bytes)
}

/// Where the interpreter's loop is, for the version whose calls can only be told by their code.
fn loop_by_code() -> Option<usize> {
    const MARKED_FROM_MINOR: u8 = 10;
    let runtime = runtime::runtime().ok()?;
    (runtime.layout.minor < MARKED_FROM_MINOR && runtime.eval != 0).then_some(runtime.eval)
}

fn into_bytes(path: &std::path::Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// Which file is mapped where, from `/proc/self/maps`.
#[derive(Debug, Default)]
struct Files(Vec<(u64, u64, u64, u64)>);

impl Files {
    fn read() -> Self {
        let text = fs::read("/proc/self/maps").unwrap_or_default();
        Self(
            text.split(|byte| *byte == b'\n').filter_map(|line| Self::parse(std::str::from_utf8(line).ok()?)).collect(),
        )
    }

    /// `start-end perms offset major:minor inode path`
    fn parse(line: &str) -> Option<(u64, u64, u64, u64)> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let (major, minor) = words.nth(2)?.split_once(':')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let device = libc::makedev(hex(major)? as u32, hex(minor)? as u32);
        Some((hex(start)?, hex(end)?, device, words.next()?.parse().ok()?))
    }

    /// Device and inode of what is mapped at `address`; 0 when there is no file.
    fn of(&self, address: u64) -> (u64, u64) {
        let at = self.0.iter().find(|(start, end, ..)| (*start..*end).contains(&address));
        at.map_or((0, 0), |(_, _, device, inode)| (*device, *inode))
    }
}
