//! Reading the host's memory from outside: by address, without the GIL, where any address may be wrong.
//!
//! A trait, so that the decoders can be tested on byte images; [`Process`] is the real thing.

use spprof_sigsafe::mem;

/// Memory that can be read by address. Every read can fail, none can crash.
pub trait Memory {
    /// The 8 bytes at `addr`; `None` when it is not 8-aligned or not readable.
    fn word(&self, addr: usize) -> Option<usize>;

    /// Fills `out` from `addr`; false when some of it is not readable.
    fn copy(&self, addr: usize, out: &mut [u8]) -> bool;

    /// The 4 bytes at `addr`, which is 4-aligned.
    fn u32(&self, addr: usize) -> Option<u32> {
        let word = self.word(addr & !7)?;
        Some(if addr & 4 == 0 { word as u32 } else { (word >> 32) as u32 })
    }
}

/// This process, by guarded loads: needs the session's fault handlers wherever an address may be unmapped.
#[derive(Clone, Copy, Debug)]
pub struct Process;

impl Memory for Process {
    #[inline]
    fn word(&self, addr: usize) -> Option<usize> {
        if mem::is_plausible(addr) { mem::load_word(addr) } else { None }
    }

    fn copy(&self, addr: usize, out: &mut [u8]) -> bool {
        mem::is_plausible(addr & !7) && mem::copy(addr, out)
    }
}
