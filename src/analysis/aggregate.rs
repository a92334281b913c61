//! Equal stacks of a thread put together: what is left of a profile when its order in time does not matter.

use spprof_model::{NodeId, Profile, ThreadId};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// All samples of one stack in one thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AggregatedStack {
    pub thread: ThreadId,
    pub node: NodeId,
    pub count: u64,
    pub weight_ns: u64,
}

/// One row for each thread and stack, in the order in which they first appear.
#[must_use]
pub fn aggregate(profile: &Profile) -> Vec<AggregatedStack> {
    let mut rows: Vec<AggregatedStack> = Vec::new();
    let mut places: HashMap<(ThreadId, NodeId), usize> = HashMap::new();
    for sample in profile.samples() {
        match places.entry((sample.thread, sample.node)) {
            Entry::Occupied(place) => {
                let row = &mut rows[*place.get()];
                row.count += sample.count;
                row.weight_ns += sample.weight_ns;
            }
            Entry::Vacant(place) => {
                place.insert(rows.len());
                rows.push(AggregatedStack {
                    thread: sample.thread,
                    node: sample.node,
                    count: sample.count,
                    weight_ns: sample.weight_ns,
                });
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use spprof_model::{Function, FunctionKind, StringId, Thread};

    /// Samples of one thread and stack become one row; another thread on the same stack has its own.
    #[test]
    fn rows_are_by_thread_and_stack() {
        let mut profile = Profile::unlimited();
        let name = profile.intern(b"f");
        let f = profile.function(Function {
            name,
            file: StringId::EMPTY,
            module: StringId::EMPTY,
            first_line: 1,
            kind: FunctionKind::Python,
            discriminator: 0,
        });
        let (first, second) = (profile.child(NodeId::ROOT, f, 1), profile.child(NodeId::ROOT, f, 2));
        let (a, b) = (profile.thread(Thread::default()), profile.thread(Thread::default()));
        for (time_ns, thread, node, weight_ns) in
            [(1, a, second, 5), (2, b, second, 7), (3, a, first, 1), (4, a, second, 11)]
        {
            profile.record(time_ns, thread, node, weight_ns);
        }
        assert_eq!(
            aggregate(&profile),
            [
                AggregatedStack { thread: a, node: second, count: 2, weight_ns: 16 },
                AggregatedStack { thread: b, node: second, count: 1, weight_ns: 7 },
                AggregatedStack { thread: a, node: first, count: 1, weight_ns: 1 },
            ]
        );
    }
}
