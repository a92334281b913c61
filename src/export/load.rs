//! Opening a profile of any format that can be read back: told by its first bytes, not by its name.

use crate::{callgraph_read, collapsed, pprof_read, speedscope_read, spprof, spprof_read};
use spprof_model::{Function, FunctionKind, NodeId, Profile, Sample, StringId, Thread, ThreadId};
use std::fmt;
use std::path::{Path, PathBuf};

/// Why a file could not be opened: what was expected at which byte.
#[derive(Debug)]
pub struct LoadError {
    pub path: PathBuf,
    /// `None`: the file could not be read at all.
    pub offset: Option<usize>,
    pub message: String,
    pub source: Option<std::io::Error>,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            Some(offset) => write!(f, "{}: at byte {offset}: {}", self.path.display(), self.message),
            None => write!(f, "{}: {}", self.path.display(), self.message),
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// A reader's finding, before the file's name is known.
#[derive(Debug)]
pub(crate) struct ReadError {
    pub offset: usize,
    pub message: String,
}

impl ReadError {
    pub fn new(offset: usize, message: impl Into<String>) -> Self {
        Self { offset, message: message.into() }
    }
}

/// Reads a file in any of spprof, speedscope, pprof, call graph and collapsed format.
pub fn load(path: &Path) -> Result<Profile, LoadError> {
    let bytes = std::fs::read(path).map_err(|source| LoadError {
        path: path.to_owned(),
        offset: None,
        message: source.to_string(),
        source: Some(source),
    })?;
    read(&bytes, path)
}

/// The same of bytes; `path` is for messages.
pub fn read(bytes: &[u8], path: &Path) -> Result<Profile, LoadError> {
    let first = bytes.iter().position(|byte| !byte.is_ascii_whitespace());
    let profile = match (bytes, first.map(|i| bytes[i])) {
        (_, None) => Err(ReadError::new(0, "expected a profile, the file is empty")),
        (bytes, _) if bytes.starts_with(&spprof::MAGIC[..4]) => spprof_read::read(bytes),
        ([0x1f, 0x8b, ..], _) => pprof_read::read(bytes),
        (_, Some(b'{')) => match std::str::from_utf8(bytes) {
            Ok(text) if callgraph_read::is_meant(text) => callgraph_read::read(text),
            _ => speedscope_read::read(bytes),
        },
        (bytes, Some(b'<')) if looks_like_svg(bytes) => Err(ReadError::new(
            0,
            "this is a picture (SVG), which does not hold the profile; save the run as .spprof to report or convert it",
        )),
        _ => read_text(bytes),
    };
    profile.map_err(|error| LoadError {
        path: path.to_owned(),
        offset: Some(error.offset),
        message: error.message,
        source: None,
    })
}

/// Whether a text that begins with `<` is an SVG, after whatever declarations and comments.
fn looks_like_svg(bytes: &[u8]) -> bool {
    bytes.windows(5).take(1024).any(|window| window == b"<svg ")
}

/// Foreign files end here, so a first line that is no stack is told as what it is.
fn read_text(bytes: &[u8]) -> Result<Profile, ReadError> {
    collapsed::read(bytes).map_err(|error| {
        if error.offset == 0 {
            ReadError::new(0, "expected a profile (spprof, speedscope, pprof or collapsed), this is none of them")
        } else {
            error
        }
    })
}

/// Builds a profile from foreign frames: names, files and lines, without identities.
pub(crate) struct Builder {
    pub profile: Profile,
}

impl Builder {
    pub fn new() -> Self {
        Self { profile: Profile::unlimited() }
    }

    pub fn thread(&mut self, name: &[u8], os_id: u64) -> ThreadId {
        let name = self.profile.intern(name);
        let name = (name != StringId::EMPTY).then_some(name);
        self.profile.thread(Thread { os_id, name, ..Thread::default() })
    }

    pub fn child(&mut self, parent: NodeId, name: &[u8], file: &[u8], line: u32, kind: FunctionKind) -> NodeId {
        self.child_of_module(parent, name, file, line, kind, b"")
    }

    pub fn child_of_module(
        &mut self,
        parent: NodeId,
        name: &[u8],
        file: &[u8],
        line: u32,
        kind: FunctionKind,
        module: &[u8],
    ) -> NodeId {
        // The place of native code without a source file is its module.
        let file = if file == module { b"" } else { file };
        let function = Function {
            name: self.profile.intern(name),
            file: self.profile.intern(file),
            module: self.profile.intern(module),
            first_line: 0,
            kind,
            discriminator: 0,
        };
        let function = self.profile.function(function);
        self.profile.child(parent, function, line)
    }

    pub fn record(&mut self, time_ns: u64, thread: ThreadId, node: NodeId, weight_ns: u64, count: u64) {
        self.profile.record_merged(&Sample { time_ns, thread, node, weight_ns, count });
    }
}
