//! Stacks, each once, with the figures of the blocks allocated there. Without locks; only grows, up to a limit.
//!
//! An entry is a row of words: who it is, its figures, its frames. It is written first and published then. A stack is known by
//! the addresses of its code objects, so an entry must not be found any more once one of them died ([`Entry::retire`]); its
//! figures stay. Figures of different stacks are on different cache lines where it matters: entries are longer than a line.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spprof_sigsafe::stack::{RawFrame, Stack};

/// Different stacks at most. Below it, `Table::limit` decides.
pub const MAX_STACKS: usize = 1 << 16;
const SLOTS: usize = MAX_STACKS * 2;
/// Words for all entries: 128 frames each on average.
const ARENA_WORDS: usize = MAX_STACKS * (figure::COUNT + HEADER + 2 * 128);
/// Steps of a search: with half of the slots empty, a run of this length does not occur.
const PROBES: usize = 256;

const HEADER: usize = 5;
/// Where the words of an entry are.
mod word {
    pub const HASH: usize = 0;
    /// Frames, and frames left out << 32.
    pub const LENGTH: usize = 1;
    /// Return address of the hook, 0 for Python's own blocks; bit 63: the Python frames could not be followed.
    pub const CALLER: usize = 2;
    /// The run it belongs to; 0: retired.
    pub const RUN: usize = 3;
    /// What the resolver made of it, plus one.
    pub const NODE: usize = 4;
}

/// The figures of an entry, as words after the header. Sums over blocks, in whole-number weights.
pub mod figure {
    pub const SAMPLES: usize = 0;
    pub const ALLOC_BYTES: usize = 1;
    pub const ALLOC_COUNT: usize = 2;
    pub const FREED_SAMPLES: usize = 3;
    pub const FREED_BYTES: usize = 4;
    pub const FREED_COUNT: usize = 5;
    /// Of the freed samples, unweighted.
    pub const LIFETIME_NS: usize = 6;
    /// Freed soon after they were allocated.
    pub const TEMPORARY_BYTES: usize = 7;
    pub const TEMPORARY_COUNT: usize = 8;
    /// Estimated variance of ALLOC_BYTES and of ALLOC_COUNT: `f64`.
    pub const BYTES_VARIANCE: usize = 9;
    pub const COUNT_VARIANCE: usize = 10;
    /// The peak for which the next two were noted.
    pub const PEAK: usize = 11;
    pub const PEAK_BYTES: usize = 12;
    pub const PEAK_COUNT: usize = 13;
    pub const COUNT: usize = 14;
}

/// Marks a caller whose thread's Python frames could not be followed.
pub const BROKEN: u64 = 1 << 63;

/// All zero is an empty table.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Table {
    /// Where the entry of a hash is in the arena.
    slots: [AtomicU32; SLOTS],
    /// Entries in the order of their publication.
    order: [AtomicU32; MAX_STACKS],
    count: AtomicU32,
    used: AtomicU32,
    arena: [AtomicU64; ARENA_WORDS],
}

/// One stack. By the number that stands for it: where it begins in the arena.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    words: &'a [AtomicU64],
    pub id: u32,
}

impl<'a> Entry<'a> {
    fn get(&self, at: usize) -> u64 {
        self.words.get(at).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn put(&self, at: usize, value: u64) {
        if let Some(word) = self.words.get(at) {
            word.store(value, Ordering::Release);
        }
    }

    #[must_use]
    pub fn frames(&self) -> impl DoubleEndedIterator<Item = RawFrame> + ExactSizeIterator + 'a {
        let len = (self.get(word::LENGTH) & 0xffff_ffff) as usize;
        let from = HEADER.wrapping_add(figure::COUNT);
        let words = self.words.get(from..from.wrapping_add(len.wrapping_mul(2))).unwrap_or(&[]);
        words.as_chunks::<2>().0.iter().map(|[code, offset]| RawFrame {
            code: code.load(Ordering::Relaxed) as usize,
            offset: offset.load(Ordering::Relaxed) as i64,
        })
    }

    /// Frames left out between the leaf end and the root end.
    #[must_use]
    pub fn omitted(&self) -> u32 {
        (self.get(word::LENGTH) >> 32) as u32
    }

    /// Return address of the hook; 0 for Python's own blocks.
    #[must_use]
    pub fn caller(&self) -> u64 {
        self.get(word::CALLER) & !BROKEN
    }

    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.get(word::CALLER) & BROKEN != 0
    }

    /// What was noted by [`Entry::resolve`].
    #[must_use]
    pub fn node(&self) -> Option<u32> {
        self.get(word::NODE).checked_sub(1).map(|node| node as u32)
    }

    pub fn resolve(&self, node: u32) {
        self.put(word::NODE, u64::from(node).wrapping_add(1));
    }

    /// It is not found any more.
    pub fn retire(&self) {
        self.put(word::RUN, 0);
    }

    /// One of [`figure`].
    #[must_use]
    pub fn figure(&self, which: usize) -> u64 {
        self.get(HEADER.wrapping_add(which))
    }

    pub fn set(&self, which: usize, value: u64) {
        self.put(HEADER.wrapping_add(which), value);
    }

    #[inline]
    pub fn add(&self, which: usize, value: u64) {
        if let Some(word) = self.words.get(HEADER.wrapping_add(which)) {
            word.fetch_add(value, Ordering::Relaxed);
        }
    }

    pub fn add_float(&self, which: usize, value: f64) {
        if let Some(word) = self.words.get(HEADER.wrapping_add(which)) {
            let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
                Some((f64::from_bits(bits) + value).to_bits())
            });
        }
    }
}

fn hash_of(run: u64, caller: u64, stack: &Stack) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = run.wrapping_mul(K) ^ caller ^ u64::from(stack.omitted) << 32;
    for frame in stack.frames() {
        hash = (hash.rotate_left(5) ^ frame.code as u64).wrapping_mul(K);
        hash = (hash.rotate_left(5) ^ frame.offset as u64).wrapping_mul(K);
    }
    hash ^ hash >> 31
}

impl Table {
    /// The entry of that number.
    #[must_use]
    pub fn entry(&self, id: u32) -> Option<Entry<'_>> {
        // The arena's first word belongs to nobody: 0 is no entry.
        if id == 0 {
            return None;
        }
        Some(Entry { words: self.arena.get(id as usize..)?, id })
    }

    #[must_use]
    pub fn len(&self) -> u32 {
        self.count.load(Ordering::Acquire).min(MAX_STACKS as u32)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry published as the `n`th; `None` when it is not there yet.
    #[must_use]
    pub fn nth(&self, n: u32) -> Option<Entry<'_>> {
        self.entry(self.order.get(n as usize)?.load(Ordering::Acquire))
    }

    fn matches(&self, entry: &Entry<'_>, hash: u64, run: u64, caller: u64, stack: &Stack) -> bool {
        let length = stack.frames().len() as u64 | u64::from(stack.omitted) << 32;
        entry.get(word::HASH) == hash
            && entry.get(word::RUN) == run
            && entry.get(word::CALLER) == caller
            && entry.get(word::LENGTH) == length
            && entry.frames().zip(stack.frames()).all(|(a, b)| a == *b)
    }

    /// The entry of a stack, made if need be; 0 when there is no room. `limit`: entries at most.
    #[must_use]
    pub fn intern(&self, run: u64, caller: u64, stack: &Stack, limit: u32) -> u32 {
        let hash = hash_of(run, caller, stack);
        let mut mine = 0;
        let mut at = hash as usize % SLOTS;
        let mut probes = PROBES;
        while probes > 0 {
            let Some(slot) = self.slots.get(at) else { return 0 };
            let mut id = slot.load(Ordering::Acquire);
            if id == 0 {
                if mine == 0 {
                    mine = self.write(hash, run, caller, stack, limit);
                    if mine == 0 {
                        return 0;
                    }
                }
                match slot.compare_exchange(0, mine, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => {
                        self.publish(mine);
                        return mine;
                    }
                    // Another thread was faster: perhaps with this very stack. Ours stays unused in the arena.
                    Err(now) => id = now,
                }
            }
            if let Some(entry) = self.entry(id)
                && self.matches(&entry, hash, run, caller, stack)
            {
                return id;
            }
            at = at.wrapping_add(1) % SLOTS;
            probes = probes.wrapping_sub(1);
        }
        0
    }

    fn write(&self, hash: u64, run: u64, caller: u64, stack: &Stack, limit: u32) -> u32 {
        if self.len() >= limit.min(MAX_STACKS as u32) {
            return 0;
        }
        let words = HEADER.wrapping_add(figure::COUNT).wrapping_add(stack.frames().len().wrapping_mul(2));
        let reserved = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            let end = (used.max(1) as usize).checked_add(words)?;
            if end <= ARENA_WORDS { u32::try_from(end).ok() } else { None }
        });
        let Ok(id) = reserved else { return 0 };
        let id = id.max(1);
        let Some(entry) = self.entry(id) else { return 0 };
        let frames = entry.words.get(HEADER.wrapping_add(figure::COUNT)..).unwrap_or(&[]);
        for ([code, offset], frame) in frames.as_chunks::<2>().0.iter().zip(stack.frames()) {
            code.store(frame.code as u64, Ordering::Relaxed);
            offset.store(frame.offset as u64, Ordering::Relaxed);
        }
        entry.put(word::LENGTH, stack.frames().len() as u64 | u64::from(stack.omitted) << 32);
        entry.put(word::CALLER, caller);
        entry.put(word::RUN, run);
        entry.put(word::HASH, hash);
        id
    }

    fn publish(&self, id: u32) {
        let position = self.count.fetch_add(1, Ordering::AcqRel);
        if let Some(slot) = self.order.get(position as usize) {
            slot.store(id, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;

    fn empty() -> Box<Table> {
        // SAFETY: all zero is an empty table, as its declaration says.
        unsafe { Box::<Table>::new_zeroed().assume_init() }
    }

    fn stack(codes: &[usize]) -> Stack {
        let mut stack = Stack::new();
        for code in codes {
            stack.push(RawFrame { code: *code, offset: 2 });
        }
        stack
    }

    /// Equal stacks are one entry; another caller, run or frame is another; a retired one is not found again.
    #[test]
    fn interns() {
        let table = empty();
        let a = table.intern(1, 0, &stack(&[8, 16]), 100);
        assert_ne!(a, 0);
        assert_eq!(a, table.intern(1, 0, &stack(&[8, 16]), 100));
        for (run, caller, codes) in
            [(2, 0, &[8, 16][..]), (1, 4, &[8, 16]), (1, 0, &[8]), (1, 0, &[16, 8]), (1, 0, &[])]
        {
            assert_ne!(a, table.intern(run, caller, &stack(codes), 100));
        }
        assert_eq!(table.len(), 6);
        table.entry(a).unwrap().add(figure::SAMPLES, 3);
        table.entry(a).unwrap().retire();
        let b = table.intern(1, 0, &stack(&[8, 16]), 100);
        assert_ne!(a, b);
        assert_eq!(table.entry(a).unwrap().figure(figure::SAMPLES), 3);
        assert!(table.entry(b).unwrap().frames().eq(stack(&[8, 16]).frames().iter().copied()));
        assert_eq!(table.nth(0).unwrap().id, a);
        assert_eq!(table.intern(1, 9, &stack(&[8]), 7), 0, "the limit holds");
    }

    /// Threads that meet at the same new stacks agree on their entries.
    #[test]
    fn threads() {
        const STACKS: usize = 2000;
        let table = empty();
        let found: std::vec::Vec<std::vec::Vec<u32>> = std::thread::scope(|scope| {
            let threads: std::vec::Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| (0..STACKS).map(|i| table.intern(1, 0, &stack(&[i * 8, 8]), 1 << 16)).collect())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(found.iter().all(|ids| ids == &found[0] && !ids.contains(&0)));
        assert_eq!(table.len() as usize, STACKS);
    }
}
