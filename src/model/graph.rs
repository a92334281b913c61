//! The call graph and the call tree: the calling-context tree folded by function. Pure views, every column that is present.
//!
//! Self values add up; totals count a function (or a caller-callee pair) once on each path, so that recursion is not counted
//! twice. Contexts come from the tree itself: no stack is rebuilt from edges.

use crate::columns::Column;
use crate::functions::FunctionKind;
use crate::hot::{add, walk};
use crate::ids::FunctionId;
use crate::profile::Profile;
use rustc_hash::FxHashMap;

/// Own and inclusive values, one a column of the graph.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Amounts {
    pub own: Vec<u64>,
    pub total: Vec<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GraphNode {
    pub function: FunctionId,
    pub amounts: Amounts,
    /// Calls that were not made, directly or through others, by the function itself; 0 where calls are not known.
    pub primitive_calls: u64,
}

/// Of the callee when this caller called it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GraphEdge {
    /// Positions in `CallGraph::nodes`.
    pub caller: usize,
    pub callee: usize,
    pub amounts: Amounts,
}

/// A node of the call tree: a chain of functions, whatever the lines they called each other from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TreeNode {
    /// Position in `CallGraph::tree`; the root is its own parent.
    pub parent: usize,
    /// Position in `CallGraph::nodes`; that of the root means nothing.
    pub node: usize,
    pub amounts: Amounts,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CallGraph {
    /// What the amounts are, in this order.
    pub columns: Vec<Column>,
    /// Functions that have a value or call one that has, in order of first appearance.
    pub nodes: Vec<GraphNode>,
    pub edges: Vec<GraphEdge>,
    /// Parents before children; the first is the root.
    pub tree: Vec<TreeNode>,
}

/// The column in which a profile holds time: measured calls, or else the weights of samples.
#[must_use]
pub fn time_of(profile: &Profile) -> Option<Column> {
    [Column::SelfNs, profile.time_column(), Column::CpuNs, Column::WallNs]
        .into_iter()
        .find(|&column| profile.column(column).is_some())
}

impl CallGraph {
    #[must_use]
    pub fn of(profile: &Profile) -> Self {
        let columns: Vec<Column> = profile.columns().collect();
        let own = Table::own(profile, &columns);
        let totals = own.with_descendants(profile);
        let mut this = Self { nodes: Vec::new(), edges: Vec::new(), tree: vec![this_root(&own, &totals)], columns };
        let places = this.fold(profile, &own, &totals);
        this.count_once(profile, &own, &totals, &places);
        this
    }

    /// Self values, and the shape of graph and tree. Gives each tree node's place in them.
    fn fold(&mut self, profile: &Profile, own: &Table, totals: &Table) -> Vec<Place> {
        let mut slots: FxHashMap<FunctionId, usize> = FxHashMap::default();
        let mut edges: FxHashMap<(usize, usize), usize> = FxHashMap::default();
        let mut branches: FxHashMap<(usize, usize), usize> = FxHashMap::default();
        let mut places = vec![Place::NOWHERE; profile.nodes().len()];
        places[0].tree = 0;
        let blank = || Amounts { own: vec![0; self.columns.len()], total: vec![0; self.columns.len()] };
        for (i, node) in profile.nodes().iter().enumerate().skip(1) {
            if totals.row(i).iter().all(|&value| value == 0) {
                continue;
            }
            let above = places[node.parent.index()];
            let slot = *slots.entry(node.function).or_insert_with(|| {
                self.nodes.push(GraphNode { function: node.function, amounts: blank(), primitive_calls: 0 });
                self.nodes.len() - 1
            });
            let edge = (above.node != usize::MAX).then(|| {
                *edges.entry((above.node, slot)).or_insert_with(|| {
                    self.edges.push(GraphEdge { caller: above.node, callee: slot, amounts: blank() });
                    self.edges.len() - 1
                })
            });
            let branch = *branches.entry((above.tree, slot)).or_insert_with(|| {
                self.tree.push(TreeNode { parent: above.tree, node: slot, amounts: blank() });
                self.tree.len() - 1
            });
            places[i] = Place { node: slot, edge: edge.unwrap_or(usize::MAX), tree: branch };
            add_all(&mut self.nodes[slot].amounts.own, own.row(i));
            if let Some(edge) = edge {
                add_all(&mut self.edges[edge].amounts.own, own.row(i));
            }
            let branch = &mut self.tree[branch].amounts;
            add_all(&mut branch.own, own.row(i));
            add_all(&mut branch.total, totals.row(i));
        }
        places
    }

    /// Totals of functions and edges: those nodes that are not below another of the same function or edge.
    fn count_once(&mut self, profile: &Profile, own: &Table, totals: &Table, places: &[Place]) {
        let calls = self.columns.iter().position(|&column| column == Column::Calls);
        let mut open_nodes = vec![0_u32; self.nodes.len()];
        let mut open_edges = vec![0_u32; self.edges.len()];
        walk(profile, |node, entering| {
            let place = places[node.index()];
            if place.node == usize::MAX {
                return;
            }
            let row = totals.row(node.index());
            step(&mut open_nodes[place.node], entering, || {
                let node_of = &mut self.nodes[place.node];
                add_all(&mut node_of.amounts.total, row);
                if let Some(calls) = calls {
                    add(&mut node_of.primitive_calls, own.row(node.index())[calls]);
                }
            });
            if place.edge != usize::MAX {
                step(&mut open_edges[place.edge], entering, || {
                    add_all(&mut self.edges[place.edge].amounts.total, row);
                });
            }
        });
    }

    /// The amounts of one column, if it is there.
    #[must_use]
    pub fn position(&self, column: Column) -> Option<usize> {
        self.columns.iter().position(|&known| known == column)
    }
}

/// Where a node of the profile's tree went; `usize::MAX` is nowhere.
#[derive(Clone, Copy)]
struct Place {
    node: usize,
    edge: usize,
    tree: usize,
}

impl Place {
    const NOWHERE: Self = Self { node: usize::MAX, edge: usize::MAX, tree: usize::MAX };
}

fn this_root(own: &Table, totals: &Table) -> TreeNode {
    let amounts = Amounts { own: own.row(0).to_vec(), total: totals.row(0).to_vec() };
    TreeNode { parent: 0, node: usize::MAX, amounts }
}

fn step(open: &mut u32, entering: bool, first: impl FnOnce()) {
    if !entering {
        *open -= 1;
        return;
    }
    if *open == 0 {
        first();
    }
    *open += 1;
}

fn add_all(sums: &mut [u64], values: &[u64]) {
    for (sum, &value) in sums.iter_mut().zip(values) {
        add(sum, value);
    }
}

/// A row of values for each node.
struct Table {
    width: usize,
    values: Vec<u64>,
}

impl Table {
    fn own(profile: &Profile, columns: &[Column]) -> Self {
        let width = columns.len();
        let mut values = vec![0; profile.nodes().len() * width];
        for (place, &column) in columns.iter().enumerate() {
            for (i, &value) in profile.column(column).unwrap_or_default().iter().enumerate() {
                values[i * width + place] = value;
            }
        }
        Self { width, values }
    }

    fn with_descendants(&self, profile: &Profile) -> Self {
        let mut values = self.values.clone();
        for (i, node) in profile.nodes().iter().enumerate().skip(1).rev() {
            let parent = node.parent.index() * self.width;
            for column in 0..self.width {
                let value = values[i * self.width + column];
                add(&mut values[parent + column], value);
            }
        }
        Self { width: self.width, values }
    }

    fn row(&self, i: usize) -> &[u64] {
        &self.values[i * self.width..(i + 1) * self.width]
    }
}

/// The names of the graph's nodes, each different from the others: module and qualified name, where that is not enough with
/// the first line, and where that is not enough with a number.
#[must_use]
pub fn full_names(profile: &Profile, functions: impl Iterator<Item = FunctionId>) -> Vec<Vec<u8>> {
    let functions: Vec<FunctionId> = functions.collect();
    let plain: Vec<Vec<u8>> = functions
        .iter()
        .map(|&id| {
            let module = module_of(profile, id);
            let name = profile.bytes(profile.function_info(id).name);
            if module.is_empty() { name.to_vec() } else { [&module, b".".as_slice(), name].concat() }
        })
        .collect();
    let mut uses: FxHashMap<&[u8], u32> = FxHashMap::default();
    for name in &plain {
        *uses.entry(name).or_default() += 1;
    }
    let mut taken: FxHashMap<Vec<u8>, u32> = FxHashMap::default();
    let mut names = Vec::with_capacity(plain.len());
    for (name, &id) in plain.iter().zip(&functions) {
        let mut full = name.clone();
        let line = profile.function_info(id).first_line;
        if uses[name.as_slice()] > 1 && line > 0 {
            full.extend_from_slice(format!(":{line}").as_bytes());
        }
        let again = taken.entry(full.clone()).or_default();
        *again += 1;
        if *again > 1 {
            full.extend_from_slice(format!("#{again}").as_bytes());
        }
        names.push(full);
    }
    names
}

/// The module, as the interpreter told it, or else read from the file's path: what follows the last `site-packages`,
/// `dist-packages` or `python3.x` folder, else the file's stem. Code that is not Python has none.
#[must_use]
pub fn module_of(profile: &Profile, id: FunctionId) -> Vec<u8> {
    let function = profile.function_info(id);
    let module = profile.bytes(function.module);
    let file = profile.bytes(function.file);
    let is_python = !matches!(function.kind, FunctionKind::Native | FunctionKind::Builtin | FunctionKind::Synthetic);
    if !module.is_empty() || !is_python || file.is_empty() {
        return module.to_vec();
    }
    if let Some(frozen) = file.strip_prefix(b"<frozen ").and_then(|rest| rest.strip_suffix(b">")) {
        return frozen.to_vec();
    }
    let parts: Vec<&[u8]> = file.split(|&byte| byte == b'/' || byte == b'\\').collect();
    let is_root =
        |part: &&[u8]| *part == b"site-packages" || *part == b"dist-packages" || part.starts_with(b"python3.");
    let from = parts.iter().rposition(is_root).map_or(parts.len() - 1, |at| at + 1).min(parts.len() - 1);
    let mut parts = parts[from..].to_vec();
    if let Some(last) = parts.last_mut() {
        *last = last.strip_suffix(b".py").unwrap_or(last);
    }
    if parts.len() > 1 && parts.last() == Some(&b"__init__".as_slice()) {
        parts.pop();
    }
    parts.join(b".".as_slice())
}
