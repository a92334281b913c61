//! The calling-context tree: a node is a stack, named by its parent, function and line. Parents precede children.

use crate::ids::{FunctionId, NodeId};
use crate::strings::{table_growth, vec_growth};
use hashbrown::HashTable;

/// A row of the tree. The root's function means nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node {
    pub parent: NodeId,
    pub function: FunctionId,
    pub line: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    index: HashTable<u32>,
}

impl Tree {
    pub fn new() -> Self {
        let root = Node { parent: NodeId::ROOT, function: FunctionId(u32::MAX), line: 0 };
        Self { nodes: vec![root], index: HashTable::new() }
    }

    #[inline]
    pub fn find(&self, node: &Node) -> Option<NodeId> {
        self.index.find(hash(node), |&i| self.nodes[i as usize] == *node).map(|&i| NodeId(i))
    }

    /// Inserts a node that `find` did not find.
    pub fn insert(&mut self, node: Node) -> NodeId {
        let id = self.nodes.len() as u32;
        self.nodes.push(node);
        let nodes = &self.nodes;
        self.index.insert_unique(hash(&node), id, |&i| hash(&nodes[i as usize]));
        NodeId(id)
    }

    /// Bytes the tables grow by when a node is inserted, and two columns with it; `None`: ids are exhausted.
    pub fn growth(&self) -> Option<u64> {
        let nodes = vec_growth(&self.nodes, 1);
        let columns = nodes / size_of::<Node>() as u64 * 16;
        (self.nodes.len() < NodeId::MAX).then(|| nodes + columns + table_growth(&self.index, 1))
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn capacity(&self) -> usize {
        self.nodes.capacity()
    }

    pub fn memory_bytes(&self) -> u64 {
        (self.nodes.capacity() * size_of::<Node>() + self.index.allocation_size()) as u64
    }
}

/// Multiplicative mixing of three words; the high bits (which pick the bucket's tag) and the low ones are both good.
#[inline]
fn hash(node: &Node) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let key = (u64::from(node.parent.0) << 32 | u64::from(node.function.0)) ^ u64::from(node.line).wrapping_mul(K);
    let product = u128::from(key ^ K) * u128::from(0xd6e8_feb8_6659_fd93_u64);
    (product as u64) ^ (product >> 64) as u64
}
