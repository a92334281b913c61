//! The one heap run of a process: settings, tables, totals. Written by the hooks at any time, read and set by `memprof`.

use crate::abi::{Control, domain};
use crate::filter::Filter;
use crate::freed::Freed;
use crate::live::{Live, Sample};
use crate::stacks::{Entry, Table, figure};
use crate::weight;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering};

/// All zero is empty.
#[derive(Debug)]
#[repr(C)]
pub struct Tables {
    pub live: Live,
    pub freed: Freed,
    pub stacks: Table,
}

/// What was lost, by reason, and the totals.
#[derive(Debug, Default)]
pub struct Totals {
    pub samples: AtomicU64,
    pub freed_samples: AtomicU64,
    pub alloc_bytes: AtomicU64,
    pub alloc_count: AtomicU64,
    pub freed_bytes: AtomicU64,
    pub freed_count: AtomicU64,
    /// The table of live samples was full: samples, and the bytes they stood for.
    pub lost_samples: AtomicU64,
    pub lost_bytes: AtomicU64,
    /// The stack table was full: samples without a stack of their own.
    pub stack_table_full: AtomicU64,
    /// Python frames that could not be followed, and stacks cut in the middle.
    pub broken_stacks: AtomicU64,
    pub truncated_stacks: AtomicU64,
    /// A block came to be where a sampled one still was: its free was not seen.
    pub unseen_frees: AtomicU64,
    /// A block that was not freed after all, and found no room in the table any more.
    pub not_put_back: AtomicU64,
    /// Times that the rate was made coarser, to bound the samples per second.
    pub slowed_down: AtomicU64,
    /// Sampled mappings that are alive.
    pub mappings: AtomicU64,
    /// Bytes in CPython's arenas that came or went since the hooks were put in.
    pub arena_bytes: AtomicI64,
}

/// The largest estimate of live bytes so far. An entry's figures at the peak are noted when it first changes after it.
#[derive(Debug, Default)]
pub struct Peak {
    pub bytes: AtomicU64,
    pub time_ns: AtomicU64,
    /// Grows with every first free after a new peak.
    pub number: AtomicU64,
    /// Nothing was freed since the peak: what is alive is what was alive then.
    pub is_now: AtomicBool,
}

#[derive(Debug)]
pub struct Heap {
    tables: AtomicPtr<Tables>,
    /// Changes with every change of `rate`; a thread whose own differs draws anew.
    pub generation: AtomicU64,
    /// Mean distance of samples in bytes, as it is now; 0: nothing is sampled, frees are followed all the same.
    pub rate: AtomicU64,
    /// As asked for.
    pub base_rate: AtomicU64,
    /// Samples a second beyond which the rate is made coarser; 0: no bound.
    pub max_per_second: AtomicU64,
    /// Where the present tenth of a second began, and the samples in it.
    window_ns: AtomicU64,
    window_samples: AtomicU64,
    /// The number of the run, from 1: stacks of different runs differ.
    pub run: AtomicU64,
    /// Stands for the stacks that found no room.
    pub overflow: AtomicU32,
    pub stack_limit: AtomicU32,
    /// Python frames may be walked: the interpreter is not ending.
    pub walks: AtomicBool,
    pub serial: AtomicU64,
    pub gc_epoch: AtomicU32,
    /// Blocks freed within this time are temporary.
    pub temporary_ns: AtomicU64,
    pub totals: Totals,
    pub peak: Peak,
    controls: [AtomicPtr<Control>; 2],
}

/// A window of the bound on samples per second.
pub const WINDOW_NS: u64 = 100_000_000;

pub static HEAP: Heap = Heap {
    tables: AtomicPtr::new(core::ptr::null_mut()),
    generation: AtomicU64::new(0),
    rate: AtomicU64::new(0),
    base_rate: AtomicU64::new(0),
    max_per_second: AtomicU64::new(0),
    window_ns: AtomicU64::new(0),
    window_samples: AtomicU64::new(0),
    run: AtomicU64::new(0),
    overflow: AtomicU32::new(0),
    stack_limit: AtomicU32::new(0),
    walks: AtomicBool::new(false),
    serial: AtomicU64::new(0),
    gc_epoch: AtomicU32::new(0),
    temporary_ns: AtomicU64::new(1_000_000),
    totals: Totals {
        samples: AtomicU64::new(0),
        freed_samples: AtomicU64::new(0),
        alloc_bytes: AtomicU64::new(0),
        alloc_count: AtomicU64::new(0),
        freed_bytes: AtomicU64::new(0),
        freed_count: AtomicU64::new(0),
        lost_samples: AtomicU64::new(0),
        lost_bytes: AtomicU64::new(0),
        stack_table_full: AtomicU64::new(0),
        broken_stacks: AtomicU64::new(0),
        truncated_stacks: AtomicU64::new(0),
        unseen_frees: AtomicU64::new(0),
        not_put_back: AtomicU64::new(0),
        slowed_down: AtomicU64::new(0),
        mappings: AtomicU64::new(0),
        arena_bytes: AtomicI64::new(0),
    },
    peak: Peak {
        bytes: AtomicU64::new(0),
        time_ns: AtomicU64::new(0),
        number: AtomicU64::new(1),
        is_now: AtomicBool::new(false),
    },
    controls: [const { AtomicPtr::new(core::ptr::null_mut()) }; 2],
};

impl Heap {
    /// # Safety
    /// `tables` is all zero or was given before, and stays mapped for ever.
    pub unsafe fn set_tables(&self, tables: *mut Tables) {
        self.tables.store(tables, Ordering::Release);
    }

    #[inline]
    #[must_use]
    pub fn tables(&self) -> Option<&'static Tables> {
        // SAFETY: promised by the caller of `set_tables`; all zero is a valid state of all their parts.
        unsafe { self.tables.load(Ordering::Acquire).as_ref() }
    }

    /// The filter that fronts look at.
    #[must_use]
    pub fn filter(&self) -> Option<&'static Filter> {
        Some(&self.tables()?.live.filter)
    }

    /// From now on the settings are told to this front.
    pub fn add_control(&self, control: &'static Control) {
        let own = core::ptr::from_ref(control).cast_mut();
        for slot in &self.controls {
            let now = slot.compare_exchange(core::ptr::null_mut(), own, Ordering::AcqRel, Ordering::Acquire);
            if now.is_ok() || now == Err(own) {
                return;
            }
        }
    }

    pub fn controls(&self) -> impl Iterator<Item = &'static Control> + '_ {
        // SAFETY: only `add_control` stores here.
        self.controls.iter().filter_map(|slot| unsafe { slot.load(Ordering::Acquire).as_ref() })
    }

    /// Samples every `rate` bytes from now on; 0 stops. Every thread draws anew at its next allocation.
    pub fn set_rate(&self, rate: u64) {
        self.rate.store(rate, Ordering::SeqCst);
        let generation = self.generation.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        for control in self.controls() {
            // The front's threads differ from it until they have drawn; the value itself does not matter.
            control.generation.store(generation, Ordering::Release);
        }
    }

    /// Keeps the samples per second within their bound, by taking half as many from now on. Runs in the hooks.
    pub(crate) fn bound(&self, now_ns: u64) {
        let most = self.max_per_second.load(Ordering::Relaxed);
        if most == 0 {
            return;
        }
        let start = self.window_ns.load(Ordering::Relaxed);
        if now_ns.wrapping_sub(start) >= WINDOW_NS {
            if self.window_ns.compare_exchange(start, now_ns, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                self.window_samples.store(0, Ordering::Relaxed);
            }
            return;
        }
        let samples = self.window_samples.fetch_add(1, Ordering::Relaxed);
        let share = (most / 10).max(1);
        // Once for each further share of the bound within the window.
        if samples >= share && samples.checked_rem(share) == Some(0) {
            let rate = self.rate.load(Ordering::Relaxed);
            if rate != 0 && rate < 1 << 50 {
                self.totals.slowed_down.fetch_add(1, Ordering::Relaxed);
                self.set_rate(rate.wrapping_mul(2));
            }
        }
    }

    /// Comes back towards the rate asked for, when there is room. Runs now and then, outside the hooks.
    pub fn relax(&self, now_ns: u64) {
        let (rate, base) = (self.rate.load(Ordering::Relaxed), self.base_rate.load(Ordering::Relaxed));
        if rate == 0 || rate <= base {
            return;
        }
        let window = now_ns.wrapping_sub(self.window_ns.load(Ordering::Relaxed));
        // A window that nobody has renewed for so long has no samples any more.
        let stale = window >= WINDOW_NS.wrapping_mul(2);
        let samples = if stale { 0 } else { self.window_samples.load(Ordering::Relaxed) };
        let share = self.max_per_second.load(Ordering::Relaxed) / 10;
        if window >= WINDOW_NS / 2 && samples.wrapping_mul(4) < share {
            self.set_rate((rate / 2).max(base));
        }
    }

    fn live_bytes(&self) -> u64 {
        let freed = self.totals.freed_bytes.load(Ordering::Relaxed);
        self.totals.alloc_bytes.load(Ordering::Relaxed).saturating_sub(freed)
    }

    /// Notes what an entry had at the peak, if this is its first change after it.
    fn note_peak(&self, entry: &Entry<'_>) {
        let number = self.peak.number.load(Ordering::Relaxed);
        if !self.peak.is_now.load(Ordering::Relaxed) && entry.figure(figure::PEAK) != number {
            let live = |alloc, freed| entry.figure(alloc).saturating_sub(entry.figure(freed));
            entry.set(figure::PEAK_BYTES, live(figure::ALLOC_BYTES, figure::FREED_BYTES));
            entry.set(figure::PEAK_COUNT, live(figure::ALLOC_COUNT, figure::FREED_COUNT));
            entry.set(figure::PEAK, number);
        }
    }

    /// What an entry had at the peak: bytes and blocks.
    #[must_use]
    pub fn at_peak(&self, entry: &Entry<'_>) -> (u64, u64) {
        let noted = entry.figure(figure::PEAK) == self.peak.number.load(Ordering::Relaxed);
        if noted && !self.peak.is_now.load(Ordering::Relaxed) {
            return (entry.figure(figure::PEAK_BYTES), entry.figure(figure::PEAK_COUNT));
        }
        (
            entry.figure(figure::ALLOC_BYTES).saturating_sub(entry.figure(figure::FREED_BYTES)),
            entry.figure(figure::ALLOC_COUNT).saturating_sub(entry.figure(figure::FREED_COUNT)),
        )
    }

    /// A sampled block came to be.
    pub(crate) fn account_alloc(&self, tables: &Tables, sample: &Sample) {
        let totals = &self.totals;
        if let Some(entry) = tables.stacks.entry(sample.stack) {
            self.note_peak(&entry);
            entry.add(figure::SAMPLES, 1);
            entry.add(figure::ALLOC_BYTES, sample.bytes);
            entry.add(figure::ALLOC_COUNT, sample.count);
            entry.add_float(figure::BYTES_VARIANCE, weight::variance(sample.size, sample.inverse));
            entry.add_float(figure::COUNT_VARIANCE, weight::variance(1, sample.inverse));
        }
        totals.samples.fetch_add(1, Ordering::Relaxed);
        totals.alloc_count.fetch_add(sample.count, Ordering::Relaxed);
        totals.alloc_bytes.fetch_add(sample.bytes, Ordering::Relaxed);
        if sample.domain == domain::MMAP {
            totals.mappings.fetch_add(1, Ordering::Relaxed);
        }
        let live = self.live_bytes();
        if live > self.peak.bytes.fetch_max(live, Ordering::Relaxed) {
            self.peak.time_ns.store(sample.time_ns, Ordering::Relaxed);
            self.peak.is_now.store(true, Ordering::Relaxed);
        }
    }

    /// `bytes` and `count` of a sampled block are gone; `last`: all that was left of it.
    pub(crate) fn account_free(&self, tables: &Tables, sample: &Sample, now_ns: u64, last: bool) {
        let totals = &self.totals;
        if self.peak.is_now.swap(false, Ordering::Relaxed) {
            self.peak.number.fetch_add(1, Ordering::Relaxed);
        }
        let lifetime = now_ns.saturating_sub(sample.time_ns);
        let count = if last { sample.count } else { 0 };
        if let Some(entry) = tables.stacks.entry(sample.stack) {
            self.note_peak(&entry);
            entry.add(figure::FREED_BYTES, sample.bytes);
            entry.add(figure::FREED_COUNT, count);
            if last {
                entry.add(figure::FREED_SAMPLES, 1);
                entry.add(figure::LIFETIME_NS, lifetime);
                if lifetime < self.temporary_ns.load(Ordering::Relaxed) {
                    entry.add(figure::TEMPORARY_BYTES, sample.bytes);
                    entry.add(figure::TEMPORARY_COUNT, count);
                }
            }
        }
        totals.freed_bytes.fetch_add(sample.bytes, Ordering::Relaxed);
        totals.freed_count.fetch_add(count, Ordering::Relaxed);
        if last {
            totals.freed_samples.fetch_add(1, Ordering::Relaxed);
            if sample.domain == domain::MMAP {
                totals.mappings.fetch_sub(1, Ordering::Relaxed);
            }
            tables.freed.push(sample, now_ns);
        }
    }
}
