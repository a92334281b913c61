//! Guarded loads: reading memory that may be unmapped at any moment, without a system call.
//!
//! Each load is one instruction listed in the `spprof_ex` section as (start, end, landing). When it faults, the
//! SIGSEGV/SIGBUS handler ([`fixup`]) moves the program counter to the landing, which reports failure. Runs anywhere,
//! signal handlers included; needs the fault handlers installed (by the session) only if the address can really be bad.

use core::arch::asm;

/// Addresses outside user space can not be ours: cheaper to reject than to fault.
#[cfg(target_arch = "aarch64")]
const USER_END: usize = 1 << 48;
#[cfg(not(target_arch = "aarch64"))]
const USER_END: usize = 1 << 47;
/// Nothing is mapped in the first page.
const USER_START: usize = 4096;

/// True for an 8-aligned address in user space.
#[inline(always)]
#[must_use]
pub fn is_plausible(addr: usize) -> bool {
    addr & 7 == 0 && (USER_START..USER_END).contains(&addr)
}

/// Reads the 8 bytes at `addr`; `None` when they are not mapped.
#[inline(always)]
#[must_use]
pub fn load_word(addr: usize) -> Option<usize> {
    let value: usize;
    let ok: usize;
    // SAFETY: the only memory access is the load between labels 2 and 3, and a fault there is turned into a jump to 3 by
    // `fixup`, with `ok` still 0. No other register or memory changes.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!(
            "mov {ok:e}, 0",
            "2:",
            "mov {value}, qword ptr [{addr}]",
            "mov {ok:e}, 1",
            "3:",
            ".pushsection spprof_ex,\"aR\",@progbits",
            ".balign 4",
            ".long 2b - .",
            ".long 3b - .",
            ".popsection",
            addr = in(reg) addr,
            value = out(reg) value,
            ok = out(reg) ok,
            options(nostack, readonly, preserves_flags)
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "mov {ok}, #0",
            "2:",
            "ldr {value}, [{addr}]",
            "mov {ok}, #1",
            "3:",
            ".pushsection spprof_ex,\"aR\",@progbits",
            ".balign 4",
            ".long 2b - .",
            ".long 3b - .",
            ".popsection",
            addr = in(reg) addr,
            value = out(reg) value,
            ok = out(reg) ok,
            options(nostack, readonly, preserves_flags)
        );
    }
    (ok != 0).then_some(value)
}

/// Reads the `u32` at `addr` (4-aligned), through the aligned word that holds it.
#[inline(always)]
#[must_use]
pub fn load_u32(addr: usize) -> Option<u32> {
    let word = load_word(addr & !7)?;
    Some(if addr & 4 != 0 { (word >> 32) as u32 } else { word as u32 })
}

/// Reads the byte at `addr`, through the aligned word that holds it.
#[inline(always)]
#[must_use]
pub fn load_u8(addr: usize) -> Option<u8> {
    let word = load_word(addr & !7)?;
    Some((word >> ((addr & 7) << 3)) as u8)
}

/// Copies `out.len()` bytes from `addr`; false when some of them are not mapped (then `out` is partly written).
#[must_use]
pub fn copy(addr: usize, out: &mut [u8]) -> bool {
    // Whole aligned words, so a byte near the end of a mapping never drags in an unmapped page.
    let mut at = addr;
    let mut rest = out;
    while !rest.is_empty() {
        let Some(word) = load_word(at & !7) else { return false };
        let skip = at & 7;
        let bytes = word.to_ne_bytes();
        let take = bytes.len().wrapping_sub(skip).min(rest.len());
        let (now, later) = rest.split_at_mut_checked(take).unwrap_or((&mut [], &mut []));
        for (to, from) in now.iter_mut().zip(bytes.iter().skip(skip)) {
            *to = *from;
        }
        at = at.wrapping_add(take);
        rest = later;
    }
    true
}

#[repr(C)]
struct Entry {
    /// Offset of the guarded range's start from this field.
    start: i32,
    /// Offset of the range's end, which is the landing, from this field.
    landing: i32,
}

unsafe extern "C" {
    // The linker makes these for a section whose name is a C identifier.
    #[link_name = "__start_spprof_ex"]
    static TABLE_START: Entry;
    #[link_name = "__stop_spprof_ex"]
    static TABLE_STOP: Entry;
}

/// More guarded loads than the crate will ever have: bounds the table scan.
const MAX_ENTRIES: usize = 4096;

/// Where to continue when the instruction at `pc` faulted; `None` when it is not a guarded load.
#[must_use]
pub fn fixup(pc: usize) -> Option<usize> {
    let mut entry = &raw const TABLE_START;
    let stop = &raw const TABLE_STOP;
    let mut left = MAX_ENTRIES;
    while entry < stop && left > 0 {
        // SAFETY: `entry` lies between the linker-made bounds of the table, whose entries the `asm!` blocks above emit.
        let (start, landing) = unsafe {
            let start_field = &raw const (*entry).start;
            let landing_field = &raw const (*entry).landing;
            (
                (start_field as usize).wrapping_add_signed(start_field.read() as isize),
                (landing_field as usize).wrapping_add_signed(landing_field.read() as isize),
            )
        };
        if (start..landing).contains(&pc) {
            return Some(landing);
        }
        entry = entry.wrapping_add(1);
        left = left.wrapping_sub(1);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicUsize, Ordering};

    static FAULTS: AtomicUsize = AtomicUsize::new(0);

    unsafe extern "C" fn on_fault(_: i32, _: *mut libc::siginfo_t, context: *mut core::ffi::c_void) {
        // SAFETY: the kernel's context.
        if unsafe { crate::handler::absorb_fault(context) } {
            FAULTS.fetch_add(1, Ordering::Relaxed);
        } else {
            std::process::abort();
        }
    }

    fn with_fault_handler() {
        // SAFETY: a plain sigaction with a handler of the right type.
        unsafe {
            let mut action: libc::sigaction = core::mem::zeroed();
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
            for signal in [libc::SIGSEGV, libc::SIGBUS] {
                assert_eq!(libc::sigaction(signal, &action, core::ptr::null_mut()), 0);
            }
        }
    }

    /// Mapped memory is read; unmapped, protected and non-canonical addresses fail without harm, one fault each.
    #[test]
    fn loads_fail_softly() {
        with_fault_handler();
        let value = 0x1234_5678_9abc_def0_usize;
        assert_eq!(load_word(&raw const value as usize), Some(value));
        // SAFETY: a fresh anonymous mapping.
        let page = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                8192,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        } as usize;
        // SAFETY: the second page of that mapping, used by nobody.
        assert_eq!(unsafe { libc::mprotect((page + 4096) as *mut _, 4096, libc::PROT_NONE) }, 0);
        let before = FAULTS.load(Ordering::Relaxed);
        for bad in [8, page + 4096, 0x8000_0000_0000, usize::MAX & !7] {
            assert_eq!(load_word(bad), None, "{bad:#x}");
        }
        assert_eq!(FAULTS.load(Ordering::Relaxed) - before, 4);
        let mut bytes = [1_u8; 16];
        assert!(copy(page + 4096 - 13, &mut bytes[..13]));
        assert_eq!(bytes[..13], [0; 13]);
        assert!(!copy(page + 4096 - 13, &mut bytes));
        assert_eq!(load_u8(page + 4095), Some(0));
        assert_eq!(load_u32(page + 4092), Some(0));
    }
}
