//! Limbo: where dead code objects wait until no sample can name them any more. The protocol only, without Python:
//! what "to free" means is the caller's affair ([`super::lifetime`]).
//!
//! ```text
//!  dies (GIL)      later event (GIL)     resolver thread, no GIL                       later event (GIL)
//!  defer ─▶ fresh ───────▶ aged ─▶ take_aged ─▶ rings drained, cache forgets ─▶ release ─▶ freeable ─▶ freed
//! ```
//! - `fresh` exists for CPython 3.11, where a frame that is being popped is still visible, with its dying code, until the
//!   thread that pops it has moved on. An object ages at an event *before which* nothing was pushed in the same call.
//! - Objects belong to the interpreter they die in and are freed there: one set of lists an interpreter, by its id (which
//!   is never used twice, unlike its address).
//! - Freeing runs without the lock, because it runs Python code: nested code objects die, weakref callbacks are called,
//!   other threads get the GIL. Such a nested event only defers, it never frees.

use super::spin::Spin;
use rustc_hash::FxHashSet;
use std::sync::atomic::{AtomicU64, Ordering};

/// Objects freed in one go, to bound how long one deallocation may take.
pub const CHUNK: usize = 64;
/// Objects kept at most, some 600 MB: the collector of a program that makes much code frees 10^5 objects in one go, within
/// milliseconds, whose memory was in use until then anyway. Beyond, code dies at once and samples that name it may be lost;
/// [`Batch::incomplete`] and the `overflowed` count say so.
const MAX_OBJECTS: usize = 1 << 19;

/// Dead code objects whose samples are to be drained before they are released.
#[derive(Debug, Default)]
#[must_use = "a batch that is not released is never freed"]
pub struct Batch {
    lists: Vec<(i64, Vec<usize>)>,
    incomplete: bool,
}

impl Batch {
    pub fn codes(&self) -> impl Iterator<Item = usize> + '_ {
        self.lists.iter().flat_map(|(_, codes)| codes.iter().copied())
    }

    /// Some objects died that are not in any batch: their addresses may belong to other code by now.
    #[must_use]
    pub fn incomplete(&self) -> bool {
        self.incomplete
    }
}

/// Figures since the process began.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LimboStats {
    pub deferred: u64,
    pub freed: u64,
    pub overflowed: u64,
    pub in_limbo: u64,
}

/// What the lists know of one interpreter.
#[derive(Debug, Default)]
struct Interpreter {
    id: i64,
    fresh: Vec<usize>,
    aged: Vec<usize>,
    freeable: Vec<usize>,
    /// A thread is freeing objects of this interpreter.
    freeing: bool,
    /// Counts events, so that a nudge can tell whether any happened by itself.
    events: u64,
}

#[derive(Debug, Default)]
struct Lists {
    open: bool,
    interpreters: Vec<Interpreter>,
    /// Objects in the lists.
    count: usize,
    /// Objects in batches that are out.
    in_hand: usize,
    overflowed: bool,
    /// Objects on their way out whose death will be reported once more (only kept if `deaths_repeat`).
    leaving: FxHashSet<usize>,
    deaths_repeat: bool,
    nudged_at: u64,
}

impl Lists {
    const fn new() -> Self {
        Self {
            open: false,
            interpreters: Vec::new(),
            count: 0,
            in_hand: 0,
            overflowed: false,
            leaving: FxHashSet::with_hasher(rustc_hash::FxBuildHasher),
            deaths_repeat: false,
            nudged_at: 0,
        }
    }

    fn interpreter(&mut self, id: i64) -> &mut Interpreter {
        let position = self.interpreters.iter().position(|it| it.id == id).unwrap_or_else(|| {
            self.interpreters.push(Interpreter { id, ..Interpreter::default() });
            self.interpreters.len() - 1
        });
        &mut self.interpreters[position]
    }
}

#[derive(Debug)]
pub struct Limbo {
    lists: Spin<Lists>,
    deferred: AtomicU64,
    freed: AtomicU64,
    overflowed: AtomicU64,
}

impl Default for Limbo {
    fn default() -> Self {
        Self::new()
    }
}

impl Limbo {
    #[must_use]
    pub const fn new() -> Self {
        Self {
            lists: Spin::new(Lists::new()),
            deferred: AtomicU64::new(0),
            freed: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
        }
    }

    /// From now on objects are deferred. `deaths_repeat`: freeing an object reports its death again, to be let pass.
    pub fn open(&self, deaths_repeat: bool) {
        let mut lists = self.lists.lock();
        lists.open = true;
        lists.deaths_repeat = deaths_repeat;
        lists.leaving.clear();
        lists.overflowed = false;
    }

    /// From now on objects die as they would without us. Gives what is left of interpreter `id`, to be freed by the
    /// caller ([`Limbo::note_freed`]); the rest becomes freeable in the interpreters it belongs to.
    ///
    /// To be called when nothing samples any more, and no batch is out.
    pub fn close(&self, id: i64) -> Vec<usize> {
        let mut lists = self.lists.lock();
        close_lists(&mut lists);
        let left = std::mem::take(&mut lists.interpreter(id).freeable);
        lists.count -= left.len();
        left
    }

    pub fn note_freed(&self, count: usize) {
        self.freed.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// True when nothing is deferred and nothing waits.
    pub fn is_idle(&self) -> bool {
        let lists = self.lists.lock();
        !lists.open && lists.count == 0 && lists.in_hand == 0
    }

    /// Something happened on a thread that holds the GIL of interpreter `id`: ages what is fresh, and frees up to
    /// [`CHUNK`] objects with `free`. Gives the number freed.
    pub fn event(&self, id: i64, mut free: impl FnMut(usize)) -> usize {
        let mut chunk = [0; CHUNK];
        let mut taken = 0;
        {
            let mut guard = self.lists.lock();
            let lists = &mut *guard;
            let interpreter = lists.interpreter(id);
            if interpreter.freeing {
                return 0;
            }
            interpreter.events += 1;
            interpreter.aged.append(&mut interpreter.fresh);
            while taken < CHUNK
                && let Some(code) = interpreter.freeable.pop()
            {
                chunk[taken] = code;
                taken += 1;
            }
            if taken == 0 {
                return 0;
            }
            interpreter.freeing = true;
            lists.count -= taken;
            if lists.deaths_repeat {
                lists.leaving.extend(&chunk[..taken]);
            }
        }
        for code in &chunk[..taken] {
            free(*code);
        }
        self.lists.lock().interpreter(id).freeing = false;
        self.note_freed(taken);
        taken
    }

    /// A code object of interpreter `id` is dying: true when it is kept, false when it is to die now.
    pub fn defer(&self, id: i64, code: usize) -> bool {
        let mut guard = self.lists.lock();
        let lists = &mut *guard;
        if lists.deaths_repeat && lists.leaving.remove(&code) {
            return false;
        }
        if !lists.open {
            return false;
        }
        if lists.count + lists.in_hand >= MAX_OBJECTS {
            lists.overflowed = true;
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        lists.interpreter(id).fresh.push(code);
        lists.count += 1;
        self.deferred.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Takes what has aged. Once every sample captured until now is resolved, the batch may be released.
    #[must_use]
    pub fn take_aged(&self) -> Option<Batch> {
        let mut lists = self.lists.lock();
        let mut batch = Batch { incomplete: std::mem::take(&mut lists.overflowed), ..Batch::default() };
        for interpreter in &mut lists.interpreters {
            if !interpreter.aged.is_empty() {
                batch.lists.push((interpreter.id, std::mem::take(&mut interpreter.aged)));
            }
        }
        let taken = batch.codes().count();
        lists.count -= taken;
        lists.in_hand += taken;
        (batch.incomplete || !batch.lists.is_empty()).then_some(batch)
    }

    /// No sample names these objects any more, and no cache does.
    pub fn release(&self, batch: Batch) {
        let mut lists = self.lists.lock();
        for (id, mut codes) in batch.lists {
            lists.count += codes.len();
            // A batch of before a fork is not counted any more.
            lists.in_hand = lists.in_hand.saturating_sub(codes.len());
            lists.interpreter(id).freeable.append(&mut codes);
        }
    }

    /// True when interpreter `id` has objects that only wait for an event, and none came by itself since the last call.
    pub fn wants_event(&self, id: i64) -> bool {
        let mut guard = self.lists.lock();
        let lists = &mut *guard;
        let Some(interpreter) = lists.interpreters.iter().find(|it| it.id == id) else { return false };
        let quiet = std::mem::replace(&mut lists.nudged_at, interpreter.events) == interpreter.events;
        quiet && !(interpreter.fresh.is_empty() && interpreter.freeable.is_empty())
    }

    /// In a forked child: as [`Limbo::close`], but nothing is freed yet. Batches that were out, and lists that were being
    /// changed while the process forked, are leaked.
    ///
    /// # Safety
    /// The calling thread is the only one of the process, and it is not inside this module.
    pub unsafe fn close_in_child(&self) {
        // SAFETY: the caller's promise.
        let mut lists = unsafe { self.lists.break_open(Lists::new()) };
        close_lists(&mut lists);
        lists.in_hand = 0;
        for interpreter in &mut lists.interpreters {
            interpreter.freeing = false;
        }
    }

    #[must_use]
    pub fn stats(&self) -> LimboStats {
        LimboStats {
            deferred: self.deferred.load(Ordering::Relaxed),
            freed: self.freed.load(Ordering::Relaxed),
            overflowed: self.overflowed.load(Ordering::Relaxed),
            in_limbo: {
                let lists = self.lists.lock();
                (lists.count + lists.in_hand) as u64
            },
        }
    }
}

fn close_lists(lists: &mut Lists) {
    lists.open = false;
    for interpreter in &mut lists.interpreters {
        let Interpreter { fresh, aged, freeable, .. } = interpreter;
        freeable.append(fresh);
        freeable.append(aged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    const MAIN: i64 = 0;
    const SUB: i64 = 7;

    /// What the interpreter does when a code object dies: an event, then the object itself.
    fn die(limbo: &Limbo, id: i64, code: usize, freed: &RefCell<Vec<usize>>) {
        limbo.event(id, |code| freed.borrow_mut().push(code));
        if !limbo.defer(id, code) {
            freed.borrow_mut().push(code);
        }
    }

    fn taken(limbo: &Limbo) -> Vec<usize> {
        let Some(batch) = limbo.take_aged() else { return Vec::new() };
        let codes = batch.codes().collect();
        limbo.release(batch);
        codes
    }

    /// No stage is skipped: an object is not taken before a later event, and not freed before it is released.
    #[test]
    fn the_way_through() {
        let (limbo, freed) = (Limbo::new(), RefCell::default());
        limbo.open(false);
        die(&limbo, MAIN, 1, &freed);
        assert!(limbo.take_aged().is_none(), "its frame may still be visible");
        die(&limbo, MAIN, 2, &freed);
        let batch = limbo.take_aged().unwrap();
        assert_eq!(batch.codes().collect::<Vec<_>>(), [1]);
        die(&limbo, MAIN, 3, &freed);
        assert!(freed.borrow().is_empty(), "samples may still name it");
        limbo.release(batch);
        assert!(freed.borrow().is_empty(), "the resolver thread frees nothing");
        die(&limbo, MAIN, 4, &freed);
        assert_eq!(*freed.borrow(), [1]);
        assert_eq!(limbo.stats(), LimboStats { deferred: 4, freed: 1, overflowed: 0, in_limbo: 3 });
    }

    /// An object is freed in the interpreter it died in.
    #[test]
    fn interpreters_are_apart() {
        let (limbo, freed) = (Limbo::new(), RefCell::default());
        limbo.open(false);
        die(&limbo, MAIN, 1, &freed);
        die(&limbo, SUB, 2, &freed);
        limbo.event(MAIN, |_| panic!("nothing is released"));
        assert_eq!(taken(&limbo), [1], "no event has aged the other one");
        limbo.event(SUB, |code| panic!("{code} is not of this interpreter"));
        assert_eq!(taken(&limbo), [2]);
        limbo.event(SUB, |code| freed.borrow_mut().push(code));
        assert_eq!(*freed.borrow(), [2]);
        assert!(limbo.close(SUB).is_empty());
        assert_eq!(limbo.close(MAIN), [1]);
    }

    /// Freeing an object kills the code nested in it: that is deferred like any other, and does not free more.
    #[test]
    fn nested_deaths_only_defer() {
        let (limbo, freed) = (Limbo::new(), RefCell::default());
        limbo.open(false);
        for code in 1..=3 {
            die(&limbo, MAIN, code, &freed);
        }
        limbo.event(MAIN, |_| ());
        assert_eq!(taken(&limbo), [1, 2, 3]);
        let order = RefCell::new(Vec::new());
        limbo.event(MAIN, |code| {
            order.borrow_mut().push(code);
            die(&limbo, MAIN, code + 10, &freed);
        });
        assert_eq!(*order.borrow(), [3, 2, 1]);
        assert!(freed.borrow().is_empty());
        limbo.event(MAIN, |_| ());
        assert_eq!(taken(&limbo), [13, 12, 11]);
    }

    /// Where freeing reports the death again (watchers), the second report is let pass; the address may then be used anew.
    #[test]
    fn repeated_deaths_pass() {
        let limbo = Limbo::new();
        limbo.open(true);
        assert!(limbo.defer(MAIN, 1));
        limbo.event(MAIN, |_| ());
        assert_eq!(taken(&limbo), [1]);
        limbo.event(MAIN, |code| assert!(!limbo.defer(MAIN, code)));
        assert!(limbo.defer(MAIN, 1), "another object at the same address");
    }

    #[test]
    fn closed_limbo_lets_die_and_gives_everything_back() {
        let (limbo, freed) = (Limbo::new(), RefCell::default());
        assert!(!limbo.defer(MAIN, 1));
        limbo.open(false);
        for code in 2..=4 {
            die(&limbo, MAIN, code, &freed);
            let _ = taken(&limbo);
        }
        die(&limbo, SUB, 5, &freed);
        let mut left = limbo.close(MAIN);
        left.sort_unstable();
        left.extend(freed.borrow().iter());
        left.sort_unstable();
        assert_eq!(left, [2, 3, 4]);
        assert!(!limbo.is_idle(), "the sub-interpreter's is still there");
        assert!(!limbo.defer(MAIN, 6));
        limbo.event(SUB, |code| freed.borrow_mut().push(code));
        assert!(freed.borrow().contains(&5));
        assert!(limbo.is_idle());
    }

    /// A full limbo lets objects die, says so once, and works on when there is room.
    #[test]
    fn overflow_is_told() {
        let limbo = Limbo::new();
        limbo.open(false);
        for code in 0..MAX_OBJECTS {
            assert!(limbo.defer(MAIN, code));
        }
        assert!(!limbo.defer(MAIN, usize::MAX));
        let batch = limbo.take_aged().unwrap();
        assert!(batch.incomplete() && batch.codes().count() == 0);
        limbo.release(batch);
        assert!(limbo.take_aged().is_none());
        limbo.event(MAIN, |_| ());
        assert_eq!(taken(&limbo).len(), MAX_OBJECTS);
        assert_eq!(limbo.event(MAIN, |_| ()), CHUNK);
        assert!(limbo.defer(MAIN, usize::MAX));
        assert_eq!(limbo.stats().overflowed, 1);
    }

    /// A nudge is wanted only while something waits and nothing happens by itself.
    #[test]
    fn nudges_only_the_quiet() {
        let limbo = Limbo::new();
        limbo.open(false);
        assert!(!limbo.wants_event(MAIN));
        limbo.event(MAIN, |_| ());
        limbo.defer(MAIN, 1);
        assert!(!limbo.wants_event(MAIN), "an event came since the last look");
        assert!(limbo.wants_event(MAIN));
        limbo.event(MAIN, |_| ());
        assert!(!limbo.wants_event(MAIN) && !limbo.wants_event(MAIN), "it waits for the resolver");
        assert_eq!(taken(&limbo), [1]);
        assert!(limbo.wants_event(MAIN));
    }

    /// A child gives back what was in the lists; what another thread had in hand is leaked.
    #[test]
    fn child_starts_closed() {
        let (limbo, freed) = (Limbo::new(), RefCell::default());
        limbo.open(false);
        die(&limbo, MAIN, 1, &freed);
        die(&limbo, MAIN, 2, &freed);
        let in_hand = limbo.take_aged().unwrap();
        // SAFETY: this test's limbo is known to this thread only.
        unsafe { limbo.close_in_child() };
        assert!(!limbo.defer(MAIN, 3));
        assert_eq!(limbo.close(MAIN), [2]);
        assert!(limbo.is_idle() && limbo.stats().in_limbo == 0);
        limbo.release(in_hand);
        assert_eq!(limbo.close(MAIN), [1]);
        assert!(limbo.is_idle());
    }

    /// Several threads with an interpreter each, and a resolver: every object is freed exactly once, in its interpreter.
    #[test]
    fn threads_and_a_resolver() {
        const THREADS: usize = 3;
        const OBJECTS: usize = 20_000;
        let limbo = Limbo::new();
        limbo.open(false);
        let done = std::sync::atomic::AtomicUsize::new(0);
        let freed: Vec<Vec<usize>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (limbo, done) = (&limbo, &done);
                    scope.spawn(move || {
                        let freed = RefCell::default();
                        for object in 0..OBJECTS {
                            die(limbo, thread as i64, thread * OBJECTS + object, &freed);
                        }
                        done.fetch_add(1, Ordering::Release);
                        freed.into_inner()
                    })
                })
                .collect();
            while done.load(Ordering::Acquire) < THREADS {
                let _ = taken(&limbo);
            }
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (thread, mut freed) in freed.into_iter().enumerate() {
            freed.extend(limbo.close(thread as i64));
            freed.sort_unstable();
            assert!(freed.into_iter().eq(thread * OBJECTS..(thread + 1) * OBJECTS));
        }
        assert!(limbo.is_idle());
    }
}
