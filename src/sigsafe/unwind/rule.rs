//! What unwind tables come down to: how to find a frame's caller from its registers. Made ahead of time; applying one is
//! a few additions and one to three guarded loads.

use crate::mem::{is_plausible, load_word};

/// Registers by their DWARF numbers on x86-64: 0-15 rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8-r15.
pub const REGISTERS: usize = 16;
pub const BP: u8 = 6;
pub const SP: u8 = 7;

/// The DWARF numbers of a context's first sixteen registers (`gregs`); the instruction pointer follows.
const GREGS: [u8; REGISTERS] = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7];

/// Where the canonical frame address is: the stack pointer as the caller had it before the call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cfa {
    /// `register + offset`
    At { register: u8, offset: i32 },
    /// `*(register + offset) + add`
    Load { register: u8, offset: i32, add: i32 },
    /// In a stub of the procedure linkage table: `sp + 8`, and 8 more once it has pushed its number, which it has from byte
    /// `pushed` of its 16 on.
    Stub { pushed: u8 },
}

/// Where the caller's frame pointer is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CallerBp {
    /// Still in its register.
    Same,
    /// At this distance from the frame address.
    AtCfa(i32),
    /// At this distance from what the frame pointer holds now.
    AtBp(i32),
    /// Nowhere, or nowhere we understand.
    Lost,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Rule {
    /// Nothing is known of this code.
    Unknown,
    /// Nobody called it: the thread began here.
    Start,
    /// The kernel's frame of a signal: all registers of the interrupted code are saved on the stack.
    Signal,
    /// The return address lies below the frame address.
    Call { cfa: Cfa, bp: CallerBp },
}

/// The registers of one frame, as far as they are known.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    pub ip: usize,
    values: [usize; REGISTERS],
    /// Bit n: register n is known.
    known: u32,
}

impl Registers {
    /// All of them, as a signal found them.
    #[must_use]
    pub const fn all(ip: usize, values: [usize; REGISTERS]) -> Self {
        Self { ip, values, known: (1 << REGISTERS) - 1 }
    }

    /// Those of the code that a signal interrupted; `None` without a context.
    ///
    /// # Safety
    /// `context` is null or the kernel's ucontext.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    #[must_use]
    pub unsafe fn of_context(context: *mut core::ffi::c_void) -> Option<Self> {
        if context.is_null() {
            return None;
        }
        // SAFETY: promised by the caller.
        let gregs = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        let mut registers = Self { ip: 0, values: [0; REGISTERS], known: 0 };
        for (register, value) in GREGS.into_iter().zip(gregs) {
            registers.set(register, *value as usize);
        }
        registers.ip = *gregs.get(libc::REG_RIP as usize)? as usize;
        Some(registers)
    }

    /// No rules are made for this processor.
    ///
    /// # Safety
    /// None needed.
    #[cfg(not(target_arch = "x86_64"))]
    #[must_use]
    pub unsafe fn of_context(_: *mut core::ffi::c_void) -> Option<Self> {
        None
    }

    /// Of a caller: the others have been used since, or nobody asks for them.
    #[must_use]
    pub fn few(ip: usize, sp: usize, bp: Option<usize>) -> Self {
        let mut registers = Self { ip, values: [0; REGISTERS], known: 0 };
        registers.set(SP, sp);
        if let Some(bp) = bp {
            registers.set(BP, bp);
        }
        registers
    }

    #[inline(always)]
    #[must_use]
    pub fn get(&self, register: u8) -> Option<usize> {
        let known = self.known & 1_u32.checked_shl(u32::from(register))? != 0;
        if known { self.values.get(usize::from(register)).copied() } else { None }
    }

    #[inline(always)]
    fn set(&mut self, register: u8, value: usize) {
        if let Some(slot) = self.values.get_mut(usize::from(register)) {
            *slot = value;
            self.known |= 1 << (register & 31);
        }
    }

    #[inline(always)]
    #[must_use]
    pub fn sp(&self) -> usize {
        let [.., sp, _, _, _, _, _, _, _, _] = self.values;
        sp
    }
}

/// What became of a step from a frame to its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The registers are the caller's; it was at a call.
    Caller,
    /// The registers are those of code that a signal interrupted.
    Interrupted,
    /// The frame has no caller.
    Start,
    /// The caller cannot be found.
    Lost,
}

#[inline(always)]
fn at(base: usize, offset: i32) -> usize {
    base.wrapping_add_signed(offset as isize)
}

#[inline(always)]
fn load(address: usize) -> Option<usize> {
    if is_plausible(address) { load_word(address) } else { None }
}

impl Rule {
    /// Moves `registers` to the caller's.
    #[inline(always)]
    #[must_use]
    pub fn step(self, registers: &mut Registers) -> Step {
        let found = match self {
            Self::Unknown => None,
            Self::Start => return Step::Start,
            Self::Signal => return if interrupted(registers).is_some() { Step::Interrupted } else { Step::Lost },
            Self::Call { cfa, bp } => caller(cfa, bp, registers),
        };
        match found {
            // By the ABI the first frame of a thread is called from nowhere.
            Some(0) => Step::Start,
            Some(_) => Step::Caller,
            None => Step::Lost,
        }
    }
}

/// The return address, with `registers` moved to the caller.
#[inline(always)]
fn caller(cfa: Cfa, bp: CallerBp, registers: &mut Registers) -> Option<usize> {
    const WORD: i32 = 8;
    let sp = registers.sp();
    let cfa = match cfa {
        Cfa::At { register, offset } => at(registers.get(register)?, offset),
        Cfa::Load { register, offset, add } => at(load(at(registers.get(register)?, offset))?, add),
        Cfa::Stub { pushed } => at(sp, if registers.ip & 15 >= usize::from(pushed) { 2 * WORD } else { WORD }),
    };
    // Stacks grow down: a caller's frame lies above. This also bounds what a wrong table can do.
    if cfa <= sp {
        return None;
    }
    let return_address = load(at(cfa, -WORD))?;
    let bp = match bp {
        CallerBp::Same => registers.get(BP),
        CallerBp::AtCfa(offset) => Some(load(at(cfa, offset))?),
        CallerBp::AtBp(offset) => Some(load(at(registers.get(BP)?, offset))?),
        CallerBp::Lost => None,
    };
    registers.ip = return_address;
    registers.known = 0;
    registers.set(SP, cfa);
    if let Some(bp) = bp {
        registers.set(BP, bp);
    }
    Some(return_address)
}

/// The registers that the kernel saved: at its frame the stack pointer points to the `ucontext`.
#[cold]
fn interrupted(registers: &mut Registers) -> Option<()> {
    /// `ucontext_t.uc_mcontext.gregs`.
    const OFFSET: usize = 40;
    let mut slot = registers.sp().wrapping_add(OFFSET);
    let mut saved = Registers { ip: 0, values: [0; REGISTERS], known: 0 };
    for register in GREGS {
        saved.set(register, load(slot)?);
        slot = slot.wrapping_add(8);
    }
    saved.ip = load(slot)?;
    *registers = saved;
    Some(())
}
