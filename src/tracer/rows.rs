//! A thread's tree as the world sees it: rows that never move, with counters one thread writes and any thread reads.
//!
//! A row's place is published after it is filled (`len`, release/acquire); counters are single words and may be a moment old.
#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// What a row counts.
pub const CALLS: usize = 0;
pub const SELF_TICKS: usize = 1;
pub const RESUMES: usize = 2;
pub const AWAIT_TICKS: usize = 3;
pub const EXCEPTIONS: usize = 4;
pub const CANCELLATIONS: usize = 5;
pub const COUNTERS: usize = 6;
pub type Counts = [u64; COUNTERS];

/// The row of the empty stack.
pub const ROOT: u32 = 0;

const FIRST_CHUNK: u32 = 64;
const CHUNKS: usize = 24;

#[derive(Default, Debug)]
pub struct Row {
    pub parent: AtomicU32,
    pub function: AtomicU32,
    pub kind: AtomicU32,
    /// Its own place.
    index: AtomicU32,
    /// The child found last, for its owner.
    pub recent_key: AtomicU64,
    pub recent_child: AtomicPtr<Row>,
    counters: [AtomicU64; COUNTERS],
}

impl Row {
    /// By the owner only: no other thread's addition can come in between.
    #[inline]
    pub fn add(&self, counter: usize, value: u64) {
        let counter = &self.counters[counter];
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
    }

    #[inline]
    pub fn index(&self) -> u32 {
        self.index.load(Ordering::Relaxed)
    }

    #[inline]
    pub fn get(&self, counter: usize) -> u64 {
        self.counters[counter].load(Ordering::Relaxed)
    }
}

/// A copy of a row.
#[derive(Clone, Copy, Debug)]
pub struct Copied {
    pub parent: u32,
    pub function: u32,
    pub counts: Counts,
}

#[derive(Debug)]
pub struct Rows {
    len: AtomicU32,
    /// Each twice as long as the one before.
    chunks: [OnceLock<Box<[Row]>>; CHUNKS],
}

/// Bytes of a row and of its place in its owner's index.
pub const BYTES_PER_ROW: u64 = size_of::<Row>() as u64 + 24;

impl Rows {
    /// Holds the root.
    #[must_use]
    pub fn new() -> Self {
        let rows = Self { len: AtomicU32::new(0), chunks: [const { OnceLock::new() }; CHUNKS] };
        rows.push(ROOT, u32::MAX, 0);
        rows
    }

    #[inline]
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len.load(Ordering::Acquire)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// A row below `len`; the root for any other.
    #[inline]
    #[must_use]
    pub fn get(&self, index: u32) -> &Row {
        let place = index + FIRST_CHUNK;
        let chunk = place.ilog2() - FIRST_CHUNK.ilog2();
        let offset = place - (FIRST_CHUNK << chunk);
        match self.chunks.get(chunk as usize).and_then(OnceLock::get) {
            Some(rows) => &rows[offset as usize],
            None => self.get(ROOT),
        }
    }

    /// By the owner only.
    pub fn push(&self, parent: u32, function: u32, kind: u32) -> u32 {
        let index = self.len.load(Ordering::Relaxed);
        let chunk = (index + FIRST_CHUNK).ilog2() - FIRST_CHUNK.ilog2();
        self.chunks[chunk as usize].get_or_init(|| (0..FIRST_CHUNK << chunk).map(|_| Row::default()).collect());
        let row = self.get(index);
        row.index.store(index, Ordering::Relaxed);
        row.parent.store(parent, Ordering::Relaxed);
        row.function.store(function, Ordering::Relaxed);
        row.kind.store(kind, Ordering::Relaxed);
        self.len.store(index + 1, Ordering::Release);
        index
    }

    #[must_use]
    pub fn copy(&self) -> Vec<Copied> {
        let copied = |index| {
            let row = self.get(index);
            Copied {
                parent: row.parent.load(Ordering::Relaxed),
                function: row.function.load(Ordering::Relaxed),
                counts: std::array::from_fn(|counter| row.get(counter)),
            }
        };
        (0..self.len()).map(copied).collect()
    }
}

impl Default for Rows {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows stay where they are and keep what they hold, across every boundary of chunks.
    #[test]
    fn rows_keep_their_place() {
        let rows = Rows::new();
        for i in 1..1000 {
            assert_eq!(rows.push(i / 2, i * 3, 0), i);
            rows.get(i).add(CALLS, u64::from(i));
        }
        let copy = rows.copy();
        assert_eq!(copy.len(), 1000);
        for i in 1..1000 {
            let row = copy[i as usize];
            assert_eq!((row.parent, row.function, row.counts[CALLS]), (i / 2, i * 3, u64::from(i)));
        }
    }
}
