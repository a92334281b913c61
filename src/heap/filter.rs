//! Counters of sampled blocks by a hash of their address: what a free looks at, and mostly all it looks at.
//!
//! A counter that reached its end stays there: then blocks of its class cost a look into the table, and are not lost.

use core::sync::atomic::{AtomicU8, Ordering};

/// Cache lines of counters; as in `spprof_alloc.h`.
const LINES_LOG2: u32 = 10;
pub const SIZE: usize = 64 << LINES_LOG2;

#[derive(Debug)]
#[repr(C, align(64))]
pub struct Filter([AtomicU8; SIZE]);

/// The counter of a block: blocks of one page share a cache line.
#[inline]
#[must_use]
pub fn slot(block: usize) -> usize {
    let line = ((block >> 12) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - LINES_LOG2);
    (line as usize) << 6 | (block >> 4 ^ block >> 10) & 63
}

impl Filter {
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU8::new(0) }; SIZE])
    }

    #[must_use]
    pub fn as_ptr(&self) -> *mut AtomicU8 {
        self.0.as_ptr().cast_mut()
    }

    #[inline]
    #[must_use]
    pub fn may_hold(&self, block: usize) -> bool {
        self.0.get(slot(block)).is_some_and(|counter| counter.load(Ordering::Relaxed) != 0)
    }

    /// Before the block is in the table.
    pub fn add(&self, block: usize) {
        if let Some(counter) = self.0.get(slot(block)) {
            let _ = counter.fetch_update(Ordering::Release, Ordering::Relaxed, |count| count.checked_add(1));
        }
    }

    /// After it was taken out.
    pub fn remove(&self, block: usize) {
        if let Some(counter) = self.0.get(slot(block)) {
            let _ = counter.fetch_update(Ordering::Release, Ordering::Relaxed, |count| {
                if count == u8::MAX { None } else { count.checked_sub(1) }
            });
        }
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;

    /// A counter comes back to zero with its last block, and one that overflowed never does.
    #[test]
    fn counts() {
        let filter = Box::new(Filter::new());
        for _ in 0..200 {
            filter.add(0x7000_1230);
        }
        for left in (0..200).rev() {
            filter.remove(0x7000_1230);
            assert_eq!(filter.may_hold(0x7000_1230), left > 0);
        }
        assert!(!filter.may_hold(0x7000_1240));
        for _ in 0..300 {
            filter.add(0x7000_1230);
        }
        for _ in 0..300 {
            filter.remove(0x7000_1230);
        }
        assert!(filter.may_hold(0x7000_1230));
    }
}
