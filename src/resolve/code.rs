//! Reading a code object from raw memory: name, file, first line, line table. Runs on the resolver thread, without the GIL.
//!
//! The object is kept alive by [`super::lifetime`], so its parts do not move; still nothing is believed. Types are checked
//! before fields are used, lengths are bounded, every load is guarded, and what does not fit is [`Unresolved`], never a guess.
//!
//! CPYTHON 3.9, 3.10: code objects have no qualified name; `co_name` stands in for it (`method`, not `Class.method`).
#![forbid(unsafe_code)]

use super::lines::LineMap;
use super::memory::Memory;
use spprof_sigsafe::layout::Layout;

/// Why a code object could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unresolved {
    /// The address holds no code object.
    NotCode,
    /// Some of its memory is not mapped.
    Unreadable,
    /// Name or file is not a string that makes sense.
    BadString,
    /// The line table is not a bytes object that makes sense.
    BadTable,
}

/// What a profile keeps of a code object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CodeInfo {
    /// WTF-8, as the file is: Python strings may hold lone surrogates.
    pub name: Vec<u8>,
    pub file: Vec<u8>,
    pub first_line: u32,
    pub lines: LineMap,
    /// Hash of name and line table: equal for code that is compiled again, different for two lambdas on one line
    /// (3.11+, where the table holds columns; unless `-X no_debug_ranges` leaves them out).
    pub discriminator: u64,
}

/// Longest name or file kept, in bytes; a longer one is cut and ends in `…`.
pub const MAX_NAME_BYTES: usize = 16 * 1024;
const CUT_MARK: &[u8] = "…".as_bytes();
/// Longest line table believed: some 10 million instructions.
const MAX_TABLE_BYTES: usize = 64 << 20;

/// CPYTHON: `tp_flags` is the 15th pointer-sized field after `tp_dealloc` in every version.
const FLAGS_AFTER_DEALLOC: usize = 15 * 8;
const BYTES_SUBCLASS: u32 = 1 << 27;
const UNICODE_SUBCLASS: u32 = 1 << 28;

/// Reads the code object at `code`.
pub fn read(memory: &impl Memory, layout: &Layout, code_type: usize, code: usize) -> Result<CodeInfo, Unresolved> {
    let object = Object { memory, layout, address: code };
    if object.word(layout.ob_type) != Ok(code_type) {
        return Err(Unresolved::NotCode);
    }
    // CPYTHON: `int co_firstlineno`; `code.replace` can make it negative.
    let first_line = object.u32(layout.code_firstlineno)? as i32;
    let first_line = u32::try_from(first_line).unwrap_or(0);
    let name = object.field(layout.code_qualname)?.string()?;
    let file = read_file(&object)?;
    let table = object.field(layout.code_linetable)?.bytes()?;
    Ok(CodeInfo {
        first_line,
        discriminator: fnv1a(fnv1a(FNV_OFFSET, &name), &table),
        lines: LineMap::decode(layout.lines, &table, first_line),
        name,
        file,
    })
}

/// CPYTHON: importlib replaces `co_filename` of code from a moved `.pyc` and drops the old string, so the field is read
/// again: unchanged means that the string was alive while it was copied.
fn read_file<M: Memory>(code: &Object<'_, M>) -> Result<Vec<u8>, Unresolved> {
    const ATTEMPTS: usize = 3;
    for _ in 0..ATTEMPTS {
        let string = code.field(code.layout.code_filename)?;
        let file = string.string();
        if code.field(code.layout.code_filename)?.address == string.address {
            return file;
        }
    }
    Err(Unresolved::BadString)
}

/// A Python object somewhere in memory.
struct Object<'a, M> {
    memory: &'a M,
    layout: &'a Layout,
    address: usize,
}

impl<M: Memory> Object<'_, M> {
    fn at(&self, offset: usize) -> usize {
        self.address.wrapping_add(offset)
    }

    fn word(&self, offset: usize) -> Result<usize, Unresolved> {
        self.memory.word(self.at(offset)).ok_or(Unresolved::Unreadable)
    }

    fn u32(&self, offset: usize) -> Result<u32, Unresolved> {
        self.memory.u32(self.at(offset)).ok_or(Unresolved::Unreadable)
    }

    fn field(&self, offset: usize) -> Result<Self, Unresolved> {
        Ok(Self { address: self.word(offset)?, ..*self })
    }

    fn is_a(&self, subclass_flag: u32) -> Result<bool, Unresolved> {
        let class = self.field(self.layout.ob_type)?;
        Ok(class.u32(self.layout.type_dealloc + FLAGS_AFTER_DEALLOC)? & subclass_flag != 0)
    }

    fn copy(&self, offset: usize, length: usize) -> Result<Vec<u8>, Unresolved> {
        let mut out = vec![0; length];
        if self.memory.copy(self.at(offset), &mut out) { Ok(out) } else { Err(Unresolved::Unreadable) }
    }

    fn bytes(&self) -> Result<Vec<u8>, Unresolved> {
        let length = self.word(self.layout.bytes_size)?;
        if !self.is_a(BYTES_SUBCLASS)? || length > MAX_TABLE_BYTES {
            return Err(Unresolved::BadTable);
        }
        self.copy(self.layout.bytes_data, length)
    }

    /// A `str` of any kind, as WTF-8.
    fn string(&self) -> Result<Vec<u8>, Unresolved> {
        let layout = self.layout;
        let length = self.word(layout.str_length)?;
        if !self.is_a(UNICODE_SUBCLASS)? || length > isize::MAX as usize {
            return Err(Unresolved::BadString);
        }
        let bits = layout.str_bits;
        let state = self.u32(layout.str_state)?;
        let width = (state >> bits.kind_shift & 7) as usize;
        let compact = state >> bits.compact_shift & 1 != 0;
        let ascii = state >> bits.ascii_shift & 1 != 0;
        let data = match (compact, ascii) {
            (true, true) => Self { address: self.at(layout.sizeof_ascii), ..*self },
            (true, false) => Self { address: self.at(layout.sizeof_compact), ..*self },
            // Instances of subclasses keep their characters in a block of their own.
            (false, _) => self.field(layout.sizeof_compact)?,
        };
        // No more characters than could be kept: one byte of output each, at least.
        let units = data.copy(0, length.min(MAX_NAME_BYTES + 1).saturating_mul(width))?;
        let mut out = Wtf8::default();
        match width {
            1 => units.iter().for_each(|unit| out.push(u32::from(*unit))),
            2 => units.as_chunks().0.iter().for_each(|unit| out.push(u32::from(u16::from_ne_bytes(*unit)))),
            4 => units.as_chunks().0.iter().for_each(|unit| out.push(u32::from_ne_bytes(*unit))),
            // CPYTHON 3.9-3.11: 0 is a string not yet in its final form; code objects never hold one.
            _ => return Err(Unresolved::BadString),
        }
        out.finish()
    }
}

/// Collects code points as WTF-8 up to [`MAX_NAME_BYTES`]. Surrogates stay as they are, each one three bytes: just what
/// Python's `surrogatepass` reads back.
#[derive(Default)]
struct Wtf8 {
    bytes: Vec<u8>,
    /// Where the text is cut if it turns out too long.
    cut: usize,
    full: bool,
    invalid: bool,
}

impl Wtf8 {
    fn push(&mut self, point: u32) {
        let tail = |shift: u32| 0x80 | (point >> shift & 0x3f) as u8;
        let (bytes, length) = match point {
            0..=0x7f => ([point as u8, 0, 0, 0], 1),
            0x80..=0x7ff => ([0xc0 | (point >> 6) as u8, tail(0), 0, 0], 2),
            0x800..=0xffff => ([0xe0 | (point >> 12) as u8, tail(6), tail(0), 0], 3),
            0x1_0000..=0x10_ffff => ([0xf0 | (point >> 18) as u8, tail(12), tail(6), tail(0)], 4),
            _ => {
                self.invalid = true;
                return;
            }
        };
        if self.full || self.bytes.len() + length > MAX_NAME_BYTES {
            self.full = true;
            return;
        }
        self.bytes.extend_from_slice(&bytes[..length]);
        if self.bytes.len() <= MAX_NAME_BYTES - CUT_MARK.len() {
            self.cut = self.bytes.len();
        }
    }

    fn finish(mut self) -> Result<Vec<u8>, Unresolved> {
        if self.invalid {
            return Err(Unresolved::BadString);
        }
        if self.full {
            self.bytes.truncate(self.cut);
            self.bytes.extend_from_slice(CUT_MARK);
        }
        Ok(self.bytes)
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, because the value goes into files: it must not change with a library's version.
fn fnv1a(seed: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
