//! Stubs through which a module calls others: named by the function they jump to. x86-64 only; elsewhere they have no names.

use object::{Architecture, Object, ObjectSection, ObjectSymbol, ObjectSymbolTable, RelocationTarget};
use rustc_hash::FxHashMap;
use std::cell::OnceCell;

const SECTIONS: [&str; 3] = [".plt", ".plt.sec", ".plt.got"];

pub struct Plt<'f, 'a> {
    file: &'f object::File<'a>,
    stubs: Vec<Stubs<'a>>,
    /// The function whose address a slot of the offset table holds. Read when the first stub is asked for.
    slots: OnceCell<FxHashMap<u64, &'a [u8]>>,
}

struct Stubs<'a> {
    address: u64,
    bytes: &'a [u8],
    entry_bytes: u64,
}

impl<'f, 'a> Plt<'f, 'a> {
    pub fn new(file: &'f object::File<'a>) -> Self {
        let known = file.architecture() == Architecture::X86_64;
        let stubs = SECTIONS.iter().filter(|_| known).filter_map(|name| {
            let section = file.section_by_name(name)?;
            let entry_bytes = if section.align() < 16 { 8 } else { 16 };
            Some(Stubs { address: section.address(), bytes: section.data().ok()?, entry_bytes })
        });
        Self { file, stubs: stubs.collect(), slots: OnceCell::new() }
    }

    /// Start and target of the stub at an address.
    pub fn at(&self, address: u64) -> Option<(u64, &'a [u8])> {
        let stubs = self
            .stubs
            .iter()
            .find(|stubs| address.checked_sub(stubs.address).is_some_and(|offset| offset < stubs.bytes.len() as u64))?;
        let offset = (address - stubs.address) / stubs.entry_bytes * stubs.entry_bytes;
        let start = stubs.address + offset;
        let rest = stubs.bytes.get(offset as usize..)?;
        let entry = rest.get(..stubs.entry_bytes as usize).unwrap_or(rest);
        let slots = self.slots.get_or_init(|| slots(self.file));
        Some((start, *slots.get(&target_slot(entry, start)?)?))
    }
}

/// The slot that a stub jumps through: `[endbr64] [bnd] jmp *offset(%rip)`.
fn target_slot(entry: &[u8], start: u64) -> Option<u64> {
    const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
    let mut code = entry.strip_prefix(ENDBR64).unwrap_or(entry);
    code = code.strip_prefix(&[0xf2]).unwrap_or(code);
    let operand = code.strip_prefix(&[0xff, 0x25])?.first_chunk::<4>()?;
    let length = (entry.len() - code.len() + 6) as u64;
    start.checked_add(length)?.checked_add_signed(i64::from(i32::from_le_bytes(*operand)))
}

fn slots<'a>(file: &object::File<'a>) -> FxHashMap<u64, &'a [u8]> {
    let (Some(symbols), Some(relocations)) = (file.dynamic_symbol_table(), file.dynamic_relocations()) else {
        return FxHashMap::default();
    };
    let named = relocations.filter_map(|(address, relocation)| {
        let RelocationTarget::Symbol(index) = relocation.target() else { return None };
        let name = symbols.symbol_by_index(index).ok()?.name_bytes().ok()?;
        (!name.is_empty()).then_some((address, name))
    });
    named.collect()
}
