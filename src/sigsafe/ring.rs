//! A ring of 64-bit words with one producer (a thread's signal handler) and one consumer (the manager thread).
//!
//! The producer never waits: a record that does not fit is refused and counted by the caller. Positions only grow;
//! `head` is written by the producer alone, `tail` by the consumer alone.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use core::sync::atomic::{AtomicU64, Ordering};

/// Words per ring, a power of two: 128 KiB, which holds 30 of the longest records.
pub const RING_WORDS: usize = 1 << 14;
const MASK: u64 = RING_WORDS as u64 - 1;

#[derive(Debug)]
pub struct Ring {
    head: AtomicU64,
    tail: AtomicU64,
    /// `RING_WORDS` words, mapped before the ring is first used and never unmapped.
    words: *mut u64,
}

// SAFETY: the words between `tail` and `head` belong to the consumer, the others to the producer; each side publishes
// with a release store of its own position and reads the other's with an acquire load.
unsafe impl Sync for Ring {}
// SAFETY: as above; nothing in the ring is tied to a thread.
unsafe impl Send for Ring {}

impl Ring {
    /// # Safety
    /// `words` points to `RING_WORDS` zeroed words that stay mapped for the ring's life and that nobody else uses.
    #[must_use]
    pub unsafe fn new(words: *mut u64) -> Self {
        Self { head: AtomicU64::new(0), tail: AtomicU64::new(0), words }
    }

    /// Producer: starts a record of `len` words, or `None` when the ring is too full.
    #[inline(always)]
    pub fn begin(&self, len: usize) -> Option<Writer<'_>> {
        let head = self.head.load(Ordering::Relaxed);
        // ORDER: pairs with the release in `Reader::commit`: words the consumer gave back are no longer read.
        let tail = self.tail.load(Ordering::Acquire);
        let free = (RING_WORDS as u64).wrapping_sub(head.wrapping_sub(tail));
        if free < len as u64 { None } else { Some(Writer { ring: self, at: head }) }
    }

    /// Consumer: the words that are ready.
    #[inline(always)]
    pub fn read(&self) -> Reader<'_> {
        let tail = self.tail.load(Ordering::Relaxed);
        // ORDER: pairs with the release in `Writer::commit`: the record's words are visible before its end.
        let head = self.head.load(Ordering::Acquire);
        Reader { ring: self, at: tail, end: head }
    }

    /// How far the producer has come; a stamp for "everything captured until now".
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    #[must_use]
    pub fn tail(&self) -> u64 {
        self.tail.load(Ordering::Acquire)
    }
}

/// Writes one record; nothing is visible to the consumer before `commit`.
#[derive(Debug)]
pub struct Writer<'a> {
    ring: &'a Ring,
    at: u64,
}

impl Writer<'_> {
    #[inline(always)]
    pub fn put(&mut self, word: u64) {
        let index = (self.at & MASK) as usize;
        // SAFETY: `index` < RING_WORDS, and `begin` found this word to be the producer's.
        unsafe { self.ring.words.add(index).write(word) }
        self.at = self.at.wrapping_add(1);
    }

    #[inline(always)]
    pub fn commit(self) {
        // ORDER: pairs with the acquire in `read`.
        self.ring.head.store(self.at, Ordering::Release);
    }
}

/// Reads records; the words stay the consumer's until `commit`.
#[derive(Debug)]
pub struct Reader<'a> {
    ring: &'a Ring,
    at: u64,
    end: u64,
}

impl Reader<'_> {
    #[inline(always)]
    pub fn take(&mut self) -> Option<u64> {
        if self.at == self.end {
            return None;
        }
        let index = (self.at & MASK) as usize;
        // SAFETY: `index` < RING_WORDS, and the word lies before the head that `read` acquired.
        let word = unsafe { self.ring.words.add(index).read() };
        self.at = self.at.wrapping_add(1);
        Some(word)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at == self.end
    }

    /// Gives what was taken back to the producer.
    pub fn commit(self) {
        // ORDER: pairs with the acquire in `begin`.
        self.ring.tail.store(self.at, Ordering::Release);
    }
}
