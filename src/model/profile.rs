//! A profile: definitions, tree, columns and timeline under one memory limit. Built by one thread; read by any number.
//!
//! Half of the limit is for definitions (strings, functions, threads, tree). Beyond it, new names become `<memory limit>` and
//! new stacks end at the deepest frame that exists; each is counted in `losses`. The timeline has the rest and coarsens.
//! What is recorded is never lost: the sums over the columns and over the timeline are exact whatever the limit.

use crate::activity::Activity;
use crate::columns::{Column, Columns};
use crate::functions::{Function, FunctionKind, Functions};
use crate::ids::{FunctionId, NodeId, StringId, ThreadId};
use crate::metadata::Metadata;
use crate::modules::Module;
use crate::strings::{MEMORY_LIMIT, SEVERAL_THREADS, Strings, vec_growth};
use crate::threads::Thread;
use crate::timeline::{Sample, Timeline};
use crate::tree::{Node, Tree};

/// The "clock" of a heap profile, whose weights are bytes.
pub const HEAP: &str = "heap";

/// Limits below this are taken as this.
pub const MIN_MEMORY_LIMIT_BYTES: u64 = 256 << 10;

/// What the memory limit kept out, by reason.
#[derive(Clone, Copy, Debug, Default)]
struct Refused {
    tree: u64,
    functions: u64,
    strings: u64,
    threads: u64,
}

#[derive(Clone, Debug)]
pub struct Profile {
    pub meta: Metadata,
    /// Tasks and intervals of a trace; bounded by who makes them.
    pub activity: Activity,
    memory_limit_bytes: u64,
    strings: Strings,
    functions: Functions,
    tree: Tree,
    columns: Columns,
    threads: Vec<Thread>,
    modules: Vec<Module>,
    timeline: Timeline,
    refused: Refused,
    /// Stand-ins for what was refused.
    other_function: Option<FunctionId>,
    other_thread: Option<ThreadId>,
}

impl Profile {
    #[must_use]
    pub fn new(memory_limit_bytes: u64) -> Self {
        Self {
            meta: Metadata::default(),
            activity: Activity::default(),
            memory_limit_bytes: memory_limit_bytes.max(MIN_MEMORY_LIMIT_BYTES),
            strings: Strings::new(),
            functions: Functions::default(),
            tree: Tree::new(),
            columns: Columns::default(),
            threads: Vec::new(),
            modules: Vec::new(),
            timeline: Timeline::default(),
            refused: Refused::default(),
            other_function: None,
            other_thread: None,
        }
    }

    /// A profile without a limit, for reading and transforming.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(u64::MAX)
    }

    /// The id of a string of WTF-8 bytes.
    pub fn intern(&mut self, wtf8: &[u8]) -> StringId {
        if let Some(id) = self.strings.find(wtf8) {
            return id;
        }
        match self.strings.growth(wtf8.len()) {
            Some(growth) if self.has_room_for(growth) => self.strings.insert(wtf8),
            _ => {
                self.refused.strings += 1;
                self.stand_in_string(MEMORY_LIMIT)
            }
        }
    }

    /// # Panics
    /// If the id is of another profile.
    #[must_use]
    pub fn bytes(&self, id: StringId) -> &[u8] {
        self.strings.get(id)
    }

    #[must_use]
    pub fn string_count(&self) -> usize {
        self.strings.len()
    }

    /// Gets or inserts.
    pub fn function(&mut self, function: Function) -> FunctionId {
        if let Some(id) = self.functions.find(&function) {
            return id;
        }
        // A function whose name was refused cannot be told from others.
        let nameless = self.refused.strings > 0 && self.bytes(function.name) == MEMORY_LIMIT;
        if !nameless && self.has_room_for(self.functions.growth()) {
            return self.functions.insert(function);
        }
        self.refused.functions += 1;
        if let Some(id) = self.other_function {
            return id;
        }
        let name = self.stand_in_string(MEMORY_LIMIT);
        let id = self.functions.insert(Function {
            name,
            file: StringId::EMPTY,
            module: StringId::EMPTY,
            first_line: 0,
            kind: FunctionKind::Synthetic,
            discriminator: 0,
        });
        self.other_function = Some(id);
        id
    }

    /// # Panics
    /// If the id is of another profile.
    #[must_use]
    pub fn function_info(&self, id: FunctionId) -> &Function {
        &self.functions.rows()[id.index()]
    }

    /// Where a function is: its source file, or the module of native code without one.
    #[must_use]
    pub fn place_of(&self, function: &Function) -> StringId {
        if function.file == StringId::EMPTY && function.is_native() { function.module } else { function.file }
    }

    #[must_use]
    pub fn functions(&self) -> &[Function] {
        self.functions.rows()
    }

    /// Gets or inserts the node for a frame called from `parent`. When the tree is full, the deepest ancestor that exists,
    /// in a form that stays there when the rest of the stack follows.
    #[inline]
    pub fn child(&mut self, parent: NodeId, function: FunctionId, line: u32) -> NodeId {
        let node = Node { parent, function, line };
        if let Some(id) = self.tree.find(&node) {
            return id;
        }
        self.insert_child(node)
    }

    #[cold]
    fn insert_child(&mut self, node: Node) -> NodeId {
        if node.parent.is_cut() {
            return node.parent;
        }
        match self.tree.growth() {
            Some(growth) if self.has_room_for(growth) => self.tree.insert(node),
            _ => {
                self.refused.tree += 1;
                node.parent.cut()
            }
        }
    }

    /// # Panics
    /// If the id is of another profile.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Node {
        self.tree.nodes()[id.index()]
    }

    /// All nodes by index; the first is the root, and a parent comes before its children.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        self.tree.nodes()
    }

    /// Nodes from `leaf` towards the root, which is not included.
    pub fn stack(&self, leaf: NodeId) -> StackIter<'_> {
        StackIter { nodes: self.tree.nodes(), at: NodeId::from_index(leaf.index() as u32) }
    }

    /// Appends a thread. When there is no room, a stand-in whose row is shared.
    pub fn thread(&mut self, thread: Thread) -> ThreadId {
        // One row is kept for the stand-in.
        if self.has_room_for(vec_growth(&self.threads, 2)) {
            return self.push_thread(thread);
        }
        self.refused.threads += 1;
        self.several_threads()
    }

    fn push_thread(&mut self, thread: Thread) -> ThreadId {
        let id = ThreadId(self.threads.len() as u32);
        self.threads.push(thread);
        id
    }

    /// The row for threads that cannot be told apart for lack of memory.
    fn several_threads(&mut self) -> ThreadId {
        if let Some(id) = self.other_thread {
            return id;
        }
        let name = self.stand_in_string(SEVERAL_THREADS);
        let id = self.push_thread(Thread { name: Some(name), ..Thread::default() });
        self.other_thread = Some(id);
        id
    }

    /// # Panics
    /// If the id is of another profile.
    pub fn thread_mut(&mut self, id: ThreadId) -> &mut Thread {
        &mut self.threads[id.index()]
    }

    #[must_use]
    pub fn threads(&self) -> &[Thread] {
        &self.threads
    }

    /// The row of a module, counted from 1; one that is there already has its row.
    pub fn module(&mut self, module: &Module) -> u32 {
        let row = self.modules.iter().position(|known| known == module).unwrap_or_else(|| {
            self.modules.push(module.clone());
            self.modules.len() - 1
        });
        row as u32 + 1
    }

    #[must_use]
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// Records one sample of `weight_ns`.
    #[inline]
    pub fn record(&mut self, time_ns: u64, thread: ThreadId, node: NodeId, weight_ns: u64) {
        self.record_merged(&Sample { time_ns, thread, node, weight_ns, count: 1 });
    }

    /// Records samples that were merged elsewhere. A count of 0 is nothing to record.
    pub fn record_merged(&mut self, sample: &Sample) {
        if sample.count == 0 {
            return;
        }
        let sample = Sample { node: NodeId::from_index(sample.node.index() as u32), ..*sample };
        let capacity = self.tree.capacity();
        self.columns.add(Column::Samples, sample.node.index(), sample.count, capacity);
        self.columns.add(self.time_column(), sample.node.index(), sample.weight_ns, capacity);
        let budget_bytes = self.memory_limit_bytes.saturating_sub(self.definition_bytes());
        self.timeline.push(&sample, budget_bytes);
        if self.timeline.wants_several_threads() {
            let several = self.several_threads();
            self.timeline.set_several_threads(several);
        }
    }

    /// Adds to a node's self value in a column that is not kept by `record`.
    pub fn add(&mut self, column: Column, node: NodeId, value: u64) {
        self.columns.add(column, node.index(), value, self.tree.capacity());
    }

    /// The column that weights go to.
    #[must_use]
    pub fn time_column(&self) -> Column {
        match self.meta.clock.as_str() {
            "wall" => Column::WallNs,
            HEAP => Column::LiveBytes,
            _ => Column::CpuNs,
        }
    }

    /// Whether weights are bytes that are alive, not time.
    #[must_use]
    pub fn is_heap(&self) -> bool {
        self.meta.clock == HEAP
    }

    /// Whether it holds calls that were counted and timed, and no samples.
    #[must_use]
    pub fn is_trace(&self) -> bool {
        self.columns.get(Column::Calls).is_some() && self.columns.get(Column::Samples).is_none()
    }

    /// Whether it has columns of samples that the timeline does not hold: a call graph read from a file.
    #[must_use]
    pub fn is_without_timeline(&self) -> bool {
        self.columns.get(Column::Samples).is_some() && self.timeline.recorded() == 0
    }

    /// Self values by node index, if the column is present; nodes beyond its end hold 0.
    #[must_use]
    pub fn column(&self, column: Column) -> Option<&[u64]> {
        self.columns.get(column).map(|values| &values[..values.len().min(self.tree.nodes().len())])
    }

    pub fn columns(&self) -> impl Iterator<Item = Column> + '_ {
        self.columns.present()
    }

    /// A node's self value.
    #[must_use]
    pub fn value(&self, column: Column, node: NodeId) -> Option<u64> {
        self.columns.get(column).map(|values| values.get(node.index()).copied().unwrap_or(0))
    }

    /// All samples ever recorded.
    #[must_use]
    pub fn sample_count(&self) -> u64 {
        self.timeline.recorded()
    }

    /// Entries on the timeline, after merging.
    #[must_use]
    pub fn retained_samples(&self) -> usize {
        self.timeline.retained()
    }

    /// Whether samples were merged to keep the memory limit.
    #[must_use]
    pub fn is_coarsened(&self) -> bool {
        self.timeline.coarsened()
    }

    /// In order of arrival, which is the order of time for each thread.
    pub fn samples(&self) -> impl Iterator<Item = Sample> + '_ {
        self.timeline.iter()
    }

    #[must_use]
    pub fn sample(&self, index: usize) -> Option<Sample> {
        self.timeline.get(index)
    }

    /// The samples recorded after the first `position` ones, and the position they really start at: possibly less, because
    /// merged samples cannot be taken apart. Who keeps a log replaces what it has from that position on.
    pub fn samples_from(&self, position: u64) -> (u64, impl Iterator<Item = Sample> + '_) {
        self.timeline.iter_from(position)
    }

    /// Losses by reason: those of the capture (in `meta`) and those of the memory limit.
    #[must_use]
    pub fn losses(&self) -> Vec<(String, u64)> {
        let mut losses = self.meta.losses.clone();
        let refused = [
            ("tree_full", self.refused.tree),
            ("functions_full", self.refused.functions),
            ("strings_full", self.refused.strings),
            ("threads_full", self.refused.threads),
        ];
        for (reason, count) in refused.into_iter().filter(|&(_, count)| count > 0) {
            match losses.iter_mut().find(|(known, _)| known == reason) {
                Some((_, known)) => *known += count,
                None => losses.push((reason.to_owned(), count)),
            }
        }
        losses
    }

    #[must_use]
    pub fn memory_limit_bytes(&self) -> u64 {
        self.memory_limit_bytes
    }

    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.definition_bytes() + self.timeline.memory_bytes()
    }

    fn definition_bytes(&self) -> u64 {
        self.strings.memory_bytes()
            + self.functions.memory_bytes()
            + self.tree.memory_bytes()
            + self.columns.memory_bytes()
            + (self.threads.capacity() * size_of::<Thread>() + self.modules.capacity() * size_of::<Module>()) as u64
    }

    fn has_room_for(&self, growth: u64) -> bool {
        growth == 0 || self.definition_bytes() + growth <= self.memory_limit_bytes / 2
    }

    fn stand_in_string(&mut self, name: &[u8]) -> StringId {
        self.strings.find(name).unwrap_or_else(|| self.strings.insert(name))
    }
}

/// Nodes from a leaf to the root's child.
#[derive(Clone, Debug)]
pub struct StackIter<'a> {
    nodes: &'a [Node],
    at: NodeId,
}

impl Iterator for StackIter<'_> {
    type Item = NodeId;

    fn next(&mut self) -> Option<NodeId> {
        let node = self.at;
        if node == NodeId::ROOT {
            return None;
        }
        self.at = self.nodes[node.index()].parent;
        Some(node)
    }
}
