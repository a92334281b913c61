//! Symbols by address. One covers an address within its size, and no further.
//!
//! Functions written in assembler may have the size 0. Such a one is believed up to the next symbol of its section, if the
//! file lists all its symbols (not only the exported ones) and no function known to the unwind tables begins in between.

use crate::frames::Functions;
use object::elf::{STB_LOCAL, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE};
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags, SymbolFlags};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Symbol<'a> {
    pub name: &'a [u8],
    pub start: u64,
}

#[derive(Clone, Copy)]
struct Row<'a> {
    start: u64,
    /// Of a symbol without a size: the end of its section.
    end: u64,
    sized: bool,
    indirect: bool,
    local: bool,
    name: &'a [u8],
}

pub struct Symbols<'a> {
    /// By start; of those with one start, the one to name first.
    rows: Vec<Row<'a>>,
    /// The highest end among the sized rows up to here.
    reach: Vec<u64>,
    functions: Functions<'a>,
}

impl<'a> Symbols<'a> {
    /// The symbols of a file, and those its debug file has in addition.
    pub fn new(file: &object::File<'a>, debug: Option<&object::File<'a>>) -> Self {
        let mut rows = Vec::new();
        for of in [Some(file), debug].into_iter().flatten() {
            rows.extend(of.symbols().filter_map(|symbol| row(of, &symbol, true)));
        }
        rows.extend(file.dynamic_symbols().filter_map(|symbol| row(file, &symbol, false)));
        rows.sort_by_key(|row| {
            let underscores = row.name.iter().take_while(|&&byte| byte == b'_').count();
            (row.start, !row.sized, row.indirect, row.local, underscores, row.name.len(), row.name)
        });
        let mut highest = 0;
        let reach = rows.iter().map(|row| {
            highest = highest.max(if row.sized { row.end } else { 0 });
            highest
        });
        Self { reach: reach.collect(), rows, functions: Functions::new(file) }
    }

    /// The symbol whose range holds the address: the innermost one, by its best name.
    pub fn at(&self, address: u64) -> Option<Symbol<'a>> {
        let behind = self.rows.partition_point(|row| row.start <= address);
        let symbol = self.sized(behind, address).or_else(|| self.unsized_(behind, address))?;
        Some(Symbol { name: symbol.name, start: self.whole(&symbol) })
    }

    /// Whether there is a function of this name.
    pub fn defines(&self, name: &[u8]) -> bool {
        self.rows.iter().any(|row| row.name == name)
    }

    /// Where the unwind tables say that the function at an address begins.
    pub fn function_start(&self, address: u64) -> Option<u64> {
        self.functions.start(address)
    }

    fn sized(&self, behind: usize, address: u64) -> Option<Row<'a>> {
        let mut found: Option<Row<'a>> = None;
        for i in (0..behind).rev() {
            let row = self.rows[i];
            if self.reach[i] <= address || found.is_some_and(|found| found.start != row.start) {
                break;
            }
            if row.sized && row.end > address {
                found = Some(row);
            }
        }
        found
    }

    fn unsized_(&self, behind: usize, address: u64) -> Option<Row<'a>> {
        let last = *self.rows.get(behind.checked_sub(1)?)?;
        let first = self.rows.partition_point(|row| row.start < last.start);
        let row = self.rows[first..behind].iter().find(|row| !row.sized && address < row.end)?;
        // A sized symbol of the same start says where the code ends.
        if self.rows[first].sized || self.functions.start(address).is_some_and(|start| start > row.start) {
            return None;
        }
        Some(*row)
    }

    /// The start of the function that this is a part of, where the compiler moved its unlikely code elsewhere.
    fn whole(&self, part: &Row<'a>) -> u64 {
        let name = without_part(part.name);
        if name.len() == part.name.len() {
            return part.start;
        }
        // Static functions of one name leave it open which one it is.
        let mut starts = self.rows.iter().filter(|row| row.name == name && row.sized).map(|row| row.start);
        let first = starts.next().unwrap_or(part.start);
        if starts.all(|start| start == first) { first } else { part.start }
    }
}

/// The name of the function, from that of its unlikely code (`name.cold`, `name.cold.3`).
pub fn without_part(name: &[u8]) -> &[u8] {
    const COLD: &[u8] = b".cold";
    match name.windows(COLD.len()).position(|window| window == COLD) {
        Some(at) if name[at + COLD.len()..].iter().all(|&byte| byte == b'.' || byte.is_ascii_digit()) => &name[..at],
        _ => name,
    }
}

fn row<'a>(file: &object::File<'a>, symbol: &object::Symbol<'a, '_>, complete: bool) -> Option<Row<'a>> {
    let SymbolFlags::Elf { st_info, .. } = symbol.flags() else { return None };
    let kind = st_info.st_type();
    if ![STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE].contains(&kind) {
        return None;
    }
    let sized = symbol.size() > 0;
    let name = symbol.name_bytes().ok()?;
    // `$x` and the like mark what kind of bytes follow, on ARM.
    if name.is_empty() || name[0] == b'$' || (!sized && !complete) {
        return None;
    }
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let SectionFlags::Elf { sh_flags, .. } = section.flags() else { return None };
    if !sh_flags.contains(object::elf::SHF_EXECINSTR) {
        return None;
    }
    let start = symbol.address();
    let end = if sized { start.checked_add(symbol.size())? } else { section.address().checked_add(section.size())? };
    let (indirect, local) = (kind == STT_GNU_IFUNC, st_info.st_bind() == STB_LOCAL);
    Some(Row { start, end, sized, indirect, local, name })
}
