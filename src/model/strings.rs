//! Interned byte strings (WTF-8: Python names may hold lone surrogates): one arena, one hash index.

use crate::ids::StringId;
use hashbrown::HashTable;
use rustc_hash::FxHasher;
use std::hash::Hasher;

/// Names for what the memory limit refuses; they always find room.
pub(crate) const MEMORY_LIMIT: &[u8] = b"<memory limit>";
pub(crate) const SEVERAL_THREADS: &[u8] = b"<several threads>";
const STAND_IN_BYTES: usize = MEMORY_LIMIT.len() + SEVERAL_THREADS.len();

#[derive(Clone, Debug)]
pub(crate) struct Strings {
    bytes: Vec<u8>,
    /// `ends[i]` is where string `i` ends in `bytes`; it starts where the one before ends.
    ends: Vec<u32>,
    index: HashTable<u32>,
}

impl Strings {
    pub fn new() -> Self {
        let mut strings = Self { bytes: Vec::new(), ends: Vec::new(), index: HashTable::new() };
        strings.insert(b"");
        strings
    }

    pub fn find(&self, string: &[u8]) -> Option<StringId> {
        self.index.find(hash(string), |&i| self.at(i) == string).map(|&i| StringId(i))
    }

    /// Inserts a string that `find` did not find.
    pub fn insert(&mut self, string: &[u8]) -> StringId {
        let id = self.ends.len() as u32;
        self.bytes.extend_from_slice(string);
        self.ends.push(self.bytes.len() as u32);
        let (bytes, ends) = (&self.bytes, &self.ends);
        self.index.insert_unique(hash(string), id, |&i| hash(slice(bytes, ends, i)));
        StringId(id)
    }

    /// Bytes the tables would grow by if a string of `len` bytes were inserted and room kept for the two stand-ins; `None`: it
    /// cannot be.
    pub fn growth(&self, len: usize) -> Option<u64> {
        let len = len + STAND_IN_BYTES;
        if self.bytes.len() + len > u32::MAX as usize {
            return None;
        }
        Some(vec_growth(&self.bytes, len) + vec_growth(&self.ends, 3) + table_growth(&self.index, 3))
    }

    pub fn get(&self, id: StringId) -> &[u8] {
        self.at(id.0)
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn memory_bytes(&self) -> u64 {
        (self.bytes.capacity() + self.ends.capacity() * 4 + self.index.allocation_size()) as u64
    }

    fn at(&self, i: u32) -> &[u8] {
        slice(&self.bytes, &self.ends, i)
    }
}

fn slice<'a>(bytes: &'a [u8], ends: &[u32], i: u32) -> &'a [u8] {
    let start = if i == 0 { 0 } else { ends[i as usize - 1] as usize };
    &bytes[start..ends[i as usize] as usize]
}

fn hash(string: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(string);
    hasher.finish()
}

/// Bytes a vector grows by when `more` items are pushed (`Vec` doubles).
pub(crate) fn vec_growth<T>(vec: &Vec<T>, more: usize) -> u64 {
    if vec.len() + more <= vec.capacity() {
        return 0;
    }
    let capacity = (vec.capacity() * 2).max(vec.len() + more).max(8);
    ((capacity - vec.capacity()) * size_of::<T>()) as u64
}

/// Bytes a table grows by when a few items are inserted (it doubles its buckets).
pub(crate) fn table_growth<T>(table: &HashTable<T>, more: usize) -> u64 {
    if table.len() + more <= table.capacity() { 0 } else { table.allocation_size().max(64) as u64 }
}
