//! Where the time goes: self and total by function and by line, recursion counted once. Pure views.

use crate::columns::Column;
use crate::ids::{FunctionId, NodeId, ThreadId};
use crate::profile::Profile;
use rustc_hash::FxHashMap;

/// Self values by node index.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Values {
    pub samples: Vec<u64>,
    pub weight_ns: Vec<u64>,
}

/// Self and total of one function, or of one line of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HotRow {
    pub function: FunctionId,
    /// 0 in a list by function.
    pub line: u32,
    pub self_samples: u64,
    pub total_samples: u64,
    pub self_ns: u64,
    pub total_ns: u64,
}

impl Values {
    /// Of the whole profile, from its columns. Of a trace, calls in the place of samples.
    #[must_use]
    pub fn of_profile(profile: &Profile) -> Self {
        let nodes = profile.nodes().len();
        let column = |column| {
            let mut values = profile.column(column).unwrap_or_default().to_vec();
            values.resize(nodes, 0);
            values
        };
        if profile.is_trace() {
            return Self { samples: column(Column::Calls), weight_ns: column(Column::SelfNs) };
        }
        Self { samples: column(Column::Samples), weight_ns: column(profile.time_column()) }
    }

    /// Of one thread, from the timeline.
    #[must_use]
    pub fn of_thread(profile: &Profile, thread: ThreadId) -> Self {
        let nodes = profile.nodes().len();
        let mut values = Self { samples: vec![0; nodes], weight_ns: vec![0; nodes] };
        for sample in profile.samples().filter(|sample| sample.thread == thread) {
            add(&mut values.samples[sample.node.index()], sample.count);
            add(&mut values.weight_ns[sample.node.index()], sample.weight_ns);
        }
        values
    }

    /// With the values of all descendants added.
    #[must_use]
    pub fn into_totals(mut self, profile: &Profile) -> Self {
        for (i, node) in profile.nodes().iter().enumerate().skip(1).rev() {
            let (samples, weight_ns) = (self.samples[i], self.weight_ns[i]);
            add(&mut self.samples[node.parent.index()], samples);
            add(&mut self.weight_ns[node.parent.index()], weight_ns);
        }
        self
    }
}

/// By function, largest self time first.
#[must_use]
pub fn hot_functions(profile: &Profile, values: &Values) -> Vec<HotRow> {
    hot(profile, values, |function, _| (function, 0))
}

/// By line, largest self time first.
#[must_use]
pub fn hot_lines(profile: &Profile, values: &Values) -> Vec<HotRow> {
    hot(profile, values, |function, line| (function, line))
}

fn hot(profile: &Profile, values: &Values, key: impl Fn(FunctionId, u32) -> (FunctionId, u32)) -> Vec<HotRow> {
    let nodes = profile.nodes();
    let totals = values.clone().into_totals(profile);
    let mut slots: FxHashMap<(FunctionId, u32), u32> = FxHashMap::default();
    let mut rows: Vec<HotRow> = Vec::new();
    let mut slot_of = vec![u32::MAX; nodes.len()];
    for (i, node) in nodes.iter().enumerate().skip(1) {
        let (function, line) = key(node.function, node.line);
        let slot = *slots.entry((function, line)).or_insert_with(|| {
            rows.push(HotRow { function, line, self_samples: 0, total_samples: 0, self_ns: 0, total_ns: 0 });
            rows.len() as u32 - 1
        });
        slot_of[i] = slot;
        add(&mut rows[slot as usize].self_samples, values.samples[i]);
        add(&mut rows[slot as usize].self_ns, values.weight_ns[i]);
    }
    // A node's total counts if no ancestor has the same key: a walk that keeps the number of open nodes per key.
    let mut open = vec![0_u32; rows.len()];
    walk(profile, |node, entering| {
        let slot = slot_of[node.index()] as usize;
        if !entering {
            open[slot] -= 1;
            return;
        }
        if open[slot] == 0 {
            add(&mut rows[slot].total_samples, totals.samples[node.index()]);
            add(&mut rows[slot].total_ns, totals.weight_ns[node.index()]);
        }
        open[slot] += 1;
    });
    rows.retain(|row| row.total_samples > 0 || row.total_ns > 0);
    rows.sort_by_key(|row| std::cmp::Reverse((row.self_ns, row.self_samples, row.total_ns)));
    rows
}

/// Saturates: the numbers of a file may be anything.
pub(crate) fn add(sum: &mut u64, value: u64) {
    *sum = sum.saturating_add(value);
}

/// Depth first, without recursion: `visit(node, true)` before a node's children, `visit(node, false)` after. Not the root.
pub(crate) fn walk(profile: &Profile, mut visit: impl FnMut(NodeId, bool)) {
    let nodes = profile.nodes();
    let mut first_child = vec![0_u32; nodes.len()];
    let mut sibling = vec![0_u32; nodes.len()];
    for i in (1..nodes.len()).rev() {
        let parent = nodes[i].parent.index();
        sibling[i] = std::mem::replace(&mut first_child[parent], i as u32);
    }
    let mut at = first_child[0];
    while at != 0 {
        visit(NodeId(at), true);
        if first_child[at as usize] != 0 {
            at = first_child[at as usize];
            continue;
        }
        loop {
            visit(NodeId(at), false);
            if sibling[at as usize] != 0 {
                at = sibling[at as usize];
                break;
            }
            at = nodes[at as usize].parent.0;
            if at == 0 {
                break;
            }
        }
    }
}
