//! Metric columns of the tree: self values per node, present or absent as a whole. Totals are computed by views.

/// What a column measures.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum Column {
    Samples,
    CpuNs,
    WallNs,
    GilNs,
    /// Activations begun. A generator or coroutine counts once, at its first step.
    Calls,
    /// Wall time on top of the stack, suspended time excluded.
    SelfNs,
    /// Steps of a generator or coroutine after its first.
    Resumes,
    /// Time a coroutine or asynchronous generator was suspended; it overlaps with that of its awaiter.
    AwaitNs,
    /// Activations left by an exception; `Cancellations` and the closing of generators are not among them.
    Exceptions,
    Cancellations,
    AllocBytes,
    AllocCount,
    /// Allocated and not freed: estimates of a heap profile.
    LiveBytes,
    LiveCount,
    /// Alive when the whole heap was largest.
    PeakBytes,
    PeakCount,
}

impl Column {
    pub const ALL: [Self; 16] = [
        Self::Samples,
        Self::CpuNs,
        Self::WallNs,
        Self::GilNs,
        Self::Calls,
        Self::SelfNs,
        Self::Resumes,
        Self::AwaitNs,
        Self::Exceptions,
        Self::Cancellations,
        Self::AllocBytes,
        Self::AllocCount,
        Self::LiveBytes,
        Self::LiveCount,
        Self::PeakBytes,
        Self::PeakCount,
    ];

    /// The name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Samples => "samples",
            Self::CpuNs => "cpu_ns",
            Self::WallNs => "wall_ns",
            Self::GilNs => "gil_ns",
            Self::Calls => "calls",
            Self::SelfNs => "self_ns",
            Self::Resumes => "resumes",
            Self::AwaitNs => "await_ns",
            Self::Exceptions => "exceptions",
            Self::Cancellations => "cancellations",
            Self::AllocBytes => "alloc_bytes",
            Self::AllocCount => "alloc_count",
            Self::LiveBytes => "live_bytes",
            Self::LiveCount => "live_count",
            Self::PeakBytes => "peak_bytes",
            Self::PeakCount => "peak_count",
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.name() == name)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Columns {
    /// Grown to the tree's capacity when a node beyond their end gets a value.
    values: [Option<Vec<u64>>; Column::ALL.len()],
}

impl Columns {
    /// Adds to a node's self value; the column comes into being.
    #[inline]
    pub fn add(&mut self, column: Column, node: usize, value: u64, tree_capacity: usize) {
        let values = self.values[column as usize].get_or_insert_default();
        if values.len() <= node {
            let len = tree_capacity.max(node + 1);
            values.reserve_exact(len - values.len());
            values.resize(len, 0);
        }
        values[node] = values[node].saturating_add(value);
    }

    pub fn get(&self, column: Column) -> Option<&[u64]> {
        self.values[column as usize].as_deref()
    }

    pub fn present(&self) -> impl Iterator<Item = Column> + '_ {
        Column::ALL.into_iter().filter(|&column| self.get(column).is_some())
    }

    pub fn memory_bytes(&self) -> u64 {
        self.values.iter().flatten().map(|values| values.capacity() as u64 * 8).sum()
    }
}
