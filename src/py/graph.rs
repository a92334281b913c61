//! The call graph and the call tree as rows, for the views in Python.

use super::profile::NativeProfile;
use super::text::to_python;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use spprof_model::{Amounts, CallGraph, Column, Profile, full_names, module_of, time_of};

/// (full name, qualified name, module, file, first line, kind, own values, totals, primitive calls)
type NodeRow<'py> = (
    Bound<'py, PyString>,
    Bound<'py, PyString>,
    Bound<'py, PyString>,
    Bound<'py, PyString>,
    u32,
    &'static str,
    Vec<u64>,
    Vec<u64>,
    u64,
);
/// (caller, callee, own values, totals)
type EdgeRow = (usize, usize, Vec<u64>, Vec<u64>);

/// For each row of runs before and after, how likely a difference as large is in any row when there is none.
#[pyfunction]
#[pyo3(name = "_differences")]
pub fn differences(py: Python<'_>, before: Vec<Vec<f64>>, after: Vec<Vec<f64>>) -> PyResult<Vec<f64>> {
    let (first, second) = (before.first().map(Vec::len), after.first().map(Vec::len));
    let even = before.iter().all(|row| Some(row.len()) == first) && after.iter().all(|row| Some(row.len()) == second);
    if before.len() != after.len() || !even {
        return Err(PyValueError::new_err("the rows must be of equal lengths"));
    }
    Ok(py.detach(|| crate::analysis::differences(&before, &after)))
}

/// A folded profile. Rows name functions by their position in `nodes`.
#[pyclass(frozen, module = "spprof._native")]
pub struct NativeGraph {
    profile: std::sync::Arc<Profile>,
    graph: CallGraph,
}

#[pymethods]
impl NativeGraph {
    #[new]
    fn new(py: Python<'_>, profile: &NativeProfile) -> Self {
        let profile = std::sync::Arc::clone(profile.profile(py));
        let graph = py.detach(|| CallGraph::of(&profile));
        Self { profile, graph }
    }

    /// The names of the columns that own values and totals are of.
    #[getter]
    fn columns(&self) -> Vec<&'static str> {
        self.graph.columns.iter().map(|column| column.name()).collect()
    }

    /// The column that holds time, if any does.
    #[getter]
    fn time_column(&self) -> Option<&'static str> {
        time_of(&self.profile).map(Column::name)
    }

    fn nodes<'py>(&self, py: Python<'py>) -> PyResult<Vec<NodeRow<'py>>> {
        let names = full_names(&self.profile, self.graph.nodes.iter().map(|node| node.function));
        let row = |(node, name): (&spprof_model::GraphNode, &Vec<u8>)| {
            let function = self.profile.function_info(node.function);
            let text = |bytes: &[u8]| to_python(py, bytes);
            let Amounts { own, total } = node.amounts.clone();
            Ok((
                text(name)?,
                text(self.profile.bytes(function.name))?,
                text(&module_of(&self.profile, node.function))?,
                text(self.profile.bytes(function.file))?,
                function.first_line,
                function.kind.name(),
                own,
                total,
                node.primitive_calls,
            ))
        };
        self.graph.nodes.iter().zip(&names).map(row).collect()
    }

    fn edges(&self) -> Vec<EdgeRow> {
        let edges = self.graph.edges.iter();
        edges.map(|edge| (edge.caller, edge.callee, edge.amounts.own.clone(), edge.amounts.total.clone())).collect()
    }

    /// (parent, node, own values, totals), parents first; row 0 is the root, whose node means nothing.
    fn tree(&self) -> Vec<EdgeRow> {
        let tree = self.graph.tree.iter();
        tree.map(|node| (node.parent, node.node, node.amounts.own.clone(), node.amounts.total.clone())).collect()
    }
}
