//! A module's `.eh_frame`, read once, to the table that a handler looks rules up in. Pure: bytes in, table out.
//!
//! What a compiler may say there goes far beyond what compilers do say; what we do not understand becomes
//! [`Rule::Unknown`], where a stack visibly ends, and never a guess.

use super::code;
use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, FrameDescriptionEntry, NativeEndian, Operation, Register,
    RegisterRule, UnwindContext, UnwindExpression, UnwindSection, X86_64,
};
use rustc_hash::FxHashMap;
use spprof_sigsafe::unwind::map::UNKNOWN;
use spprof_sigsafe::unwind::rule::{CallerBp, Cfa, Rule};
use std::ops::Range;

type Bytes<'a> = EndianSlice<'a, NativeEndian>;

/// The two sections as they are in memory, and where; addresses are those of the file.
#[derive(Clone, Debug, Default)]
pub struct Sections {
    pub hdr_address: u64,
    pub hdr: Vec<u8>,
    pub eh_frame_address: u64,
    pub eh_frame: Vec<u8>,
}

/// Every rule that occurs in the process, once.
#[derive(Debug)]
pub struct Rules {
    list: Vec<Rule>,
    index: FxHashMap<Rule, u16>,
}

impl Default for Rules {
    fn default() -> Self {
        let mut rules = Self { list: Vec::new(), index: FxHashMap::default() };
        assert_eq!(rules.intern(Rule::Unknown), UNKNOWN);
        rules
    }
}

impl Rules {
    fn intern(&mut self, rule: Rule) -> u16 {
        if let Some(index) = self.index.get(&rule) {
            return *index;
        }
        // More rules than have ever been seen together by two orders of magnitude.
        let Ok(index) = u16::try_from(self.list.len()) else { return UNKNOWN };
        self.list.push(rule);
        self.index.insert(rule, index);
        index
    }

    #[must_use]
    pub fn list(&self) -> &[Rule] {
        &self.list
    }
}

/// Distances from the module's first address, rising, and the rule from each to the next.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Table {
    pub starts: Vec<u32>,
    pub rules: Vec<u16>,
}

/// Between functions there is padding, which never runs.
const PADDING: u64 = 16;

#[derive(Clone, Copy)]
struct Row {
    start: u64,
    end: u64,
    rule: u16,
}

impl Table {
    /// The table of a module whose code is at the addresses `span` (as in its file). Entries that cannot be read are left out; what
    /// they leave out is looked at by its instructions, which `code_at` gives for a range of addresses.
    #[must_use]
    pub fn new(
        sections: &Sections,
        span: Range<u64>,
        rules: &mut Rules,
        code_at: impl Fn(Range<u64>) -> Option<Vec<u8>>,
    ) -> Self {
        let first = span.start;
        let mut rows = Vec::new();
        for_each_entry(sections, |eh_frame, bases, entry, context| {
            let before = rows.len();
            if add_rows(eh_frame, bases, entry, context, rules, &mut rows).is_err() {
                // Half an entry may end in a rule that holds only until a place we did not get to.
                rows.truncate(before);
            }
        });
        rows.sort_by_key(|row: &Row| row.start);
        let mut end = first;
        let described = rows.len();
        for gap in 0..=described {
            let row = rows.get(gap).filter(|_| gap < described).copied();
            let next = row.map_or(span.end, |row| row.start);
            // Not before the first row: there are the linker's own pieces of code.
            if gap > 0
                && next > end.saturating_add(PADDING)
                && let Some(bytes) = code_at(end..next)
            {
                let found = code::rules(&bytes, end);
                rows.extend(found.into_iter().map(|(start, end, rule)| Row { start, end, rule: rules.intern(rule) }));
            }
            end = end.max(row.map_or(span.end, |row| row.end));
        }
        rows.sort_by_key(|row: &Row| row.start);
        let mut table = Self::default();
        let mut end = first;
        for row in rows {
            if row.start < end && row.end <= end {
                continue;
            }
            if row.start > end.saturating_add(PADDING) || table.starts.is_empty() {
                table.put(end.wrapping_sub(first), UNKNOWN);
            }
            table.put(row.start.wrapping_sub(first), row.rule);
            end = row.end;
        }
        table.put(end.wrapping_sub(first), UNKNOWN);
        table.starts.shrink_to_fit();
        table.rules.shrink_to_fit();
        table
    }

    fn put(&mut self, start: u64, rule: u16) {
        let Ok(start) = u32::try_from(start) else { return };
        match (self.starts.last_mut(), self.rules.last_mut()) {
            (Some(last), Some(its)) if *last == start => *its = rule,
            (Some(last), _) if *last > start => {}
            (_, Some(its)) if *its == rule => {}
            _ => {
                self.starts.push(start);
                self.rules.push(rule);
            }
        }
    }

    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.starts.capacity() * size_of::<u32>() + self.rules.capacity() * size_of::<u16>()
    }
}

type Entry<'a> = FrameDescriptionEntry<Bytes<'a>>;

/// Gives every entry to `each`. By the header's index, which tells how many there are; the section's own end is not known.
fn for_each_entry<'a>(
    sections: &'a Sections,
    mut each: impl FnMut(&EhFrame<Bytes<'a>>, &BaseAddresses, &Entry<'a>, &mut UnwindContext<usize>),
) {
    let bases = BaseAddresses::default().set_eh_frame_hdr(sections.hdr_address).set_eh_frame(sections.eh_frame_address);
    let mut eh_frame = EhFrame::new(&sections.eh_frame, NativeEndian);
    eh_frame.set_address_size(8);
    let header = EhFrameHdr::new(&sections.hdr, NativeEndian);
    let Ok(header) = header.parse(&bases, 8) else { return };
    let mut context = UnwindContext::new();
    match header.table() {
        Some(index) => {
            let mut pointers = index.iter(&bases);
            while let Ok(Some((_, pointer))) = pointers.next() {
                let gimli::Pointer::Direct(address) = pointer else { continue };
                let inside = address.checked_sub(sections.eh_frame_address);
                if let Some(offset) = inside.filter(|offset| *offset < sections.eh_frame.len() as u64)
                    && let Ok(entry) =
                        eh_frame.fde_from_offset(&bases, (offset as usize).into(), EhFrame::cie_from_offset)
                {
                    each(&eh_frame, &bases, &entry, &mut context);
                }
            }
        }
        None => {
            let mut entries = eh_frame.entries(&bases);
            while let Ok(Some(entry)) = entries.next() {
                if let gimli::CieOrFde::Fde(partial) = entry
                    && let Ok(entry) = partial.parse(EhFrame::cie_from_offset)
                {
                    each(&eh_frame, &bases, &entry, &mut context);
                }
            }
        }
    }
}

fn add_rows<'a>(
    eh_frame: &EhFrame<Bytes<'a>>,
    bases: &BaseAddresses,
    entry: &Entry<'a>,
    context: &mut UnwindContext<usize>,
    rules: &mut Rules,
    rows: &mut Vec<Row>,
) -> gimli::Result<()> {
    let is_signal = entry.is_signal_trampoline();
    let encoding = entry.cie().encoding();
    let mut table = entry.rows(eh_frame, bases, context)?;
    while let Some(row) = table.next_row()? {
        if row.start_address() >= row.end_address() {
            continue;
        }
        let rule = if is_signal {
            Rule::Signal
        } else {
            let expression = |it: &UnwindExpression<usize>| operations(it, eh_frame, encoding);
            let bp = caller_bp(&row.register(X86_64::RBP), &expression);
            match (row.register(X86_64::RA), frame_address(row.cfa(), &expression)) {
                (Some(RegisterRule::Undefined), _) => Rule::Start,
                (Some(RegisterRule::Offset(-8)), Some(cfa)) => Rule::Call { cfa, bp },
                _ => Rule::Unknown,
            }
        };
        rows.push(Row { start: row.start_address(), end: row.end_address(), rule: rules.intern(rule) });
    }
    Ok(())
}

type Operations<'a> = Vec<Operation<Bytes<'a>>>;

fn operations<'a>(
    expression: &UnwindExpression<usize>,
    eh_frame: &EhFrame<Bytes<'a>>,
    encoding: gimli::Encoding,
) -> Option<Operations<'a>> {
    /// The longest that is understood, and one more.
    const MOST: usize = 10;
    let mut operations = Vec::new();
    let mut left = expression.get(eh_frame).ok()?.operations(encoding);
    while let Some(operation) = left.next().ok()? {
        operations.push(operation);
        if operations.len() == MOST {
            return None;
        }
    }
    Some(operations)
}

fn number(register: Register) -> Option<u8> {
    u8::try_from(register.0).ok().filter(|number| *number < 16)
}

fn frame_address<'a>(
    rule: &CfaRule<usize>,
    expression: &impl Fn(&UnwindExpression<usize>) -> Option<Operations<'a>>,
) -> Option<Cfa> {
    use Operation::{And, Deref, Ge, Plus, PlusConstant, RegisterOffset, Shl, UnsignedConstant};
    let small = |offset: i64| i32::try_from(offset).ok();
    match rule {
        CfaRule::RegisterAndOffset { register, offset } => {
            Some(Cfa::At { register: number(*register)?, offset: small(*offset)? })
        }
        CfaRule::Expression(it) => match expression(it)?.as_slice() {
            [RegisterOffset { register, offset, .. }, Deref { size: 8, .. }] => {
                Some(Cfa::Load { register: number(*register)?, offset: small(*offset)?, add: 0 })
            }
            [RegisterOffset { register, offset, .. }, Deref { size: 8, .. }, PlusConstant { value }]
            | [RegisterOffset { register, offset, .. }, Deref { size: 8, .. }, UnsignedConstant { value }, Plus] => {
                let add = i32::try_from(*value).ok()?;
                Some(Cfa::Load { register: number(*register)?, offset: small(*offset)?, add })
            }
            // What linkers write for the procedure linkage table:
            // sp + 8 + ((ip & 15) >= pushed) * 8
            [
                RegisterOffset { register: X86_64::RSP, offset: 8, .. },
                RegisterOffset { register: X86_64::RA, offset: 0, .. },
                UnsignedConstant { value: 15 },
                And,
                UnsignedConstant { value: pushed },
                Ge,
                UnsignedConstant { value: 3 },
                Shl,
                Plus,
            ] => Some(Cfa::Stub { pushed: u8::try_from(*pushed).ok()? }),
            _ => None,
        },
    }
}

fn caller_bp<'a>(
    rule: &Option<RegisterRule<usize>>,
    expression: &impl Fn(&UnwindExpression<usize>) -> Option<Operations<'a>>,
) -> CallerBp {
    let small = |offset: i64| i32::try_from(offset).ok();
    let found = match rule {
        // Not mentioned: by the ABI a callee leaves it as it was.
        None | Some(RegisterRule::SameValue) => Some(CallerBp::Same),
        Some(RegisterRule::Offset(offset)) => small(*offset).map(CallerBp::AtCfa),
        Some(RegisterRule::Expression(it)) => match expression(it).as_deref() {
            Some([Operation::RegisterOffset { register: X86_64::RBP, offset, .. }]) => {
                small(*offset).map(CallerBp::AtBp)
            }
            _ => None,
        },
        _ => None,
    };
    found.unwrap_or(CallerBp::Lost)
}
