//! What is alive at one moment, what was allocated and freed up to it, and how sure the estimates are.
//!
//! Reads the tables while the program goes on: each sample is seen whole or not at all, and the figures of stacks may be a few
//! allocations ahead of the samples.

use super::names::Names;
use super::{HEAP, Point, State, fronts, runtime, state};
use crate::error::{Error, Result};
use rustc_hash::FxHashMap;
use spprof_heap::hooks::now_ns;
use spprof_heap::live::{RECORDS, Sample};
use spprof_heap::stacks::{Entry, Table, figure};
use spprof_heap::weight;
use spprof_model::{Column, NodeId, Profile, Thread, ThreadId};
use std::sync::atomic::{AtomicU64, Ordering};

/// A sampled block, with the node of its stack.
#[derive(Clone, Copy, Debug)]
pub struct HeapSample {
    pub sample: Sample,
    pub node: NodeId,
    /// Of a block that was freed.
    pub lifetime_ns: Option<u64>,
}

/// Everything that was allocated at one stack. Bytes and counts are estimates.
#[derive(Clone, Copy, Debug, Default)]
pub struct Site {
    pub samples: u64,
    pub alloc_bytes: u64,
    pub alloc_count: u64,
    pub freed_samples: u64,
    pub freed_bytes: u64,
    pub freed_count: u64,
    pub live_bytes: u64,
    pub live_count: u64,
    /// Mean over the freed samples is this by their number.
    pub lifetime_ns: u64,
    pub temporary_bytes: u64,
    pub temporary_count: u64,
    pub peak_bytes: u64,
    pub peak_count: u64,
}

/// An estimate and how far it is off, typically.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total {
    pub value: u64,
    variance: f64,
}

impl Total {
    #[must_use]
    pub fn standard_error(&self) -> f64 {
        self.variance.max(0.0).sqrt()
    }

    fn add(&mut self, value: u64, variance: f64) {
        self.value += value;
        self.variance += variance;
    }
}

#[derive(Debug)]
pub struct HeapSnapshot {
    /// Names, tree, and the live samples as a timeline whose weights are bytes.
    pub profile: Profile,
    pub live: Vec<HeapSample>,
    /// The last ones that were freed.
    pub freed: Vec<HeapSample>,
    pub sites: Vec<(NodeId, Site)>,
    /// Bytes and blocks, as malloc, Python's own, mappings.
    pub live_bytes: Total,
    pub live_count: Total,
    pub alloc_bytes: Total,
    pub alloc_count: Total,
    pub by_domain: [(u64, u64); 3],
    pub time_ns: u64,
    pub peak_bytes: u64,
    pub peak_time_ns: u64,
    pub history: Vec<Point>,
    pub figures: Figures,
    /// "preload" or "in-process".
    pub malloc: &'static str,
    /// The largest size each of CPython's domains (raw, mem, object) serves itself.
    pub splits: Vec<usize>,
    pub notes: Vec<String>,
}

/// Counters of the run.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub total_samples: u64,
    pub live_samples: u64,
    pub freed_samples: u64,
    pub unique_stacks: u64,
    pub rate_bytes: u64,
    pub base_rate_bytes: u64,
    pub live_bytes: u64,
    /// Percentage of the table of live samples that was ever in use.
    pub table_load_percent: f64,
    pub memory_bytes: u64,
    pub arena_bytes: i64,
    /// Always the full list.
    pub losses: Vec<(&'static str, u64)>,
}

impl State {
    fn figures(&self) -> Figures {
        let totals = &HEAP.totals;
        let load = |total: &AtomicU64| total.load(Ordering::Relaxed);
        let (total_samples, freed_samples) = (load(&totals.samples), load(&totals.freed_samples));
        let unique_stacks = HEAP.tables().map_or(0, |tables| u64::from(tables.stacks.len()));
        let used = HEAP.tables().map_or(0, |tables| u64::from(tables.live.used()));
        let refused = self.names.as_ref().map_or(0, |names| names.model.losses().iter().map(|(_, count)| count).sum());
        Figures {
            total_samples,
            live_samples: total_samples.saturating_sub(freed_samples),
            freed_samples,
            unique_stacks,
            rate_bytes: load(&HEAP.rate),
            base_rate_bytes: load(&HEAP.base_rate),
            live_bytes: load(&totals.alloc_bytes).saturating_sub(load(&totals.freed_bytes)),
            table_load_percent: 100.0 * total_samples.saturating_sub(freed_samples) as f64 / RECORDS as f64,
            memory_bytes: self.names.as_ref().map_or(0, Names::memory_bytes) + used * 96 + unique_stacks * 700,
            arena_bytes: totals.arena_bytes.load(Ordering::Relaxed),
            losses: vec![
                ("table_full", load(&totals.lost_samples)),
                ("table_full_bytes", load(&totals.lost_bytes)),
                ("stack_table_full", load(&totals.stack_table_full)),
                ("broken_stack", load(&totals.broken_stacks)),
                ("truncated", load(&totals.truncated_stacks)),
                ("unseen_frees", load(&totals.unseen_frees)),
                ("not_put_back", load(&totals.not_put_back)),
                ("slowed_down", load(&totals.slowed_down)),
                ("names_full", refused),
            ],
        }
    }

    fn snapshot(&mut self, thread_names: &FxHashMap<u32, (u64, Vec<u8>)>) -> Result<HeapSnapshot> {
        let (Some(tables), Some(names)) = (HEAP.tables(), &mut self.names) else {
            return Err(Error::runtime("Memory profiler is not initialized"));
        };
        let time_ns = now_ns();
        let live: Vec<Sample> = tables.live.samples().map(|(_, sample)| sample).collect();
        let freed: Vec<(Sample, u64)> = tables.freed.samples().collect();
        names.resolve(&tables.stacks);
        let mut node_of = |id| node_of(names, &tables.stacks, id);
        let live: Vec<HeapSample> = live
            .into_iter()
            .map(|sample| HeapSample { sample, node: node_of(sample.stack), lifetime_ns: None })
            .collect();
        let freed = freed
            .into_iter()
            .map(|(sample, lifetime)| HeapSample { sample, node: node_of(sample.stack), lifetime_ns: Some(lifetime) })
            .collect();
        let mut sites: FxHashMap<NodeId, Site> = FxHashMap::default();
        let (mut alloc_bytes, mut alloc_count) = (Total::default(), Total::default());
        for entry in (0..tables.stacks.len()).filter_map(|n| tables.stacks.nth(n)) {
            let site = sites.entry(node_of(entry.id)).or_default();
            site.add(&entry);
            alloc_bytes.add(entry.figure(figure::ALLOC_BYTES), f64::from_bits(entry.figure(figure::BYTES_VARIANCE)));
            alloc_count.add(entry.figure(figure::ALLOC_COUNT), f64::from_bits(entry.figure(figure::COUNT_VARIANCE)));
        }
        let (mut live_bytes, mut live_count, mut by_domain) = (Total::default(), Total::default(), [(0, 0); 3]);
        for HeapSample { sample, node, .. } in &live {
            live_bytes.add(sample.bytes, weight::variance(sample.size, sample.inverse));
            live_count.add(sample.count, weight::variance(1, sample.inverse));
            let site = sites.entry(*node).or_default();
            site.live_bytes += sample.bytes;
            site.live_count += sample.count;
            if let Some((bytes, count)) = by_domain.get_mut(sample.domain as usize) {
                *bytes += sample.bytes;
                *count += sample.count;
            }
        }
        let mut sites: Vec<_> = sites.into_iter().filter(|(_, site)| site.samples > 0).collect();
        sites.sort_unstable_by_key(|(node, site)| (std::cmp::Reverse(site.live_bytes), *node));
        let mut profile = names.model.clone();
        record(&mut profile, &live, thread_names);
        for (node, site) in &sites {
            for (column, value) in [
                (Column::AllocBytes, site.alloc_bytes),
                (Column::AllocCount, site.alloc_count),
                (Column::LiveCount, site.live_count),
                (Column::PeakBytes, site.peak_bytes),
                (Column::PeakCount, site.peak_count),
            ] {
                profile.add(column, *node, value);
            }
        }
        describe(&mut profile, time_ns);
        let figures = self.figures();
        profile.meta.losses = figures.losses.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
        profile.meta.notes.clone_from(&self.notes);
        profile.meta.interval_ns = figures.base_rate_bytes;
        Ok(HeapSnapshot {
            profile,
            live,
            freed,
            sites,
            live_bytes,
            live_count,
            alloc_bytes,
            alloc_count,
            by_domain,
            time_ns,
            peak_bytes: HEAP.peak.bytes.load(Ordering::Relaxed),
            peak_time_ns: HEAP.peak.time_ns.load(Ordering::Relaxed),
            history: self.history.points().to_vec(),
            figures,
            malloc: self.malloc.map_or("", fronts::MallocHooks::name),
            splits: self.splits.clone(),
            notes: self.notes.clone(),
        })
    }
}

/// An entry that is being published just now is not resolved yet; its code is alive.
fn node_of(names: &mut Names, table: &Table, id: u32) -> NodeId {
    match table.entry(id) {
        Some(entry) => entry.node().map_or_else(|| names.node(&entry), NodeId::from_index),
        None => NodeId::ROOT,
    }
}

impl Site {
    fn add(&mut self, entry: &Entry<'_>) {
        let (peak_bytes, peak_count) = HEAP.at_peak(entry);
        let fields = [
            (&mut self.samples, entry.figure(figure::SAMPLES)),
            (&mut self.alloc_bytes, entry.figure(figure::ALLOC_BYTES)),
            (&mut self.alloc_count, entry.figure(figure::ALLOC_COUNT)),
            (&mut self.freed_samples, entry.figure(figure::FREED_SAMPLES)),
            (&mut self.freed_bytes, entry.figure(figure::FREED_BYTES)),
            (&mut self.freed_count, entry.figure(figure::FREED_COUNT)),
            (&mut self.lifetime_ns, entry.figure(figure::LIFETIME_NS)),
            (&mut self.temporary_bytes, entry.figure(figure::TEMPORARY_BYTES)),
            (&mut self.temporary_count, entry.figure(figure::TEMPORARY_COUNT)),
            (&mut self.peak_bytes, peak_bytes),
            (&mut self.peak_count, peak_count),
        ];
        for (sum, value) in fields {
            *sum += value;
        }
    }
}

/// The live samples, as a profile's timeline.
fn record(profile: &mut Profile, live: &[HeapSample], names: &FxHashMap<u32, (u64, Vec<u8>)>) {
    let mut threads: FxHashMap<u32, ThreadId> = FxHashMap::default();
    for HeapSample { sample, node, .. } in live {
        let thread = *threads.entry(sample.tid).or_insert_with(|| {
            let (python_ident, name) = match names.get(&sample.tid) {
                Some((ident, name)) => (*ident, Some(profile.intern(name))),
                None => {
                    let name = crate::sampler::tasks::name(sample.tid as i32);
                    (0, name.map(|name| profile.intern(&name)))
                }
            };
            profile.thread(Thread { os_id: u64::from(sample.tid), python_ident, name, ..Thread::default() })
        });
        profile.record_merged(&spprof_model::Sample {
            time_ns: sample.time_ns,
            thread,
            node: *node,
            weight_ns: sample.bytes,
            count: 1,
        });
    }
}

fn describe(profile: &mut Profile, time_ns: u64) {
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    profile.meta.start_unix_ns = unix.as_nanos() as u64;
    profile.meta.duration_ns = time_ns;
    runtime::describe_process(&mut profile.meta);
}

/// What is alive now. `thread_names`: what Python calls its threads, by their kernel ids.
pub fn take(thread_names: &FxHashMap<u32, (u64, Vec<u8>)>) -> Result<HeapSnapshot> {
    let _uncounted = fronts::Uncounted::new();
    state(|state| {
        state.look_for_objects();
        state.snapshot(thread_names)
    })
}

/// Counters of the run; an error before the first start and after shutdown.
pub fn figures() -> Result<Figures> {
    let _uncounted = fronts::Uncounted::new();
    state(|state| match (&state.names, state.is_shut_down) {
        (Some(_), false) => Ok(state.figures()),
        _ => Err(Error::runtime("Memory profiler is not initialized")),
    })
}
