//! Files of compiled code, as a process had them in memory.

/// One loading of a file. The same file loaded again, or at another place, is another module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Module {
    /// Given once in the life of a process, from 1 on.
    pub id: u32,
    /// As the dynamic linker knows it; the program's own file for the program, `[vdso]` for the kernel's page.
    pub path: Vec<u8>,
    /// The GNU build id; empty when there is none.
    pub build_id: Vec<u8>,
    /// Addresses in memory, from the first byte to behind the last.
    pub start: u64,
    pub end: u64,
    /// An address in memory less this is the address in the file (as symbols and unwind tables have it).
    pub bias: u64,
    /// Device and inode of the mapped file, to tell whether the file at `path` is still the one that was loaded; 0 when not
    /// known.
    pub device: u64,
    pub inode: u64,
}

impl Module {
    /// The build id as tools print it.
    #[must_use]
    pub fn build_id_hex(&self) -> String {
        self.build_id.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
