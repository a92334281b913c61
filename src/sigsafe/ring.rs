//! A ring of 64-bit words with one producer (a thread's signal handler) and one consumer (the manager thread).
//!
//! The producer never waits: a record that does not fit is refused and counted by the caller. Positions only grow;
//! `head` is written by the producer alone, `tail` by the consumer alone.

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU64, Ordering};
#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};

/// Words per ring, a power of two: 128 KiB, which holds 30 of the longest records.
#[cfg(not(loom))]
pub const RING_WORDS: usize = 1 << 14;
/// So small that a model of a few records goes round it.
#[cfg(loom)]
pub const RING_WORDS: usize = 4;
const MASK: u64 = RING_WORDS as u64 - 1;

/// One word's place. Loom's cell tells when both sides touch it without an order between them.
#[cfg(not(loom))]
pub type Word = u64;
#[cfg(loom)]
pub type Word = loom::cell::UnsafeCell<u64>;

/// # Safety
/// As a plain read of `at`.
#[inline(always)]
unsafe fn read(at: *const Word) -> u64 {
    // SAFETY: promised by the caller.
    #[cfg(not(loom))]
    unsafe {
        at.read()
    }
    // SAFETY: as above.
    #[cfg(loom)]
    unsafe {
        (*at).with(|word| word.read())
    }
}

/// # Safety
/// As a plain write to `at`.
#[inline(always)]
unsafe fn write(at: *mut Word, value: u64) {
    // SAFETY: promised by the caller.
    #[cfg(not(loom))]
    unsafe {
        at.write(value);
    }
    // SAFETY: as above.
    #[cfg(loom)]
    unsafe {
        (*at).with_mut(|word| word.write(value));
    }
}

#[derive(Debug)]
pub struct Ring {
    head: AtomicU64,
    tail: AtomicU64,
    /// `RING_WORDS` words, mapped before the ring is first used and never unmapped.
    words: *mut Word,
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
    pub unsafe fn new(words: *mut Word) -> Self {
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

    /// Words that wait for the consumer, who alone may ask.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.head().wrapping_sub(self.tail.load(Ordering::Relaxed))
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
        unsafe { write(self.ring.words.add(index), word) }
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
        let word = unsafe { read(self.ring.words.add(index)) };
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::vec::Vec;

    fn ring() -> Ring {
        let words = Vec::leak(std::vec![0; RING_WORDS]);
        // SAFETY: RING_WORDS zeroed words, leaked.
        unsafe { Ring::new(words.as_mut_ptr()) }
    }

    /// Puts a record in, if it fits.
    fn put(ring: &Ring, words: &[u64]) -> bool {
        let Some(mut writer) = ring.begin(words.len()) else { return false };
        for word in words {
            writer.put(*word);
        }
        writer.commit();
        true
    }

    /// What is not committed is not seen, and what is not given back is not overwritten.
    #[test]
    fn nothing_before_its_commit() {
        let ring = ring();
        let mut writer = ring.begin(2).unwrap();
        writer.put(7);
        writer.put(8);
        assert!(ring.read().is_empty());
        writer.commit();
        let mut reader = ring.read();
        assert_eq!((reader.take(), reader.take(), reader.take()), (Some(7), Some(8), None));
        assert!(ring.begin(RING_WORDS - 1).is_none(), "two words are still the reader's");
        reader.commit();
        assert!(ring.begin(RING_WORDS).is_some());
        assert!(ring.begin(RING_WORDS + 1).is_none());
    }

    proptest! {
        /// Against a queue: any mix of puts and takes, often full and many times round, gives the same words and refusals.
        #[test]
        fn like_a_queue(steps in proptest::collection::vec((0..6000_usize, 0..6000_usize), 1..40)) {
            let (ring, mut queue, mut next) = (ring(), VecDeque::new(), 0);
            for (length, taken) in steps {
                let record: Vec<u64> = (next..).take(length).collect();
                next += length as u64;
                let fits = queue.len() + length <= RING_WORDS;
                prop_assert_eq!(put(&ring, &record), fits);
                if fits {
                    queue.extend(record);
                }
                let mut reader = ring.read();
                for _ in 0..taken {
                    prop_assert_eq!(reader.take(), queue.pop_front());
                }
                reader.commit();
                prop_assert_eq!(ring.head() - ring.tail(), queue.len() as u64);
            }
        }
    }
}

/// Every order in which a handler and the manager can run, and every value each may then see.
#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::thread;
    use std::boxed::Box;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;
    use std::vec::Vec;

    /// A ring whose next words are the last and then the first of its memory.
    fn ring() -> Ring {
        let words: Vec<Word> = (0..RING_WORDS).map(|_| Word::new(0)).collect();
        // SAFETY: RING_WORDS words, leaked.
        let ring = unsafe { Ring::new(Box::leak(words.into_boxed_slice()).as_mut_ptr()) };
        assert!(put(&ring, &[1, 2, 3]));
        assert_eq!(take(&ring), [1, 2, 3]);
        ring
    }

    fn put(ring: &Ring, words: &[u64]) -> bool {
        let Some(mut writer) = ring.begin(words.len()) else { return false };
        for word in words {
            writer.put(*word);
        }
        writer.commit();
        true
    }

    fn take(ring: &Ring) -> Vec<u64> {
        let mut reader = ring.read();
        let words = core::iter::from_fn(|| reader.take()).collect();
        reader.commit();
        words
    }

    /// Records arrive whole and in order, or were refused; a record that fits into an empty ring is never refused then.
    #[test]
    fn records_arrive_whole() {
        const RECORDS: [[u64; 2]; 3] = [[10, 11], [20, 21], [30, 31]];
        let (refused, all_fitted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (refused_once, fitted_once) = (refused.clone(), all_fitted.clone());
        loom::model(move || {
            let ring = Arc::new(ring());
            let producer = {
                let ring = ring.clone();
                thread::spawn(move || RECORDS.map(|record| put(&ring, &record)))
            };
            let mut got = take(&ring);
            assert_eq!(got.len() % 2, 0, "half a record");
            got.extend(take(&ring));
            let accepted = producer.join().unwrap();
            got.extend(take(&ring));
            let expected =
                RECORDS.into_iter().zip(accepted).filter(|(_, accepted)| *accepted).flat_map(|(record, _)| record);
            assert!(got.into_iter().eq(expected));
            assert_eq!(accepted[..2], [true, true]);
            let seen = if accepted[2] { &fitted_once } else { &refused_once };
            seen.store(true, Ordering::Relaxed);
            assert!(put(&ring, &[4, 5, 6, 7]));
        });
        assert!(refused.load(Ordering::Relaxed) && all_fitted.load(Ordering::Relaxed), "the model leaves orders out");
    }

    /// Once the tail has passed a stamp (`head`), whatever the consumer did with the words before it is done and seen.
    #[test]
    fn a_stamp_covers_what_came_before_it() {
        loom::model(|| {
            let ring = Arc::new(ring());
            let resolved = Arc::new(loom::cell::UnsafeCell::new(0));
            assert!(put(&ring, &[10]));
            assert_eq!(ring.head(), 4);
            let checker = {
                let (ring, resolved) = (ring.clone(), resolved.clone());
                thread::spawn(move || {
                    if ring.tail() >= 4 {
                        // SAFETY: loom itself checks that nobody else is here.
                        resolved.with(|it| assert_eq!(unsafe { *it }, 10));
                    }
                })
            };
            let mut reader = ring.read();
            // SAFETY: as above.
            resolved.with_mut(|it| unsafe { *it = reader.take().unwrap() });
            reader.commit();
            checker.join().unwrap();
        });
    }
}
