//! The same samples over another tree: frames left out, put in, or named.

use crate::columns::Column;
use crate::functions::{Function, FunctionKind};
use crate::ids::{FunctionId, NodeId, StringId, ThreadId};
use crate::merge::{copy_function, copy_thread};
use crate::profile::Profile;
use crate::timeline::Sample;
use crate::tree::Node;

/// The name of what stands for stacks without a frame to show.
const NATIVE: &[u8] = b"<native>";

/// Functions of one profile in another, copied when they are needed.
pub struct Copies<'a> {
    from: &'a Profile,
    modules: Vec<u32>,
    functions: Vec<Option<FunctionId>>,
}

impl Copies<'_> {
    pub fn function(&mut self, to: &mut Profile, id: FunctionId) -> FunctionId {
        *self.functions[id.index()]
            .get_or_insert_with(|| copy_function(self.from, to, &self.modules, self.from.function_info(id)))
    }
}

/// A profile with everything of `profile`, where `place` tells the new node of a node, from the new node of its parent: a child
/// of that, a grandchild, or the parent itself, into which the node's frame then vanishes. Samples of stacks that vanish as a
/// whole are in one native function, `<native>`. `keep_modules`: whether the table of modules stays as it is.
#[must_use]
pub fn rewrite(
    profile: &Profile,
    keep_modules: bool,
    mut place: impl FnMut(&mut Copies<'_>, &mut Profile, NodeId, &Node) -> NodeId,
) -> Profile {
    let mut to = Profile::unlimited();
    to.meta = profile.meta.clone();
    to.meta.losses = profile.losses();
    let modules = match keep_modules {
        true => profile.modules().iter().map(|module| to.module(module)).collect(),
        false => Vec::new(),
    };
    let mut copies = Copies { from: profile, modules, functions: vec![None; profile.functions().len()] };
    let mut nodes = vec![NodeId::ROOT];
    for node in profile.nodes().iter().skip(1) {
        let parent = nodes[node.parent.index()];
        nodes.push(place(&mut copies, &mut to, parent, node));
    }
    let vanished = (1..nodes.len()).any(|i| nodes[i] == NodeId::ROOT);
    let stand_in = if vanished { native_stand_in(&mut to) } else { NodeId::ROOT };
    let at = |node: NodeId| match nodes[node.index()] {
        NodeId::ROOT if node != NodeId::ROOT => stand_in,
        node => node,
    };
    let threads: Vec<ThreadId> =
        profile.threads().iter().map(|thread| copy_thread(profile, &mut to, thread, 0)).collect();
    for sample in profile.samples() {
        to.record_merged(&Sample { thread: threads[sample.thread.index()], node: at(sample.node), ..sample });
    }
    // Those of the samples have come with them; a profile without samples has counted instead.
    let of_samples = |column| column == Column::Samples || column == profile.time_column();
    let has_samples = profile.sample_count() > 0;
    for column in profile.columns().filter(|&column| !(has_samples && of_samples(column))) {
        for (i, &value) in profile.column(column).unwrap_or_default().iter().enumerate().filter(|(_, v)| **v > 0) {
            to.add(column, at(NodeId(i as u32)), value);
        }
    }
    to
}

fn native_stand_in(to: &mut Profile) -> NodeId {
    let name = to.intern(NATIVE);
    let function = to.function(Function {
        name,
        file: StringId::EMPTY,
        module: StringId::EMPTY,
        first_line: 0,
        kind: FunctionKind::Native,
        discriminator: 0,
    });
    to.child(NodeId::ROOT, function, 0)
}
