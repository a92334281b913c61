//! CPYTHON 3.9: where the interpreter's loop is in its module, since its calls leave no mark on the stack.

use object::{Object, ObjectSymbol};
use spprof_model::Module;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const LOOP: &[u8] = b"_PyEval_EvalFrameDefault";

/// The address ranges, in the file, of the loop's function; compilers put its rare parts elsewhere, as `<name>.cold`. Empty when
/// the file is not the one that was loaded or has no such symbol.
#[must_use]
pub fn ranges(module: &Module) -> Vec<(u64, u64)> {
    let Some(file) = File::open(Path::new(std::ffi::OsStr::from_bytes(&module.path))).ok() else { return Vec::new() };
    if file.metadata().map(|it| it.ino()).ok() != Some(module.inode) {
        return Vec::new();
    }
    let cache = object::ReadCache::new(file);
    let Ok(parsed) = object::File::parse(&cache) else { return Vec::new() };
    let mut ranges: Vec<(u64, u64)> = parsed
        .symbols()
        .chain(parsed.dynamic_symbols())
        .filter(|symbol| symbol.is_definition() && symbol.size() > 0)
        .filter(|symbol| {
            let name = symbol.name_bytes().unwrap_or_default();
            name.strip_prefix(LOOP).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
        })
        .map(|symbol| (symbol.address(), symbol.address() + symbol.size()))
        .collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}
