//! Code without unwind information, which some assembler has (the kernels of OpenBLAS, parts of OpenSSL): its rules from the
//! instructions themselves. Pure: bytes in, rules out.
//!
//! One pass over the gaps that the unwind tables leave, following what each instruction does to the stack pointer, to copies of it and
//! to the frame pointer. A place that is reached with two different answers, or that nothing says how it is reached, has none.

use iced_x86::Register as Name;
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind};
use spprof_sigsafe::unwind::rule::{BP, CallerBp, Cfa, REGISTERS, Rule, SP};
use std::collections::BTreeMap;

/// What is known at an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    /// How far above each register the frame address is, where that is known.
    below: [Option<i64>; REGISTERS],
    bp: CallerBp,
}

impl State {
    /// At a function's first instruction: the return address was just pushed.
    const ENTRY: Self = {
        let mut below = [None; REGISTERS];
        below[SP as usize] = Some(8);
        Self { below, bp: CallerBp::Same }
    };

    fn rule(&self) -> Rule {
        // The stack pointer, else the one of the copies that callees leave alone: rbx, rbp, r12 to r15; then any.
        const ORDER: [u8; 15] = [SP, BP, 3, 12, 13, 14, 15, 10, 11, 0, 1, 2, 8, 9, 4];
        let found = ORDER.iter().find_map(|&register| {
            let offset = i32::try_from(self.below[usize::from(register)]?).ok()?;
            Some(Cfa::At { register, offset })
        });
        found.map_or(Rule::Unknown, |cfa| Rule::Call { cfa, bp: self.bp })
    }
}

/// The DWARF number of a 64-bit register.
fn number(name: Name) -> Option<usize> {
    Some(match name {
        Name::RAX => 0,
        Name::RDX => 1,
        Name::RCX => 2,
        Name::RBX => 3,
        Name::RSI => 4,
        Name::RDI => 5,
        Name::RBP => 6,
        Name::RSP => 7,
        Name::R8 => 8,
        Name::R9 => 9,
        Name::R10 => 10,
        Name::R11 => 11,
        Name::R12 => 12,
        Name::R13 => 13,
        Name::R14 => 14,
        Name::R15 => 15,
        _ => return None,
    })
}

fn is_padding(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3) || instruction.is_invalid()
}

/// (start, end, rule) of what is understood in `bytes`, which are at `address` and begin behind a function or its padding.
#[must_use]
pub fn rules(bytes: &[u8], address: u64) -> Vec<(u64, u64, Rule)> {
    let mut found: Vec<(u64, u64, Rule)> = Vec::new();
    let mut targets: BTreeMap<u64, Option<State>> = BTreeMap::new();
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    let mut info = InstructionInfoFactory::new();
    let mut instruction = Instruction::default();
    // `None` where nothing says how it is reached.
    let mut state = None;
    let mut in_padding = true;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let (start, end) = (instruction.ip(), instruction.next_ip());
        if let Some(jumped) = targets.remove(&start) {
            state = if state.is_none() || state == jumped { jumped } else { None };
        } else if state.is_none() && in_padding && !is_padding(&instruction) && start.is_multiple_of(16) {
            state = Some(State::ENTRY);
        }
        in_padding = state.is_none() && (in_padding || is_padding(&instruction));
        if let Some(now) = state {
            match (found.last_mut(), now.rule()) {
                (Some((_, last, rule)), same) if *last == start && *rule == same => *last = end,
                (_, rule) => found.push((start, end, rule)),
            }
            state = after(&instruction, now, &mut info);
            if matches!(instruction.flow_control(), FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch) {
                let target = instruction.near_branch_target();
                if target > start {
                    let known = targets.entry(target).or_insert(Some(now));
                    if *known != Some(now) {
                        *known = None;
                    }
                }
            }
            in_padding = state.is_none();
        }
    }
    found
}

/// What holds behind `instruction`; `None` if it does not go on there.
fn after(instruction: &Instruction, mut state: State, info: &mut InstructionInfoFactory) -> Option<State> {
    match instruction.flow_control() {
        FlowControl::Next | FlowControl::ConditionalBranch => {}
        FlowControl::Call | FlowControl::IndirectCall => {
            // A callee keeps only the registers that the ABI says.
            for register in [0, 1, 2, 4, 5, 8, 9, 10, 11] {
                state.below[register] = None;
            }
            return Some(state);
        }
        _ => return None,
    }
    let operand = |index| number(instruction.op_register(index));
    let registers = instruction.op0_kind() == OpKind::Register && instruction.op1_kind() == OpKind::Register;
    let sp = usize::from(SP);
    let stored_at = |state: &State| {
        // Where a store through a register with a known distance goes, from the frame address.
        let base = number(instruction.memory_base())?;
        let is_plain = instruction.memory_index() == Name::None;
        let displacement = instruction.memory_displacement64() as i64;
        if is_plain { state.below[base].map(|below| displacement - below) } else { None }
    };
    let before = state;
    for used in info.info(instruction).used_registers() {
        let writes = matches!(
            used.access(),
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        );
        if writes && let Some(register) = number(used.register().full_register()) {
            state.below[register] = None;
            if register == usize::from(BP) && state.bp == CallerBp::Same {
                state.bp = CallerBp::Lost;
            }
        }
    }
    match instruction.mnemonic() {
        Mnemonic::Push => {
            state.below[sp] = before.below[sp].map(|below| below + 8);
            if instruction.op0_register() == Name::RBP && before.bp == CallerBp::Same {
                state.bp = slot(state.below[sp].map(|below| -below));
            }
        }
        Mnemonic::Pop => {
            state.below[sp] = before.below[sp].map(|below| below - 8);
            if instruction.op0_register() == Name::RBP {
                let from = before.below[sp].map(|below| -below);
                state.bp = if slot(from) == before.bp { CallerBp::Same } else { before.bp };
            }
        }
        Mnemonic::Sub | Mnemonic::Add if instruction.op0_register() == Name::RSP => {
            let amount = instruction.try_immediate(1).ok().map(|amount| amount as i64);
            let sign = if instruction.mnemonic() == Mnemonic::Sub { 1 } else { -1 };
            state.below[sp] = before.below[sp].zip(amount).map(|(below, amount)| below + sign * amount);
        }
        Mnemonic::Lea if instruction.memory_index() == Name::None => {
            if let (Some(to), Some(base)) = (operand(0), number(instruction.memory_base())) {
                let moved = instruction.memory_displacement64() as i64;
                state.below[to] = before.below[base].map(|below| below - moved);
            }
        }
        Mnemonic::Mov if registers => {
            if let (Some(to), Some(from)) = (operand(0), operand(1)) {
                state.below[to] = before.below[from];
            }
        }
        Mnemonic::Mov
            if instruction.op0_kind() == OpKind::Memory
                && instruction.op1_register() == Name::RBP
                && before.bp == CallerBp::Same =>
        {
            state.bp = stored_at(&before).map_or(CallerBp::Same, |at| slot(Some(at)));
        }
        Mnemonic::Mov if instruction.op0_register() == Name::RBP && instruction.op1_kind() == OpKind::Memory => {
            let from = stored_at(&before);
            state.bp = if slot(from) == before.bp { CallerBp::Same } else { before.bp };
        }
        Mnemonic::Leave => {
            let bp = before.below[usize::from(BP)];
            state.below[sp] = bp.map(|below| below - 8);
            state.bp = if slot(bp.map(|below| -below)) == before.bp { CallerBp::Same } else { CallerBp::Lost };
        }
        _ => {}
    }
    Some(state)
}

fn slot(from_frame_address: Option<i64>) -> CallerBp {
    from_frame_address.and_then(|at| i32::try_from(at).ok()).map_or(CallerBp::Lost, CallerBp::AtCfa)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(found: &[(u64, u64, Rule)], address: u64) -> Rule {
        found.iter().find(|(start, end, _)| (*start..*end).contains(&address)).map_or(Rule::Unknown, |it| it.2)
    }

    fn sp(offset: i32, bp: CallerBp) -> Rule {
        Rule::Call { cfa: Cfa::At { register: SP, offset }, bp }
    }

    /// The way OpenBLAS's kernels begin and end: registers stored below, a stack aligned by hand, its old place in rbx.
    #[test]
    fn a_kernel() {
        let code = [
            0x48, 0x83, 0xec, 0x20, // 0: sub rsp, 32
            0x48, 0x89, 0x2c, 0x24, // 4: mov [rsp], rbp
            0x48, 0x89, 0x5c, 0x24, 0x08, // 8: mov [rsp+8], rbx
            0x48, 0x89, 0xe3, // 13: mov rbx, rsp
            0x48, 0x81, 0xe4, 0x00, 0xf0, 0xff, 0xff, // 16: and rsp, -4096
            0x31, 0xed, // 23: xor ebp, ebp
            0x75, 0xfc, // 25: jne 23
            0x48, 0x89, 0xdc, // 27: mov rsp, rbx
            0x48, 0x8b, 0x2c, 0x24, // 30: mov rbp, [rsp]
            0x48, 0x83, 0xc4, 0x20, // 34: add rsp, 32
            0xc3, // 38: ret
            0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, // padding
            0x55, // 48: push rbp
            0x5d, // 49: pop rbp
            0xc3, // 50: ret
            0xcc, 0x50, // something that nothing leads to
        ];
        let found = rules(&code, 0x1000);
        let saved = CallerBp::AtCfa(-40);
        let by_rbx = |bp| Rule::Call { cfa: Cfa::At { register: 3, offset: 40 }, bp };
        for (offset, rule) in [
            (0, sp(8, CallerBp::Same)),
            (4, sp(40, CallerBp::Same)),
            (8, sp(40, saved)),
            (16, sp(40, saved)),
            (23, by_rbx(saved)),
            (25, by_rbx(saved)),
            (30, sp(40, saved)),
            (34, sp(40, CallerBp::Same)),
            (38, sp(8, CallerBp::Same)),
            (40, Rule::Unknown),
            (48, sp(8, CallerBp::Same)),
            (49, sp(16, CallerBp::AtCfa(-16))),
            (50, sp(8, CallerBp::Same)),
            (52, Rule::Unknown),
        ] {
            assert_eq!(at(&found, 0x1000 + offset), rule, "{offset}");
        }
    }

    /// A place reached with two different stacks has no rule.
    #[test]
    fn disagreement() {
        let code = [
            0x74, 0x02, // 0: je 4
            0x50, // 2: push rax
            0x90, // 3: nop
            0xc3, // 4: ret
        ];
        let found = rules(&code, 0x1000);
        assert_eq!(at(&found, 0x1003), sp(16, CallerBp::Same));
        assert_eq!(at(&found, 0x1004), Rule::Unknown);
    }

    /// Whatever the bytes are.
    #[test]
    fn any_bytes() {
        let mut word = 1_u64;
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            word = word.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (word >> 56) as u8
        })
        .take(100_000)
        .collect();
        for from in 0..50 {
            let found = rules(&bytes[from..], from as u64);
            assert!(found.iter().all(|(start, end, _)| start < end));
        }
    }
}
