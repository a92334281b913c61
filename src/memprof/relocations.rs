//! Puts the hooks of malloc and its relatives into the relocations of the loaded objects, and takes them out again.
//!
//! Every object calls malloc through an address that the dynamic linker has filled in; ours takes its place. An object that was
//! bound to another malloc than the process's is left alone, and so are the linker, the kernel's page and spprof itself.
//! Runs on any thread, without the GIL, under the linker's own lock; the memory written to is that of objects it holds.

use super::fronts::{Hook, hooks};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a pass did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Pass {
    pub objects: u64,
    pub patched: u64,
    /// Places bound to another function than the process's own.
    pub foreign: u64,
    /// Objects loaded since the process began, as the linker counts.
    pub loads: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    In,
    Out,
}

struct Walk {
    direction: Direction,
    own: usize,
    pass: Pass,
}

/// Patches every object that is loaded now.
pub fn put_in() -> Pass {
    walk(Direction::In)
}

/// Puts back what was there.
pub fn take_out() -> Pass {
    walk(Direction::Out)
}

fn walk(direction: Direction) -> Pass {
    let mut walk = Walk { direction, own: put_in as *const () as usize, pass: Pass::default() };
    // SAFETY: the callback gets `walk`, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(on_object), (&raw mut walk).cast()) };
    walk.pass
}

/// How many objects were ever loaded: changes when there is something new to patch.
#[must_use]
pub fn loads() -> u64 {
    unsafe extern "C" fn first(info: *mut libc::dl_phdr_info, _: usize, loads: *mut c_void) -> c_int {
        // SAFETY: the linker's structure, and our own counter.
        unsafe { *loads.cast::<u64>() = (*info).dlpi_adds };
        1
    }
    let mut loads = 0_u64;
    // SAFETY: the callback gets `loads`, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut loads).cast()) };
    loads
}

/// The files of the loaded objects, in the order the linker searches them, but for the program's own.
#[must_use]
pub fn objects() -> Vec<CString> {
    unsafe extern "C" fn note(info: *mut libc::dl_phdr_info, _: usize, names: *mut c_void) -> c_int {
        // SAFETY: the linker's structure, and the vector given to dl_iterate_phdr.
        unsafe {
            let (name, names) = ((*info).dlpi_name, &mut *names.cast::<Vec<CString>>());
            if !name.is_null() && *name != 0 {
                names.push(CStr::from_ptr(name).to_owned());
            }
        }
        0
    }
    let mut names: Vec<CString> = Vec::new();
    // SAFETY: the callback gets `names`, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(note), (&raw mut names).cast()) };
    names
}

unsafe extern "C" fn on_object(info: *mut libc::dl_phdr_info, _: usize, walk: *mut c_void) -> c_int {
    // SAFETY: the linker's structure, valid during the call, and the `Walk` given to dl_iterate_phdr.
    let (info, walk) = unsafe { (&*info, &mut *walk.cast::<Walk>()) };
    walk.pass.loads = info.dlpi_adds;
    // SAFETY: as above: `dlpi_phnum` headers.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    if let Some(object) = Object::of(info, headers)
        && !object.contains(walk.own)
    {
        walk.pass.objects += 1;
        object.patch(walk);
    }
    0
}

const R_SYMBOLIC: [u32; 3] = if cfg!(target_arch = "aarch64") { [1026, 1025, 257] } else { [7, 6, 1] };

#[derive(Clone, Copy)]
#[repr(C)]
struct Rela {
    offset: u64,
    info: u64,
    addend: i64,
}

/// What the dynamic section of an object says.
struct Object<'a> {
    base: usize,
    headers: &'a [libc::Elf64_Phdr],
    symbols: usize,
    strings: usize,
    /// (address, bytes) of the tables of relocations.
    tables: [(usize, usize); 2],
}

impl<'a> Object<'a> {
    fn of(info: &libc::dl_phdr_info, headers: &'a [libc::Elf64_Phdr]) -> Option<Self> {
        const SKIPPED: [&[u8]; 4] = [b"linux-vdso", b"ld-linux", b"ld-musl", b"libspprof_alloc"];
        const DT_PLTRELSZ: i64 = 2;
        const DT_STRTAB: i64 = 5;
        const DT_SYMTAB: i64 = 6;
        const DT_RELA: i64 = 7;
        const DT_RELASZ: i64 = 8;
        const DT_JMPREL: i64 = 23;
        if !info.dlpi_name.is_null() {
            // SAFETY: a C string of the linker's.
            let name = unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes();
            let file = name.rsplit(|byte| *byte == b'/').next().unwrap_or(name);
            if SKIPPED.iter().any(|skipped| file.starts_with(skipped)) {
                return None;
            }
        }
        let base = info.dlpi_addr as usize;
        let dynamic = headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC)?;
        let mut object = Self { base, headers, symbols: 0, strings: 0, tables: [(0, 0); 2] };
        // glibc relocates these addresses in place, other linkers do not.
        let place = |value: u64| if (value as usize) < base { base + value as usize } else { value as usize };
        let mut at = (base + dynamic.p_vaddr as usize) as *const (i64, u64);
        loop {
            // SAFETY: the dynamic section of a loaded object, which ends with a 0.
            let (tag, value) = unsafe { at.read() };
            match tag {
                0 => break,
                DT_STRTAB => object.strings = place(value),
                DT_SYMTAB => object.symbols = place(value),
                DT_RELA => object.tables[0].0 = place(value),
                DT_RELASZ => object.tables[0].1 = value as usize,
                DT_JMPREL => object.tables[1].0 = place(value),
                DT_PLTRELSZ => object.tables[1].1 = value as usize,
                _ => {}
            }
            // SAFETY: not the last entry.
            at = unsafe { at.add(1) };
        }
        (object.symbols != 0 && object.strings != 0).then_some(object)
    }

    fn contains(&self, address: usize) -> bool {
        self.headers.iter().filter(|header| header.p_type == libc::PT_LOAD).any(|header| {
            let start = self.base + header.p_vaddr as usize;
            (start..start + header.p_memsz as usize).contains(&address)
        })
    }

    fn patch(&self, walk: &mut Walk) {
        for (address, bytes) in self.tables.into_iter().filter(|(address, _)| *address != 0) {
            // SAFETY: a table of relocations of a loaded object, as its dynamic section says.
            let relocations = unsafe { std::slice::from_raw_parts(address as *const Rela, bytes / size_of::<Rela>()) };
            for relocation in relocations {
                if R_SYMBOLIC.contains(&(relocation.info as u32))
                    && relocation.info >> 32 != 0
                    && relocation.addend == 0
                    && let Some(hook) = self.hook_for((relocation.info >> 32) as usize)
                {
                    self.patch_place(self.base + relocation.offset as usize, hook, walk);
                }
            }
        }
    }

    /// The hook of the function that a symbol names.
    fn hook_for(&self, symbol: usize) -> Option<&'static Hook> {
        // SAFETY: a symbol of a loaded object, named by one of its relocations; its name is a C string in the string table.
        let name = unsafe {
            let symbol = (self.symbols as *const libc::Elf64_Sym).add(symbol);
            CStr::from_ptr((self.strings + (*symbol).st_name as usize) as *const c_char)
        };
        // Most names are ruled out by their first letter.
        if !matches!(name.to_bytes().first(), Some(b'm' | b'c' | b'r' | b'f' | b'p' | b'a' | b'v')) {
            return None;
        }
        hooks().iter().find(|hook| hook.name() == name)
    }

    fn patch_place(&self, place: usize, hook: &Hook, walk: &mut Walk) {
        if !place.is_multiple_of(align_of::<usize>()) || hook.real() == 0 {
            return;
        }
        // SAFETY: the place of a relocation in a loaded object: pointer-sized, and aligned as was just seen.
        let place_ref = unsafe { AtomicUsize::from_ptr(place as *mut usize) };
        let now = place_ref.load(Ordering::Acquire);
        let new = match walk.direction {
            Direction::In if now == hook.hook() => return,
            // Bound, or to be bound lazily by a stub of the object itself.
            Direction::In if now == hook.real() || self.contains(now) => hook.hook(),
            Direction::Out if now == hook.hook() => hook.real(),
            Direction::In => {
                walk.pass.foreign += 1;
                return;
            }
            Direction::Out => return,
        };
        if self.with_writable(place, || place_ref.store(new, Ordering::Release)) {
            walk.pass.patched += 1;
        }
    }

    /// Makes the page of `place` writable for `write` if the linker has sealed it.
    fn with_writable(&self, place: usize, write: impl FnOnce()) -> bool {
        let sealed = self.headers.iter().any(|header| {
            let start = self.base + header.p_vaddr as usize;
            header.p_type == libc::PT_GNU_RELRO && (start..start + header.p_memsz as usize).contains(&place)
        });
        if !sealed {
            write();
            return true;
        }
        // SAFETY: sysconf is always callable; the page is one of the object's, which the linker has made read-only.
        unsafe {
            let size = libc::sysconf(libc::_SC_PAGESIZE) as usize;
            let page = (place & !(size - 1)) as *mut c_void;
            if libc::mprotect(page, size, libc::PROT_READ | libc::PROT_WRITE) != 0 {
                return false;
            }
            write();
            libc::mprotect(page, size, libc::PROT_READ);
        }
        true
    }
}
