//! What the dynamic linker knows of a module, read while its list is locked: nothing can be unloaded meanwhile.

use super::table::Sections;
use spprof_model::Module;
use spprof_sigsafe::mem;
use std::cell::UnsafeCell;
use std::ffi::{CStr, c_int, c_void};

/// A module as found.
#[derive(Debug)]
pub struct Loaded {
    /// Without an id.
    pub module: Module,
    /// Addresses in memory that hold code: from the first executable segment to behind the last.
    pub code_start: usize,
    pub code_end: usize,
    /// Of the segments that hold code: address in the file, place in the file, length.
    pub segments: Vec<(u64, u64, u64)>,
    /// `None` when it carries no unwind information.
    pub sections: Option<Sections>,
}

/// How often modules were loaded and unloaded in the life of the process: equal to an earlier reading, nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Changes {
    pub loaded: u64,
    pub unloaded: u64,
}

/// Held while we are in the linker's list, and by every fork: a child whose parent's linker was in use by a thread that the
/// child does not have could never load a module again.
struct Linker(UnsafeCell<libc::pthread_mutex_t>);
// SAFETY: only its address is used, by pthread_mutex_lock and pthread_mutex_unlock.
unsafe impl Sync for Linker {}
static LINKER: Linker = Linker(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));

/// For `pthread_atfork`: before a fork, on its thread.
///
/// # Safety
/// `after_fork` follows on the same thread.
pub unsafe extern "C" fn before_fork() {
    // SAFETY: a mutex for ever; locked for microseconds only.
    unsafe { libc::pthread_mutex_lock(LINKER.0.get()) };
}

/// For `pthread_atfork`: after it, in the parent and in the child.
///
/// # Safety
/// `before_fork` was called.
pub unsafe extern "C" fn after_fork() {
    // SAFETY: locked by this thread, which in the child is a copy of the one that locked it.
    unsafe { libc::pthread_mutex_unlock(LINKER.0.get()) };
}

/// Calls `each` for every module until it gives `false`.
fn for_each(mut each: impl FnMut(&libc::dl_phdr_info) -> bool) {
    type Each<'a> = &'a mut dyn FnMut(&libc::dl_phdr_info) -> bool;
    unsafe extern "C" fn call(info: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
        // SAFETY: `data` is the `Each` below, `info` the linker's.
        let (each, info) = unsafe { (&mut *data.cast::<Each<'_>>(), &*info) };
        c_int::from(!each(info))
    }
    let mut each: Each<'_> = &mut each;
    // SAFETY: `call` gets the pointer it expects and does not unwind; the mutex is unlocked by who locked it.
    unsafe {
        libc::pthread_mutex_lock(LINKER.0.get());
        libc::dl_iterate_phdr(Some(call), (&raw mut each).cast());
        libc::pthread_mutex_unlock(LINKER.0.get());
    }
}

#[must_use]
pub fn changes() -> Changes {
    let mut changes = Changes::default();
    for_each(|info| {
        changes = Changes { loaded: info.dlpi_adds, unloaded: info.dlpi_subs };
        false
    });
    changes
}

/// All modules, with the changes up to this list. `known` tells by bias, name and build id which need not be read again, and
/// what they are known by.
pub fn list(known: impl Fn(u64, &[u8], &[u8], Changes) -> Option<usize>) -> (Changes, Vec<Result<Loaded, usize>>) {
    let mut changes = Changes::default();
    let mut found = Vec::new();
    for_each(|info| {
        changes = Changes { loaded: info.dlpi_adds, unloaded: info.dlpi_subs };
        // SAFETY: the linker's string.
        let name = if info.dlpi_name.is_null() { b"" } else { unsafe { CStr::from_ptr(info.dlpi_name) }.to_bytes() };
        // SAFETY: the linker's own table of the module's segments.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let notes = headers.iter().filter(|it| it.p_type == libc::PT_NOTE);
        let build_id = notes.filter_map(|it| build_id(info.dlpi_addr, it)).next().unwrap_or_default();
        if let Some(index) = known(info.dlpi_addr, name, &build_id, changes) {
            found.push(Err(index));
        } else if let Some(loaded) = read(info.dlpi_addr, headers, name, build_id) {
            found.push(Ok(loaded));
        }
        true
    });
    (changes, found)
}

fn read(bias: u64, headers: &[libc::Elf64_Phdr], name: &[u8], build_id: Vec<u8>) -> Option<Loaded> {
    let loads = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let code = || loads().filter(|header| header.p_flags & libc::PF_X != 0);
    let start = |header: &libc::Elf64_Phdr| bias.wrapping_add(header.p_vaddr);
    let end = |header: &libc::Elf64_Phdr| bias.wrapping_add(header.p_vaddr).wrapping_add(header.p_memsz);
    let module = Module {
        path: name.to_vec(),
        build_id,
        start: loads().map(start).min()?,
        end: loads().map(end).max()?,
        bias,
        ..Module::default()
    };
    Some(Loaded {
        code_start: code().map(start).min()? as usize,
        code_end: code().map(end).max()? as usize,
        segments: code().map(|it| (it.p_vaddr, it.p_offset, it.p_filesz)).collect(),
        sections: sections(bias, headers),
        module,
    })
}

fn copy(address: u64, length: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    mem::copy(address as usize, &mut bytes).then_some(bytes)
}

/// The descriptor of the GNU build id note, if it is in this segment.
fn build_id(bias: u64, header: &libc::Elf64_Phdr) -> Option<Vec<u8>> {
    const NT_GNU_BUILD_ID: u32 = 3;
    const MOST: u64 = 4096;
    let notes = copy(bias.wrapping_add(header.p_vaddr), header.p_memsz.min(MOST))?;
    let mut rest = notes.as_slice();
    loop {
        let word = |at: usize| rest.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let (name_size, size, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let align = if header.p_align == 8 { 8 } else { 4 };
        let data = 12 + name_size.next_multiple_of(4);
        let data = if align == 8 { data.next_multiple_of(8) } else { data };
        if kind == NT_GNU_BUILD_ID && rest.get(12..16) == Some(b"GNU\0") {
            return rest.get(data..data.checked_add(size)?).map(<[u8]>::to_vec);
        }
        rest = rest.get(data.checked_add(size)?.next_multiple_of(align)..)?;
    }
}

/// Copies of the unwind sections: a handler, and whoever reads them after this, must not depend on the module staying loaded.
fn sections(bias: u64, headers: &[libc::Elf64_Phdr]) -> Option<Sections> {
    let hdr = headers.iter().find(|header| header.p_type == libc::PT_GNU_EH_FRAME)?;
    let bytes = copy(bias.wrapping_add(hdr.p_vaddr), hdr.p_memsz)?;
    let bases = gimli::BaseAddresses::default().set_eh_frame_hdr(hdr.p_vaddr);
    let parsed = gimli::EhFrameHdr::new(&bytes, gimli::NativeEndian).parse(&bases, 8).ok()?;
    let gimli::Pointer::Direct(eh_frame_address) = parsed.eh_frame_ptr() else { return None };
    // Where it ends nobody says; not behind its segment.
    let segment = headers.iter().find(|it| {
        it.p_type == libc::PT_LOAD && (it.p_vaddr..it.p_vaddr.saturating_add(it.p_filesz)).contains(&eh_frame_address)
    })?;
    // Linkers put the header before the frames, or right behind them.
    let segment_end = segment.p_vaddr.saturating_add(segment.p_filesz);
    let end = if hdr.p_vaddr > eh_frame_address { hdr.p_vaddr.min(segment_end) } else { segment_end };
    Some(Sections {
        hdr_address: hdr.p_vaddr,
        hdr: bytes,
        eh_frame_address,
        eh_frame: copy(bias.wrapping_add(eh_frame_address), end - eh_frame_address)?,
    })
}
