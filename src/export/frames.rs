//! What frames look like in text, and trees of stacks merged by what a format can tell apart.

use rustc_hash::FxHashMap;
use spprof_model::{FunctionKind, NodeId, Profile, StringId, Values};

/// Frames as a format sees them: equal texts and lines are one frame, whatever the function's identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Frame {
    pub name: StringId,
    pub file: StringId,
    pub line: u32,
    pub kind: FunctionKind,
    pub module: StringId,
}

impl Frame {
    pub fn is_native(&self) -> bool {
        self.kind == FunctionKind::Native
    }
}

pub(crate) const NATIVE_MARK: &str = "[native] ";

pub(crate) fn frame(profile: &Profile, node: NodeId) -> Frame {
    let node = profile.node(node);
    let function = profile.function_info(node.function);
    // An address is native code that has no name yet.
    let kind = if function.is_native() { FunctionKind::Native } else { function.kind };
    Frame { name: function.name, file: profile.place_of(function), line: node.line, kind, module: function.module }
}

/// Numbers frames in order of appearance.
#[derive(Default)]
pub(crate) struct FrameTable {
    pub frames: Vec<Frame>,
    index: FxHashMap<Frame, u32>,
}

impl FrameTable {
    pub fn number(&mut self, frame: Frame) -> u32 {
        *self.index.entry(frame).or_insert_with(|| {
            self.frames.push(frame);
            self.frames.len() as u32 - 1
        })
    }
}

/// A stack tree whose siblings all differ in their key.
pub(crate) struct MergedTree {
    /// Parents come before children; the first is the root.
    pub nodes: Vec<MergedNode>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct MergedNode {
    pub parent: u32,
    pub key: u32,
    pub samples: u64,
    pub weight_ns: u64,
    pub first_child: u32,
    pub sibling: u32,
}

impl MergedTree {
    /// Only stacks with samples; `key` numbers a node's frame. The values are self values.
    pub fn new(profile: &Profile, values: &Values, mut key: impl FnMut(NodeId) -> u32) -> Self {
        let used = used_nodes(profile, |i| values.samples[i] > 0 || values.weight_ns[i] > 0);
        let blank = MergedNode { parent: 0, key: 0, samples: 0, weight_ns: 0, first_child: 0, sibling: 0 };
        let mut tree = Self { nodes: vec![blank] };
        let mut index: FxHashMap<(u32, u32), u32> = FxHashMap::default();
        let mut merged_of = vec![0_u32; profile.nodes().len()];
        for (i, node) in profile.nodes().iter().enumerate().filter(|&(i, _)| used[i]) {
            let at = if i == 0 {
                0
            } else {
                let parent = merged_of[node.parent.index()];
                let key = key(NodeId::from_index(i as u32));
                *index.entry((parent, key)).or_insert_with(|| {
                    let sibling = tree.nodes[parent as usize].first_child;
                    let at = tree.nodes.len() as u32;
                    tree.nodes[parent as usize].first_child = at;
                    tree.nodes.push(MergedNode { parent, key, sibling, ..blank });
                    at
                })
            };
            merged_of[i] = at;
            let merged = &mut tree.nodes[at as usize];
            merged.samples = merged.samples.saturating_add(values.samples[i]);
            merged.weight_ns = merged.weight_ns.saturating_add(values.weight_ns[i]);
        }
        tree
    }

    pub fn children(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let first = self.nodes[node as usize].first_child;
        std::iter::successors(Some(first), |&at| Some(self.nodes[at as usize].sibling)).take_while(|&at| at != 0)
    }
}

/// Nodes that `has_value` or that have a descendant which does.
pub(crate) fn used_nodes(profile: &Profile, has_value: impl Fn(usize) -> bool) -> Vec<bool> {
    let nodes = profile.nodes();
    let mut used: Vec<bool> = (0..nodes.len()).map(has_value).collect();
    for i in (1..nodes.len()).rev() {
        if used[i] {
            used[nodes[i].parent.index()] = true;
        }
    }
    used
}

/// The thread's name, else `Thread-<os id>`.
pub(crate) fn thread_name(profile: &Profile, thread: usize) -> Vec<u8> {
    let thread = &profile.threads()[thread];
    match thread.name {
        Some(name) if name != StringId::EMPTY => profile.bytes(name).to_vec(),
        _ => format!("Thread-{}", thread.os_id).into_bytes(),
    }
}
