//! Call-graph JSON read back: the profile is built from its `tree`; what is in `nodes` and `edges` follows from that.

use crate::callgraph::{SCHEMA, VERSION};
use crate::load::ReadError;
use crate::wtf8;
use serde::Deserialize;
use serde_json::value::RawValue;
use spprof_model::{Column, Function, FunctionId, FunctionKind, Metadata, NodeId, Profile, Thread};
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct File<'a> {
    schema: &'a str,
    version: u32,
    metadata: FileMetadata,
    #[serde(borrow)]
    nodes: Vec<Node<'a>>,
    #[serde(borrow)]
    threads: Vec<FileThread<'a>>,
    tree: Tree,
}

#[derive(Deserialize)]
struct FileMetadata {
    spprof: Metadata,
}

/// Strings are taken raw: they may hold lone surrogates, which the JSON library refuses.
#[derive(Deserialize)]
struct Node<'a> {
    #[serde(borrow)]
    qualname: &'a RawValue,
    #[serde(borrow)]
    module: &'a RawValue,
    #[serde(borrow)]
    file: &'a RawValue,
    kind: &'a str,
    line: u32,
}

#[derive(Deserialize)]
struct FileThread<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    thread_id: u64,
    python_ident: u64,
    start_ns: u64,
    end_ns: u64,
    cpu_ns: u64,
    unattributed_ns: u64,
}

#[derive(Deserialize)]
struct Tree {
    parent: Vec<u32>,
    node: Vec<u32>,
    line: Vec<u32>,
    columns: BTreeMap<String, Vec<u64>>,
}

/// Whether JSON text is meant to be a call graph, by its `schema`.
pub(crate) fn is_meant(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Head<'a> {
        schema: Option<&'a str>,
    }
    // Looked for first: parsing a large file of another kind twice would take its time.
    text.contains(SCHEMA) && serde_json::from_str::<Head>(text).is_ok_and(|head| head.schema == Some(SCHEMA))
}

pub(crate) fn read(text: &str) -> Result<Profile, ReadError> {
    // What is wrong with the content has no offset of its own; it is told by its place in the document.
    let invalid = |what: String| ReadError::new(0, format!("expected a call graph, but {what}"));
    let file: File = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
    if file.schema != SCHEMA || file.version != VERSION {
        return Err(invalid(format!(
            "it is {} version {}; this reads {SCHEMA} version {VERSION}",
            file.schema, file.version
        )));
    }
    let mut profile = Profile::unlimited();
    profile.meta = file.metadata.spprof;
    for thread in &file.threads {
        let name = thread.name.and_then(string).map(|name| profile.intern(&name));
        profile.thread(Thread {
            os_id: thread.thread_id,
            python_ident: thread.python_ident,
            name,
            start_ns: thread.start_ns,
            end_ns: thread.end_ns,
            cpu_ns: thread.cpu_ns,
            unattributed_ns: thread.unattributed_ns,
        });
    }
    let mut functions = Vec::with_capacity(file.nodes.len());
    for (i, node) in file.nodes.iter().enumerate() {
        functions.push(
            function(&mut profile, node, i as u64)
                .ok_or_else(|| invalid(format!("node {i} has a name that is no string, or an unknown kind")))?,
        );
    }
    let nodes = tree(&mut profile, &file.tree, &functions).map_err(invalid)?;
    for (name, values) in &file.tree.columns {
        let column = Column::from_name(name).ok_or_else(|| invalid(format!("its column {name:?} is unknown")))?;
        if values.len() != nodes.len() {
            return Err(invalid(format!("column {name} has {} values for {} rows", values.len(), nodes.len())));
        }
        for (&node, &value) in nodes.iter().zip(values) {
            profile.add(column, node, value);
        }
    }
    Ok(profile)
}

/// Equal names are told apart by their place: two functions in the file are two functions.
fn function(profile: &mut Profile, node: &Node, place: u64) -> Option<FunctionId> {
    let kind = FunctionKind::ALL.into_iter().find(|kind| kind.name() == node.kind)?;
    let mut intern = |raw| string(raw).map(|bytes| profile.intern(&bytes));
    let (name, file, module) = (intern(node.qualname)?, intern(node.file)?, intern(node.module)?);
    let function = Function { name, file, module, first_line: node.line, kind, discriminator: 0 };
    let known = profile.functions().len();
    let id = profile.function(function);
    if id.index() < known {
        return Some(profile.function(Function { discriminator: place, ..function }));
    }
    Some(id)
}

/// The nodes by row; row 0 is the root.
fn tree(profile: &mut Profile, tree: &Tree, functions: &[FunctionId]) -> Result<Vec<NodeId>, String> {
    if tree.node.len() != tree.parent.len() || tree.line.len() != tree.parent.len() {
        return Err("the columns of its tree differ in length".to_owned());
    }
    let mut nodes = vec![NodeId::ROOT];
    for ((&parent, &node), &line) in tree.parent.iter().zip(&tree.node).zip(&tree.line) {
        let row = nodes.len();
        let parent = *nodes.get(parent as usize).ok_or_else(|| format!("row {row} of its tree has parent {parent}"))?;
        let function = functions.get(node as usize).ok_or_else(|| format!("row {row} of its tree has node {node}"))?;
        nodes.push(profile.child(parent, *function, line));
    }
    Ok(nodes)
}

fn string(raw: &RawValue) -> Option<Vec<u8>> {
    wtf8::from_json(raw.get())
}
