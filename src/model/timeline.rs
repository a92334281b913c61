//! The samples in order of arrival, 16 bytes each, in chunks; coarsened when memory is short, losing no count and no weight.
//!
//! Coarsening merges the samples of one thread at one node within a time bucket, a few chunks at a time from the oldest on;
//! each pass over the timeline takes a bucket at least twice as wide. Chunk borders only ever disappear, so a border is a position
//! (a number of recorded samples) that never moved: a journal can name it.

use crate::ids::{NodeId, ThreadId};
use rustc_hash::{FxHashMap, FxHashSet};

/// One retained sample, or several (`count`) of the same thread and node merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample {
    /// Since the start of the profile; of merged samples: of their bucket.
    pub time_ns: u64,
    pub thread: ThreadId,
    pub node: NodeId,
    /// Sum of the merged samples' weights.
    pub weight_ns: u64,
    pub count: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Since the chunk's base.
    dt: u32,
    thread: u32,
    node: u32,
    weight: u32,
}

/// What does not fit an entry; a chunk has these for all of its entries or for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Excess {
    dt_high: u32,
    weight_high: u32,
    count: u32,
}

impl Excess {
    const NONE: Self = Self { dt_high: 0, weight_high: 0, count: 1 };
}

const _: () = assert!(size_of::<Entry>() == 16 && size_of::<Excess>() == 12);

/// Samples in a chunk while recording; 32 KiB.
const CHUNK: usize = 2048;
/// A chunk with at least this many entries, none of which needs an excess, is left for a new one sooner than it takes the first
/// excess: up to 12 bytes for every entry against some 80 for a chunk.
const WORTH_A_CHUNK: usize = 32;
/// Entries merged in one step if that gains enough, which bounds how long a `record` takes.
const STEP: usize = 4 * CHUNK;
/// Threads are drained one after the other, so times step back a little: a new chunk's base lies this far before its first sample.
const SLACK_NS: u64 = 1 << 30;

#[derive(Clone, Debug)]
struct Chunk {
    /// Recorded samples before this chunk.
    position: u64,
    /// Retained samples before this chunk.
    first: usize,
    base_ns: u64,
    entries: Vec<Entry>,
    excess: Vec<Excess>,
}

impl Chunk {
    fn get(&self, i: usize) -> Sample {
        let entry = self.entries[i];
        let excess = self.excess.get(i).copied().unwrap_or(Excess::NONE);
        Sample {
            time_ns: self.base_ns + (u64::from(excess.dt_high) << 32 | u64::from(entry.dt)),
            thread: ThreadId(entry.thread),
            node: NodeId(entry.node),
            weight_ns: u64::from(excess.weight_high) << 32 | u64::from(entry.weight),
            count: u64::from(excess.count),
        }
    }

    fn iter(&self) -> impl Iterator<Item = Sample> + '_ {
        (0..self.entries.len()).map(|i| self.get(i))
    }

    /// `None`: a new chunk should take it, because this one cannot or because it would waste space.
    fn push(&mut self, sample: &Sample, worth_a_chunk: usize) -> Option<()> {
        let dt = sample.time_ns.checked_sub(self.base_ns)?;
        let excess = Excess {
            dt_high: (dt >> 32) as u32,
            weight_high: (sample.weight_ns >> 32) as u32,
            count: u32::try_from(sample.count).ok()?,
        };
        if !self.excess.is_empty() || excess != Excess::NONE {
            if self.excess.is_empty() && !self.entries.is_empty() {
                if self.entries.len() >= worth_a_chunk {
                    return None;
                }
                self.excess.resize(self.entries.len(), Excess::NONE);
            }
            self.excess.push(excess);
        }
        let (dt, weight) = (dt as u32, sample.weight_ns as u32);
        self.entries.push(Entry { dt, thread: sample.thread.0, node: sample.node.0, weight });
        Some(())
    }

    fn memory_bytes(&self) -> u64 {
        (size_of::<Self>() + self.entries.capacity() * 16 + self.excess.capacity() * 12) as u64
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Timeline {
    chunks: Vec<Chunk>,
    /// Bytes of all chunks but the last.
    sealed_bytes: u64,
    recorded: u64,
    /// Sum of all weights, to guess the sampling interval by.
    weight_ns: u64,
    latest_ns: u64,
    /// Buckets are `1 << shift` ns wide; 0: never coarsened.
    shift: u32,
    /// Chunks before this one are as coarse as `shift` says.
    swept: usize,
    /// Entries merged at a time in this pass.
    step: usize,
    /// The thread row that takes samples merged across threads, the last resort; and whether it is wanted.
    several_threads: Option<ThreadId>,
    wants_several_threads: bool,
}

impl Timeline {
    /// Appends a sample, coarsening what is there to stay below `budget_bytes`.
    pub fn push(&mut self, sample: &Sample, budget_bytes: u64) {
        self.recorded += sample.count;
        self.weight_ns = self.weight_ns.saturating_add(sample.weight_ns);
        self.latest_ns = self.latest_ns.max(sample.time_ns);
        if let Some(last) = self.chunks.last_mut()
            && last.entries.len() < CHUNK
            && last.push(sample, WORTH_A_CHUNK).is_some()
        {
            return;
        }
        self.open_chunk(sample, budget_bytes);
    }

    #[cold]
    fn open_chunk(&mut self, sample: &Sample, budget_bytes: u64) {
        if let Some(last) = self.chunks.last_mut() {
            last.entries.shrink_to_fit();
            last.excess.shrink_to_fit();
            self.sealed_bytes += last.memory_bytes();
        }
        // The new chunk will be as large as this at most, while it is written.
        let next = (CHUNK * (size_of::<Entry>() + size_of::<Excess>())) as u64;
        while self.sealed_bytes + self.spine_growth() + next > budget_bytes && self.coarsen_step() {}
        let mut chunk = Chunk {
            position: self.recorded - sample.count,
            first: self.retained(),
            base_ns: sample.time_ns.saturating_sub(SLACK_NS),
            // Small programs stay small; the size doubles up to CHUNK.
            entries: Vec::new(),
            excess: Vec::new(),
        };
        if sample.count > u64::from(u32::MAX) {
            self.push_split(chunk, sample);
            return;
        }
        chunk.push(sample, CHUNK);
        self.chunks.push(chunk);
    }

    /// A count beyond 32 bits becomes several entries; the first holds the weight.
    fn push_split(&mut self, mut chunk: Chunk, sample: &Sample) {
        let (mut left, mut weight_ns) = (sample.count, sample.weight_ns);
        while left > 0 {
            let count = left.min(u64::from(u32::MAX));
            chunk.push(&Sample { count, weight_ns: std::mem::take(&mut weight_ns), ..*sample }, CHUNK);
            left -= count;
        }
        self.chunks.push(chunk);
    }

    /// Merges the next few chunks. False: nothing is left to gain.
    fn coarsen_step(&mut self) -> bool {
        if (self.shift == 0 || self.swept >= self.chunks.len()) && !self.start_pass() {
            return self.merge_all();
        }
        let (start, end) = (self.swept, self.group_end(self.swept, self.step));
        self.replace(start, end, self.shift, None);
        self.swept = start + 1;
        true
    }

    /// Picks the narrowest bucket, and the fewest entries to merge at a time, that halve a group in the middle of the timeline:
    /// a pass that gains nothing would hold up the rings. False: nothing halves it.
    fn start_pass(&mut self) -> bool {
        let widest = self.widest_shift();
        let interval_ns = self.weight_ns / self.recorded.max(1);
        let narrowest = if self.shift == 0 { interval_ns.max(1 << 10).ilog2() } else { self.shift } + 1;
        if narrowest > widest {
            return false;
        }
        let mut step = STEP;
        loop {
            let whole = step * 2 >= self.retained();
            let start = if whole { 0 } else { self.chunks.len() / 2 };
            let end = if whole { self.chunks.len() } else { self.group_end(start, step) };
            let halved_by = |shift: u32| halves(&self.chunks[start..end], shift);
            if halved_by(widest) {
                // Wider buckets merge more, so this bisects for the first that is wide enough.
                let (mut low, mut high) = (narrowest, widest);
                while low < high {
                    let middle = low.midpoint(high);
                    if halved_by(middle) {
                        high = middle;
                    } else {
                        low = middle + 1;
                    }
                }
                (self.shift, self.step, self.swept) = (high, step, 0);
                return true;
            }
            if whole {
                return false;
            }
            step *= 8;
        }
    }

    /// One bucket of `1 << shift` ns holds all times.
    fn widest_shift(&self) -> u32 {
        (u64::BITS - self.latest_ns.leading_zeros()).clamp(1, 63)
    }

    /// Where a group ends that begins at a chunk: as many chunks as `step` entries allow, at least one.
    fn group_end(&self, start: usize, step: usize) -> usize {
        let limit = self.chunks[start].first + step;
        let fits = |chunk: &&Chunk| chunk.first + chunk.entries.len() <= limit;
        start + self.chunks[start..].iter().take_while(fits).count().max(1)
    }

    /// Beyond the widest bucket: one entry for a thread and node, and if that does not help, one for a node. The tree, which
    /// has its own limit, bounds those. False: this was done and is the least there can be.
    fn merge_all(&mut self) -> bool {
        let before = self.retained();
        self.shift = self.widest_shift();
        self.replace(0, self.chunks.len(), self.shift, None);
        self.swept = self.chunks.len();
        if self.retained() * 2 <= before {
            return true;
        }
        let Some(several) = self.several_threads else {
            self.wants_several_threads = true;
            return false;
        };
        let before = self.retained();
        self.replace(0, self.chunks.len(), self.shift, Some(several));
        self.swept = self.chunks.len();
        self.retained() < before
    }

    /// Whether short memory asks for a thread row to merge the samples of several threads on.
    pub fn wants_several_threads(&self) -> bool {
        self.wants_several_threads
    }

    pub fn set_several_threads(&mut self, thread: ThreadId) {
        self.several_threads = Some(thread);
        self.wants_several_threads = false;
    }

    fn replace(&mut self, start: usize, end: usize, shift: u32, several_threads: Option<ThreadId>) {
        if start == end {
            return;
        }
        let before: u64 = self.chunks[start..end].iter().map(Chunk::memory_bytes).sum();
        let merged = merge_chunks(&self.chunks[start..end], shift, several_threads);
        self.sealed_bytes = self.sealed_bytes - before + merged.memory_bytes();
        let mut first = merged.first + merged.entries.len();
        self.chunks.splice(start..end, [merged]);
        for chunk in &mut self.chunks[start + 1..] {
            chunk.first = first;
            first += chunk.entries.len();
        }
    }

    pub fn retained(&self) -> usize {
        self.chunks.last().map_or(0, |last| last.first + last.entries.len())
    }

    pub fn recorded(&self) -> u64 {
        self.recorded
    }

    pub fn coarsened(&self) -> bool {
        self.shift != 0
    }

    pub fn get(&self, index: usize) -> Option<Sample> {
        let chunk = &self.chunks[self.chunks.partition_point(|chunk| chunk.first <= index).checked_sub(1)?];
        (index - chunk.first < chunk.entries.len()).then(|| chunk.get(index - chunk.first))
    }

    pub fn iter(&self) -> impl Iterator<Item = Sample> + '_ {
        self.chunks.iter().flat_map(Chunk::iter)
    }

    /// The retained samples from a position on, and the position they start at: at most the one asked for, as merged samples
    /// cannot be cut.
    pub fn iter_from(&self, position: u64) -> (u64, impl Iterator<Item = Sample> + '_) {
        let at = self.chunks.partition_point(|chunk| chunk.position <= position).saturating_sub(1);
        let (start, skip) = match self.chunks.get(at) {
            _ if position >= self.recorded => (self.recorded, usize::MAX),
            Some(chunk) if chunk.excess.is_empty() => (position, (position - chunk.position) as usize),
            Some(chunk) => (chunk.position, 0),
            None => (position, 0),
        };
        (start, self.chunks[at.min(self.chunks.len())..].iter().flat_map(Chunk::iter).skip(skip))
    }

    pub fn memory_bytes(&self) -> u64 {
        let spare = self.chunks.capacity() - self.chunks.len();
        self.sealed_bytes + self.chunks.last().map_or(0, Chunk::memory_bytes) + (spare * size_of::<Chunk>()) as u64
    }

    /// Bytes that the table of chunks takes, or will, for chunks that are not there.
    fn spine_growth(&self) -> u64 {
        let capacity =
            if self.chunks.len() < self.chunks.capacity() { self.chunks.capacity() } else { self.chunks.len() * 2 };
        ((capacity - self.chunks.len()) * size_of::<Chunk>()) as u64
    }
}

/// Whether merging by buckets of `1 << shift` ns leaves at most half of the entries.
fn halves(chunks: &[Chunk], shift: u32) -> bool {
    let samples = chunks.iter().flat_map(Chunk::iter);
    let distinct: FxHashSet<_> = samples.map(|sample| (sample.time_ns >> shift, sample.thread, sample.node)).collect();
    let entries: usize = chunks.iter().map(|chunk| chunk.entries.len()).sum();
    distinct.len() * 2 <= entries
}

/// One chunk of the same counts and weights, by (bucket, thread, node), in order of time.
fn merge_chunks(chunks: &[Chunk], shift: u32, several_threads: Option<ThreadId>) -> Chunk {
    let mut seen: FxHashMap<(u64, ThreadId, NodeId), usize> = FxHashMap::default();
    let mut merged: Vec<Sample> = Vec::new();
    for sample in chunks.iter().flat_map(Chunk::iter) {
        let bucket = sample.time_ns >> shift;
        let thread = several_threads.unwrap_or(sample.thread);
        let slot = seen.entry((bucket, thread, sample.node)).or_insert(merged.len());
        match merged.get_mut(*slot) {
            Some(entry) if entry.count + sample.count <= u64::from(u32::MAX) => {
                entry.count += sample.count;
                entry.weight_ns = entry.weight_ns.saturating_add(sample.weight_ns);
            }
            _ => {
                *slot = merged.len();
                merged.push(Sample { time_ns: bucket << shift, thread, ..sample });
            }
        }
    }
    merged.sort_by_key(|sample| sample.time_ns);
    let mut chunk = Chunk {
        position: chunks[0].position,
        first: chunks[0].first,
        base_ns: merged.first().map_or(0, |sample| sample.time_ns),
        entries: Vec::with_capacity(merged.len()),
        excess: Vec::new(),
    };
    for sample in &merged {
        let fits = chunk.push(sample, usize::MAX).is_some();
        debug_assert!(fits, "merged counts are bounded and times are sorted");
    }
    chunk.excess.shrink_to_fit();
    chunk
}
