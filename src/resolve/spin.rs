//! A lock that a forked child can break open.
//!
//! After `fork` a lock may be held by a thread that does not exist in the child; a `std` mutex could then never be taken
//! again. Held for a few instructions at a time, never while calling into Python, never taken in a signal handler.

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::yield_now;

#[derive(Debug, Default)]
pub struct Spin<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is only reached through a guard, and there is one guard at a time (`held`).
unsafe impl<T: Send> Sync for Spin<T> {}

/// Turns of waiting before the processor is given to another thread, perhaps to the one that holds the lock.
const SPINS: u32 = 64;

impl<T> Spin<T> {
    pub const fn new(value: T) -> Self {
        Self { held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    pub fn lock(&self) -> Guard<'_, T> {
        let mut turns = 0;
        while self.held.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            turns += 1;
            if turns % SPINS == 0 { yield_now() } else { spin_loop() }
        }
        Guard { lock: self }
    }

    /// In a forked child: takes the lock, whoever held it. If it was held, the value may have been copied halfway through
    /// a change: it is replaced by `fresh` and never looked at again, not even to free it.
    ///
    /// # Safety
    /// The calling thread is the only one of the process and holds no guard of this lock.
    pub unsafe fn break_open(&self, fresh: T) -> Guard<'_, T> {
        if self.held.swap(true, Ordering::Acquire) {
            // SAFETY: no other thread exists and the caller has no guard, so nothing else refers to the value.
            unsafe { self.value.get().write(fresh) };
        }
        Guard { lock: self }
    }
}

#[derive(Debug)]
pub struct Guard<'a, T> {
    lock: &'a Spin<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: this guard is the only one.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard is the only one, and it is borrowed mutably.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.lock.held.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        const THREADS: u64 = 4;
        const TURNS: u64 = 20_000;
        let lock = Spin::new((0_u64, 0_u64));
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                let lock = &lock;
                scope.spawn(move || {
                    for _ in 0..TURNS {
                        let mut guard = lock.lock();
                        guard.0 += 1;
                        assert_eq!(guard.0, guard.1 + 1, "another thread is inside");
                        guard.1 += 1;
                    }
                });
            }
        });
        assert_eq!(*lock.lock(), (THREADS * TURNS, THREADS * TURNS));
    }

    /// A lock that nobody holds keeps its value; one that is held loses it and can be used again.
    #[test]
    fn break_open() {
        let lock = Spin::new(vec![1]);
        // SAFETY: no other thread knows this lock, and no guard is alive.
        assert_eq!(*unsafe { lock.break_open(vec![2]) }, [1]);
        std::mem::forget(lock.lock());
        // SAFETY: as above; the guard is forgotten.
        assert_eq!(*unsafe { lock.break_open(vec![2]) }, [2]);
        assert_eq!(*lock.lock(), [2]);
    }
}
