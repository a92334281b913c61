//! From a thread's ring to the model: records become tree nodes. Runs on the manager thread, needs no GIL.

use crate::resolve::Resolver;
use crate::resolve::native::Natives;
use spprof_model::{Function, FunctionId, FunctionKind, NO_NATIVE_CALLER, NodeId, Profile};
use spprof_sigsafe::handler::{Header, Omitted, flags};
use spprof_sigsafe::ring::Reader;
use spprof_sigsafe::stack::{RawFrame, Stack, marks};

/// Functions that stand for what has no name.
#[derive(Debug)]
pub struct Synthetic {
    /// A thread without Python frames.
    native: FunctionId,
    /// A Python thread whose frames could not be followed.
    unresolved: FunctionId,
    /// The middle of a deep stack.
    truncated: FunctionId,
    /// The unknown callers of a native frame.
    no_caller: FunctionId,
}

impl Synthetic {
    pub fn new(profile: &mut Profile) -> Self {
        let mut make = |name: &[u8], kind| {
            let name = profile.intern(name);
            let nothing = profile.intern(b"");
            profile.function(Function { name, file: nothing, module: nothing, first_line: 0, kind, discriminator: 0 })
        };
        Self {
            native: make(b"<native>", FunctionKind::Native),
            unresolved: make(b"<unresolved>", FunctionKind::Synthetic),
            truncated: make(b"<truncated>", FunctionKind::Synthetic),
            no_caller: make(NO_NATIVE_CALLER, FunctionKind::Synthetic),
        }
    }
}

/// Everything needed to put a sample into the model.
#[derive(Debug)]
pub struct Sink {
    pub profile: Profile,
    pub resolver: Resolver,
    pub natives: Natives,
    pub synthetic: Synthetic,
    /// Frames left out of deep stacks, in all.
    pub omitted_frames: u64,
    buffer: Vec<RawFrame>,
}

/// One record, as read.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub time_ns: u64,
    pub weight_ns: u64,
    pub node: NodeId,
}

impl Sink {
    pub fn new(mut profile: Profile, resolver: Resolver, natives: Natives) -> Self {
        let synthetic = Synthetic::new(&mut profile);
        Self { profile, resolver, natives, synthetic, omitted_frames: 0, buffer: Vec::new() }
    }

    /// Takes one record out of `reader`. `path` holds the nodes of the thread's previous record, root first: the
    /// handler wrote only the frames that differ.
    pub fn next(&mut self, reader: &mut Reader<'_>, path: &mut Vec<NodeId>) -> Option<Record> {
        let header = Header::unpack(reader.take()?);
        let time_ns = reader.take()?;
        let weight_ns = reader.take()?;
        let omitted = Omitted::unpack(reader.take()?);
        self.buffer.clear();
        for _ in 0..header.frames {
            let code = reader.take()? as usize;
            let offset = reader.take()? as i64;
            self.buffer.push(RawFrame { code, offset });
        }
        path.truncate(header.shared as usize);
        let fresh = std::mem::take(&mut self.buffer);
        let node = self.extend(path, &fresh, omitted, header.flags & flags::BROKEN != 0);
        self.buffer = fresh;
        Some(Record { time_ns, weight_ns, node })
    }

    /// The node of a stack that was walked remotely.
    pub fn node_of(&mut self, stack: &Stack, broken: bool) -> NodeId {
        let omitted = Omitted { frames: stack.omitted, gap: stack.gap };
        self.extend(&mut Vec::new(), stack.frames(), omitted, broken)
    }

    /// Appends `frames` (leaf first) to `path` (root first), and gives the leaf's node.
    fn extend(&mut self, path: &mut Vec<NodeId>, frames: &[RawFrame], omitted: Omitted, broken: bool) -> NodeId {
        let mut node = path.last().copied().unwrap_or(NodeId::ROOT);
        for (position, frame) in frames.iter().enumerate().rev() {
            match frame.as_native() {
                None => {
                    let (function, line) = self.resolver.frame(&mut self.profile, frame.code, frame.offset);
                    node = self.profile.child(node, function, line);
                }
                Some(native) => {
                    if native.marks & marks::ENDS != 0 {
                        node = self.profile.child(node, self.synthetic.no_caller, 0);
                    }
                    if native.marks & marks::GAP != 0 {
                        node = self.profile.child(node, self.synthetic.truncated, 0);
                    }
                    if let Some(function) = self.natives.frame(&mut self.profile, native) {
                        node = self.profile.child(node, function, 0);
                    }
                }
            }
            // One entry a captured frame, also where none or several are shown: the handler counts in these.
            path.push(node);
            if omitted.frames != 0 && position == omitted.gap as usize {
                node = self.profile.child(node, self.synthetic.truncated, 0);
                path.push(node);
                self.omitted_frames += u64::from(omitted.frames);
            }
        }
        if !path.is_empty() {
            return node;
        }
        let stand_in = if broken { self.synthetic.unresolved } else { self.synthetic.native };
        self.profile.child(NodeId::ROOT, stand_in, 0)
    }
}
