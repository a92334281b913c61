//! Line tables: from an instruction's byte offset to its line. Pure, bounded, and total: garbage gives `None`, no panic.
//!
//! CPython had three formats: `co_lnotab` (3.9), `co_linetable` of 3.10 (PEP 626), and the location table of 3.11+
//! (InternalDocs/code_objects.md). Each is decoded once a code object into a sorted table of the places where the line
//! changes; a lookup is a binary search.
#![forbid(unsafe_code)]

use spprof_sigsafe::layout::LineTable;

/// A stretch of instructions with one line, up to the start of the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stretch {
    start: u32,
    /// [`NO_LINE`] for instructions that stem from no line.
    line: u32,
}

const NO_LINE: u32 = u32::MAX;

/// The lines of one code object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LineMap {
    first_line: u32,
    stretches: Box<[Stretch]>,
}

impl LineMap {
    /// Decodes `table`, whatever it holds.
    #[must_use]
    pub fn decode(kind: LineTable, table: &[u8], first_line: u32) -> Self {
        let mut out = Builder { address: 0, line: i64::from(first_line), stretches: Vec::new() };
        match kind {
            LineTable::Lnotab => decode_lnotab(table, &mut out),
            LineTable::Linetable310 => decode_linetable_310(table, &mut out),
            LineTable::Locations => decode_locations(table, &mut out),
        }
        Self { first_line, stretches: out.stretches.into_boxed_slice() }
    }

    /// The line of the instruction at `offset` bytes from the first one; `None` when it has none.
    ///
    /// CPYTHON: a frame that has not begun yet points before its first instruction; it is at its first line.
    #[inline]
    #[must_use]
    pub fn line_at(&self, offset: i64) -> Option<u32> {
        if offset < 0 {
            return Some(self.first_line);
        }
        let offset = u32::try_from(offset).ok()?;
        let after = self.stretches.partition_point(|stretch| stretch.start <= offset);
        let stretch = self.stretches.get(after.checked_sub(1)?)?;
        (stretch.line != NO_LINE).then_some(stretch.line)
    }

    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of_val::<[Stretch]>(&self.stretches)
    }
}

/// Where the decoder is, and what it found so far.
struct Builder {
    address: u32,
    line: i64,
    stretches: Vec<Stretch>,
}

impl Builder {
    fn move_line(&mut self, delta: i64) {
        self.line = self.line.saturating_add(delta);
    }

    /// The current line, as CPython gives it out: a negative number means none.
    fn line(&self) -> u32 {
        u32::try_from(self.line).ok().filter(|line| *line <= i32::MAX as u32).unwrap_or(NO_LINE)
    }

    /// From the current address on, the line is `line`.
    fn begin(&mut self, line: u32) {
        while self.stretches.last().is_some_and(|last| last.start == self.address) {
            self.stretches.pop();
        }
        if self.stretches.last().map(|last| last.line) != Some(line) {
            self.stretches.push(Stretch { start: self.address, line });
        }
    }

    /// The next `length` bytes of instructions have `line`.
    fn range(&mut self, length: u32, line: u32) {
        if length > 0 {
            self.begin(line);
            self.address = self.address.saturating_add(length);
        }
    }
}

/// Pairs (address increment, signed line increment); the last line goes on for ever.
fn decode_lnotab(table: &[u8], out: &mut Builder) {
    out.begin(out.line());
    for &[advance, delta] in table.as_chunks::<2>().0 {
        out.address = out.address.saturating_add(u32::from(advance));
        out.move_line(i64::from(delta as i8));
        out.begin(out.line());
    }
}

/// Pairs (length of the range, signed line increment from the previous range that had a line).
fn decode_linetable_310(table: &[u8], out: &mut Builder) {
    const WITHOUT_LINE: i8 = -128;
    for &[length, delta] in table.as_chunks::<2>().0 {
        let line = match delta as i8 {
            WITHOUT_LINE => NO_LINE,
            delta => {
                out.move_line(i64::from(delta));
                out.line()
            }
        };
        out.range(u32::from(length), line);
    }
    out.begin(NO_LINE);
}

/// Entries that begin with a byte whose top bit is set: `1 cccc lll`, code and length in 2-byte units less one. What
/// follows, up to the next such byte, is the line increment and columns, as the code says.
fn decode_locations(table: &[u8], out: &mut Builder) {
    let mut rest = table;
    while let Some((&head, tail)) = rest.split_first() {
        if head & 0x80 == 0 {
            break;
        }
        let length = (u32::from(head & 7) + 1) * 2;
        let line = match (head >> 3) & 15 {
            15 => NO_LINE,
            code => {
                out.move_line(match code {
                    13 | 14 => signed_varint(tail),
                    10..=12 => i64::from(code) - 10,
                    _ => 0,
                });
                out.line()
            }
        };
        out.range(length, line);
        let payload = tail.iter().position(|byte| byte & 0x80 != 0).unwrap_or(tail.len());
        rest = tail.get(payload..).unwrap_or_default();
    }
    out.begin(NO_LINE);
}

/// Six bits a byte, lowest first, bit 6 set when more follow; the lowest bit of the whole is the sign.
fn signed_varint(bytes: &[u8]) -> i64 {
    /// An increment is a C int: 33 bits with its sign.
    const MAX_BYTES: usize = 6;
    let mut value: u64 = 0;
    for (position, byte) in bytes.iter().take(MAX_BYTES).enumerate() {
        value |= u64::from(byte & 0x3f) << (6 * position);
        if byte & 0x40 == 0 {
            break;
        }
    }
    let magnitude = (value >> 1) as i64;
    if value & 1 != 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The example of CPython's Objects/lnotab_notes.txt, and what `PyCode_Addr2Line` gives on both sides of each step.
    #[test]
    fn lnotab_steps() {
        let map = LineMap::decode(LineTable::Lnotab, &[0, 1, 6, 1, 44, 5, 255, 0, 45, 127, 0, 73, 2, 0xff], 1);
        let at = |offset| map.line_at(offset).unwrap();
        assert_eq!([at(-1), at(0), at(5), at(6), at(49), at(50)], [1, 2, 2, 3, 3, 8]);
        assert_eq!([at(305), at(349), at(350), at(352), at(1 << 20)], [8, 8, 208, 207, 207]);
    }

    /// Empty ranges move the line only; -128 has no line and leaves the count alone; nothing after the end.
    #[test]
    fn linetable_310_ranges() {
        let map = LineMap::decode(LineTable::Linetable310, &[4, 1, 2, 0x80, 0, 100, 6, 1, 2, 0xfe], 10);
        let lines: Vec<_> = (0..8).map(|i| map.line_at(i * 2)).collect();
        let expected = [Some(11), Some(11), None, Some(112), Some(112), Some(112), Some(110), None];
        assert_eq!(lines, expected);
        assert_eq!(map.line_at(-2), Some(10));
    }

    /// One entry of each code: short, one-line, no column, long, none.
    #[test]
    fn location_codes() {
        let table = [
            0x80,
            0x00, // code 0, 1 unit: same line
            0x80 | (11 << 3) | 1,
            3,
            4, // code 11, 2 units: next line
            0x80 | (13 << 3),
            0x05, // code 13: -2
            0x80 | (14 << 3),
            0x48,
            0x03,
            0,
            1,
            2,                    // code 14: varint 0b000011_001000 = 200 -> +100
            0x80 | (15 << 3) | 7, // code 15, 8 units
        ];
        let map = LineMap::decode(LineTable::Locations, &table, 7);
        let lines: Vec<_> = (0..6).map(|i| map.line_at(i * 2)).collect();
        assert_eq!(lines, [Some(7), Some(8), Some(8), Some(6), Some(106), None]);
        assert_eq!(map.line_at(24), None);
    }

    fn any_kind() -> impl Strategy<Value = LineTable> {
        prop_oneof![Just(LineTable::Lnotab), Just(LineTable::Linetable310), Just(LineTable::Locations)]
    }

    proptest! {
        /// Any bytes decode to a sorted table of at most one stretch an entry, and every lookup ends.
        #[test]
        fn garbage_is_harmless(kind in any_kind(), table: Vec<u8>, first: u32, offset: i64) {
            let map = LineMap::decode(kind, &table, first);
            prop_assert!(map.stretches.is_sorted_by(|a, b| a.start < b.start));
            prop_assert!(map.stretches.len() <= table.len() + 1);
            for offset in [offset, i64::from(offset as u16), i64::from(offset as u8)] {
                prop_assert!(map.line_at(offset).is_none_or(|line| line <= i32::MAX as u32 || offset < 0));
            }
        }
    }
}
