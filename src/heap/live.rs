//! The sampled blocks that are alive: a table from address to record, without locks, of a fixed size.
//!
//! A key lies in one of two buckets of eight, each a cache line; there are no tombstones, so churn does not wear the table
//! out. A key holds the address and the number of its record; records are handed out from the front, so that memory is used
//! only for as many as there ever were at a time. What does not fit is counted by the caller, never waited for.
//!
//! Readers (snapshots) see a record whole or not at all: its serial number is 0 while it changes, and never used twice.

use crate::filter::Filter;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Live samples at most. With the keys beside them, some 80 bytes each.
pub const RECORDS: usize = 1 << INDEX_BITS;
const INDEX_BITS: u32 = 19;
const BUCKETS: usize = RECORDS / WAYS;
const WAYS: usize = 8;
/// Blocks are 8-aligned, and addresses in user space have 47 bits: 44 bits of address beside 19 of index.
const ADDRESS_END: usize = 1 << 47;
/// Ways tried before an insertion is given up: each failure means that another thread has just taken the place.
const ATTEMPTS: usize = 4 * WAYS;

/// What is known of a sampled block.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Sample {
    pub address: u64,
    pub size: u64,
    /// 1/p, see [`crate::weight`].
    pub inverse: f64,
    /// The whole-number weights.
    pub bytes: u64,
    pub count: u64,
    pub rate: u64,
    pub time_ns: u64,
    /// Entry of the stack table.
    pub stack: u32,
    pub tid: u32,
    pub gc_epoch: u32,
    pub domain: u32,
}

const WORDS: usize = 9;

impl Sample {
    /// Bytes and blocks a record has room for; weights never come near.
    fn pack(&self) -> [u64; WORDS] {
        [
            self.address,
            self.size,
            self.inverse.to_bits(),
            self.bytes,
            self.count,
            self.rate,
            self.time_ns,
            u64::from(self.stack) | u64::from(self.tid) << 32,
            u64::from(self.gc_epoch) | u64::from(self.domain) << 32,
        ]
    }

    fn unpack(words: [u64; WORDS]) -> Self {
        let [address, size, inverse, bytes, count, rate, time_ns, who, what] = words;
        Self {
            address,
            size,
            inverse: f64::from_bits(inverse),
            bytes,
            count,
            rate,
            time_ns,
            stack: who as u32,
            tid: (who >> 32) as u32,
            gc_epoch: what as u32,
            domain: (what >> 32) as u32,
        }
    }
}

/// A sample that many threads may write and read at once; see the module.
#[derive(Debug)]
#[repr(C)]
pub struct Cell {
    /// 0: empty or being written.
    serial: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Cell {
    pub fn write(&self, serial: u64, sample: &Sample) {
        self.serial.store(0, Ordering::Relaxed);
        // ORDER: a reader that sees a word of the new sample sees the 0 too.
        fence(Ordering::Release);
        for (word, value) in self.words.iter().zip(sample.pack()) {
            word.store(value, Ordering::Relaxed);
        }
        self.serial.store(serial, Ordering::Release);
    }

    pub fn clear(&self) {
        self.serial.store(0, Ordering::Release);
    }

    /// The sample and its serial number.
    #[must_use]
    pub fn read(&self) -> Option<(u64, Sample)> {
        let serial = self.serial.load(Ordering::Acquire);
        if serial == 0 {
            return None;
        }
        let mut words = [0; WORDS];
        for (value, word) in words.iter_mut().zip(&self.words) {
            *value = word.load(Ordering::Relaxed);
        }
        // ORDER: pairs with `write`: the words are of the sample whose serial number is still there.
        fence(Ordering::Acquire);
        (self.serial.load(Ordering::Relaxed) == serial).then(|| (serial, Sample::unpack(words)))
    }
}

#[derive(Debug)]
#[repr(C, align(64))]
struct Bucket([AtomicU64; WAYS]);

/// All zero is an empty table.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Live {
    pub filter: Filter,
    buckets: [Bucket; BUCKETS],
    cells: [Cell; RECORDS],
    /// Records that were given back, as a list: `next[i]` is the number after `i`, plus one.
    next: [AtomicU32; RECORDS],
    /// The list's first record plus one, under a count that changes with it (so that a list that looks the same is the same).
    free: AtomicU64,
    /// Records that were ever handed out.
    used: AtomicU32,
}

/// A record that is in hand, out of the table: plus one, so that 0 is none.
pub type Token = u64;

fn buckets_of(address: u64) -> [usize; 2] {
    let hash = (address >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let second = (hash ^ hash >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    [(hash >> 40) as usize % BUCKETS, (second >> 36) as usize % BUCKETS]
}

const fn key(address: u64, index: u32) -> u64 {
    (address >> 3) << INDEX_BITS | index as u64
}

impl Live {
    fn bucket(&self, number: usize) -> &[AtomicU64] {
        self.buckets.get(number).map_or(&[], |bucket| &bucket.0)
    }

    #[must_use]
    pub fn cell(&self, index: u32) -> Option<&Cell> {
        self.cells.get(index as usize)
    }

    /// Puts a sample in. False when the table is full or the address is none it can hold.
    #[must_use]
    pub fn insert(&self, serial: u64, sample: &Sample) -> bool {
        if sample.address & 7 != 0 || sample.address as usize >= ADDRESS_END {
            return false;
        }
        let Some(index) = self.acquire() else { return false };
        if let Some(cell) = self.cell(index) {
            cell.write(serial, sample);
        }
        let placed = self.place(sample.address, index);
        if !placed {
            self.release(index);
        }
        placed
    }

    /// Takes a block's record out of the table: it is in hand now, still alive, to be released or put back.
    #[must_use]
    pub fn take(&self, address: usize) -> Token {
        if !self.filter.may_hold(address) {
            return 0;
        }
        let address = address as u64;
        for number in buckets_of(address) {
            for way in self.bucket(number) {
                let word = way.load(Ordering::Acquire);
                if word != 0
                    && word >> INDEX_BITS == address >> 3
                    && way.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
                {
                    self.filter.remove(address as usize);
                    return (word & (RECORDS as u64).wrapping_sub(1)).wrapping_add(1);
                }
            }
        }
        0
    }

    /// Whether the block is in the table.
    #[must_use]
    pub fn knows(&self, address: usize) -> bool {
        let address = address as u64;
        self.filter.may_hold(address as usize)
            && buckets_of(address).into_iter().any(|number| {
                self.bucket(number).iter().any(|way| {
                    let word = way.load(Ordering::Acquire);
                    word != 0 && word >> INDEX_BITS == address >> 3
                })
            })
    }

    /// The record in hand.
    #[must_use]
    pub fn in_hand(&self, token: Token) -> Option<(&Cell, Sample)> {
        let cell = self.cell(token.checked_sub(1)? as u32)?;
        Some((cell, cell.read()?.1))
    }

    /// The block was not freed after all. False when its place was taken meanwhile and there is no other; the record is still
    /// in hand then.
    #[must_use]
    pub fn put_back(&self, token: Token, address: usize) -> bool {
        let Some(index) = token.checked_sub(1) else { return true };
        self.place(address as u64, index as u32)
    }

    /// The block is gone.
    pub fn let_go(&self, token: Token) {
        if let Some(index) = token.checked_sub(1) {
            self.release(index as u32);
        }
    }

    /// Into the emptier one of two buckets: so nearly all places can be filled before both are full.
    fn place(&self, address: u64, index: u32) -> bool {
        let word = key(address, index);
        // Before the key: who frees the block must not overlook it.
        self.filter.add(address as usize);
        let mut attempts = ATTEMPTS;
        while attempts > 0 {
            let emptiest = buckets_of(address)
                .into_iter()
                .map(|number| {
                    let ways = self.bucket(number);
                    (ways.iter().filter(|way| way.load(Ordering::Relaxed) == 0).count(), ways)
                })
                .max_by_key(|(empty, _)| *empty);
            let Some((1.., ways)) = emptiest else { break };
            for way in ways {
                if way.load(Ordering::Relaxed) == 0
                    && way.compare_exchange(0, word, Ordering::AcqRel, Ordering::Relaxed).is_ok()
                {
                    return true;
                }
            }
            attempts = attempts.wrapping_sub(1);
        }
        self.filter.remove(address as usize);
        false
    }

    fn acquire(&self) -> Option<u32> {
        const INDEX: u64 = 0xffff_ffff;
        let mut head = self.free.load(Ordering::Acquire);
        let mut attempts = RECORDS;
        while head & INDEX != 0 && attempts > 0 {
            let index = (head & INDEX).wrapping_sub(1) as u32;
            let next = self.next.get(index as usize)?.load(Ordering::Relaxed);
            let count = (head >> 32).wrapping_add(1);
            match self.free.compare_exchange(head, count << 32 | u64::from(next), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(index),
                Err(now) => head = now,
            }
            attempts = attempts.wrapping_sub(1);
        }
        let fresh = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            if (used as usize) < RECORDS { used.checked_add(1) } else { None }
        });
        fresh.ok()
    }

    fn release(&self, index: u32) {
        let (Some(cell), Some(next)) = (self.cell(index), self.next.get(index as usize)) else { return };
        cell.clear();
        let mut head = self.free.load(Ordering::Acquire);
        let mut attempts = RECORDS;
        while attempts > 0 {
            next.store(head as u32, Ordering::Relaxed);
            let count = (head >> 32).wrapping_add(1);
            let own = u64::from(index).wrapping_add(1);
            match self.free.compare_exchange(head, count << 32 | own, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => head = now,
            }
            attempts = attempts.wrapping_sub(1);
        }
    }

    /// Records that were ever in use: what a reader has to look at.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Acquire)
    }

    /// Every sample that is alive, each whole. What comes or goes meanwhile may be among them or not.
    pub fn samples(&self) -> impl Iterator<Item = (u32, Sample)> + '_ {
        (0..self.used()).filter_map(|index| Some((index, self.cell(index)?.read()?.1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;
    use std::collections::HashMap;
    use std::vec::Vec;

    fn empty() -> Box<Live> {
        // SAFETY: all zero is an empty table, as its declaration says.
        unsafe { Box::<Live>::new_zeroed().assume_init() }
    }

    fn sample(address: u64) -> Sample {
        Sample {
            address,
            size: address % 1000,
            inverse: 1.5,
            bytes: 7,
            time_ns: address,
            stack: 3,
            ..Sample::default()
        }
    }

    /// What was put in is found, once; what was not is not, at the same filter counter neither.
    #[test]
    fn in_and_out() {
        let live = empty();
        assert!(live.insert(1, &sample(0x1000)));
        assert!(live.knows(0x1000) && !live.knows(0x1008));
        assert_eq!(live.take(0x1008), 0);
        let token = live.take(0x1000);
        assert_eq!(live.in_hand(token).unwrap().1, sample(0x1000));
        assert_eq!(live.take(0x1000), 0);
        assert_eq!(live.samples().count(), 1, "a block in hand is alive");
        assert!(live.put_back(token, 0x1000));
        live.let_go(live.take(0x1000));
        assert_eq!(live.samples().count(), 0);
        assert!(!live.filter.may_hold(0x1000));
        assert!(!live.insert(2, &sample(0x1001)) && !live.insert(2, &sample(1 << 47)));
    }

    /// Nine of ten places can be filled, what does not fit is refused, and a full table works on when it empties.
    #[test]
    fn full() {
        let live = empty();
        let mut inside = Vec::new();
        for i in 0..RECORDS as u64 + 1000 {
            let address = 0x5555_0000_0000 + i * 48;
            if live.insert(i + 1, &sample(address & !7)) {
                inside.push(address & !7);
            }
        }
        assert!(inside.len() > RECORDS * 9 / 10 && inside.len() <= RECORDS, "{}", inside.len());
        for address in &inside {
            let token = live.take(*address as usize);
            assert_eq!(live.in_hand(token).unwrap().1.address, *address);
            live.let_go(token);
        }
        assert_eq!(live.samples().count(), 0);
        assert!(live.insert(1, &sample(0x1000)));
    }

    /// Threads that put blocks in, take them out and hand them to each other, with a reader beside them: nothing is lost,
    /// doubled or torn.
    #[test]
    fn threads() {
        const THREADS: u64 = 4;
        const ROUNDS: u64 = 30_000;
        let live = empty();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let live = &live;
                    scope.spawn(move || {
                        let mut mine = HashMap::new();
                        let mut random = crate::draw::seed(thread);
                        for round in 0..ROUNDS {
                            let address = (thread << 40 | 0x1000) + crate::draw::next(&mut random) % 4096 * 16;
                            if mine.remove(&address).is_some() {
                                let token = live.take(address as usize);
                                assert_eq!(live.in_hand(token).unwrap().1, sample(address));
                                live.let_go(token);
                            } else {
                                assert!(live.insert(round * THREADS + thread + 1, &sample(address)));
                                mine.insert(address, ());
                            }
                        }
                        mine.len()
                    })
                })
                .collect();
            let reader = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for (_, seen) in live.samples() {
                        assert_eq!(seen, sample(seen.address));
                    }
                }
            });
            let left: usize = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
            stop.store(true, Ordering::Relaxed);
            reader.join().unwrap();
            assert_eq!(live.samples().count(), left);
        });
    }
}
