//! The files of a module: the very one that was loaded, its debug file, and what several debug files share.
//!
//! A file may have been replaced since it was loaded, as an upgrade does. It is believed only if its build id is the one that
//! was loaded; where there is none, if it is the same inode. A debug file must have the same build id, or else the checksum
//! that its module asks for.

use memmap2::Mmap;
use object::Object;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// More than any vdso has.
const MAX_VDSO_BYTES: u64 = 1 << 20;

enum Bytes {
    Mapped(Mmap),
    Copied(Vec<u8>),
}

/// A file that was found, and where.
pub struct Found {
    bytes: Bytes,
    path: PathBuf,
}

impl Found {
    /// The module's own file, if it is still there.
    pub fn open(file: crate::File<'_>) -> Option<Self> {
        if file.path == b"[vdso]" {
            let found = Self { bytes: Bytes::Copied(own_vdso()?), path: PathBuf::new() };
            // That of another kernel has another build id.
            return (found.build_id().as_deref() == Some(file.build_id)).then_some(found);
        }
        if !file.path.starts_with(b"/") {
            return None;
        }
        let path = PathBuf::from(OsStr::from_bytes(file.path));
        let (found, inode) = Self::map(path)?;
        let is_same = match found.build_id() {
            Some(build_id) => build_id == file.build_id,
            None => file.build_id.is_empty() && inode == file.inode,
        };
        is_same.then_some(found)
    }

    fn map(path: PathBuf) -> Option<(Self, u64)> {
        let file = fs::File::open(&path).ok()?;
        let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
        // SAFETY: the mapping is private and read only. Were the file cut short under us, a read could fault, as it would
        // for the program itself, which has the same file mapped and runs from it; package managers replace files instead.
        let mapped = unsafe { Mmap::map(&file) }.ok()?;
        Some((Self { bytes: Bytes::Mapped(mapped), path }, metadata.ino()))
    }

    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(mapped) => mapped,
            Bytes::Copied(copied) => copied,
        }
    }

    fn build_id(&self) -> Option<Vec<u8>> {
        let parsed = object::File::parse(self.bytes()).ok()?;
        Some(parsed.build_id().ok()??.to_vec())
    }

    /// The separate debug file of `parsed`, which is this file: by build id, else by the name it gives.
    pub fn debug_file(&self, parsed: &object::File<'_>, roots: &[&Path]) -> Option<Self> {
        if crate::has_lines(parsed) {
            return None;
        }
        let build_id = parsed.build_id().ok().flatten();
        if let Some([first, rest @ ..]) = build_id {
            let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
            let below = format!(".build-id/{first:02x}/{rest}.debug");
            let candidates = roots.iter().map(|root| root.join(&below));
            let found =
                candidates.filter_map(Self::map).map(|(found, _)| found).find(|f| f.build_id().as_deref() == build_id);
            if found.is_some() {
                return found;
            }
        }
        let (name, checksum) = parsed.gnu_debuglink().ok()??;
        let name = Path::new(OsStr::from_bytes(name));
        let folder = self.path.parent()?;
        let beside = [folder.join(name), folder.join(".debug").join(name)];
        let below_roots = roots.iter().map(|root| root.join(folder.strip_prefix("/").unwrap_or(folder)).join(name));
        let candidates = beside.into_iter().chain(below_roots).filter(|path| *path != self.path);
        candidates.filter_map(Self::map).map(|(found, _)| found).find(|found| match (build_id, found.build_id()) {
            (Some(wanted), Some(there)) => wanted == there,
            _ => crc32fast::hash(found.bytes()) == checksum,
        })
    }

    /// The file with what `parsed`, which is this file, shares with others.
    pub fn supplement(&self, parsed: &object::File<'_>) -> Option<Self> {
        let (name, build_id) = parsed.gnu_debugaltlink().ok()??;
        // An absolute name stays as it is.
        let path = self.path.parent()?.join(OsStr::from_bytes(name));
        Self::map(path).map(|(found, _)| found).filter(|found| found.build_id().as_deref() == Some(build_id))
    }
}

/// The code that the kernel puts into every process, as it is in this one.
fn own_vdso() -> Option<Vec<u8>> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let mut memory = fs::File::open("/proc/self/mem").ok()?;
    memory.seek(SeekFrom::Start(start)).ok()?;
    let mut bytes = Vec::new();
    memory.take((end - start).min(MAX_VDSO_BYTES)).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
