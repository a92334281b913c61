//! Trees of several threads added up, and taken from each other, by context.
#![forbid(unsafe_code)]

use super::rows::{Copied, Counts, ROOT};
use rustc_hash::FxHashMap;

#[derive(Clone, Default, Debug)]
pub struct Tree {
    /// Parents come before children; the root, which has no function, is not among them: row `i` is node `i + 1`.
    pub rows: Vec<Copied>,
    index: FxHashMap<(u32, u32), u32>,
}

impl Tree {
    #[must_use]
    pub const fn new() -> Self {
        Self { rows: Vec::new(), index: FxHashMap::with_hasher(rustc_hash::FxBuildHasher) }
    }

    /// The node of a function called in a context.
    pub fn child(&mut self, parent: u32, function: u32) -> u32 {
        *self.index.entry((parent, function)).or_insert_with(|| {
            self.rows.push(Copied { parent, function, counts: Counts::default() });
            self.rows.len() as u32
        })
    }

    /// Adds a tree, root first; gives this tree's node of each of its rows.
    pub fn add(&mut self, rows: &[Copied]) -> Vec<u32> {
        self.combine(rows, u64::wrapping_add)
    }

    pub fn subtract(&mut self, rows: &[Copied]) {
        self.combine(rows, u64::wrapping_sub);
    }

    /// As a tree whose root comes first.
    #[must_use]
    pub fn with_root(&self) -> Vec<Copied> {
        let root = Copied { parent: ROOT, function: u32::MAX, counts: Counts::default() };
        std::iter::once(root).chain(self.rows.iter().copied()).collect()
    }

    fn combine(&mut self, rows: &[Copied], with: fn(u64, u64) -> u64) -> Vec<u32> {
        let mut nodes = Vec::with_capacity(rows.len());
        for (i, row) in rows.iter().enumerate() {
            if i == ROOT as usize {
                nodes.push(ROOT);
                continue;
            }
            let node = self.child(nodes[row.parent as usize], row.function);
            nodes.push(node);
            let counts = &mut self.rows[node as usize - 1].counts;
            for (mine, theirs) in counts.iter_mut().zip(row.counts) {
                *mine = with(*mine, theirs);
            }
        }
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(parent: u32, function: u32, calls: u64) -> Copied {
        Copied { parent, function, counts: [calls, 0, 0, 0, 0, 0] }
    }

    /// Equal contexts meet whatever their order; what is taken away again leaves zeros.
    #[test]
    fn trees_add_up_by_context() {
        let root = row(0, u32::MAX, 0);
        let a = [root, row(0, 7, 1), row(1, 8, 2)];
        let b = [root, row(0, 8, 10), row(0, 7, 20), row(2, 8, 30)];
        let mut tree = Tree::new();
        tree.add(&a);
        assert_eq!(tree.add(&b), [0, 3, 1, 2]);
        let calls = |tree: &Tree| tree.rows.iter().map(|row| row.counts[0]).collect::<Vec<_>>();
        assert_eq!(calls(&tree), [21, 32, 10]);
        tree.subtract(&b);
        assert_eq!(calls(&tree), [1, 2, 0]);
    }
}
