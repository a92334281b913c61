//! Native frames to functions: which function of which module an address is. Runs on the manager thread, no GIL.

use rustc_hash::FxHashMap;
use spprof_model::{Function, FunctionId, FunctionKind, Module, Profile, StringId};
use spprof_sigsafe::stack::{NativeFrame, marks};
use std::sync::Arc;

/// How much of the native side of a stack a profile shows.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum NativeDetail {
    /// Python frames only.
    #[default]
    None,
    /// Native frames too, but those of the interpreter that only carry a Python call.
    Folded,
    /// Every frame.
    Full,
}

/// A native address as a profile shows it: functions with their lines, the innermost first (more than one where the compiler
/// put one into another); none when the frame is folded.
pub type Named = Arc<[(FunctionId, u32)]>;

/// Names native frames of one profile, each address once.
#[derive(Debug, Default)]
pub struct Natives {
    detail: NativeDetail,
    modules: FxHashMap<u32, Arc<Module>>,
    known: FxHashMap<NativeFrame, Named>,
}

impl Natives {
    #[must_use]
    pub fn new(detail: NativeDetail) -> Self {
        Self { detail, ..Self::default() }
    }

    /// Before the first frame that names it.
    pub fn add_module(&mut self, module: Arc<Module>) {
        self.modules.insert(module.id, module);
    }

    pub fn frame(&mut self, profile: &mut Profile, frame: NativeFrame) -> Named {
        // What happened at the address in this sample is no part of its name.
        let key = NativeFrame { marks: frame.marks & marks::EVAL, ..frame };
        if let Some(named) = self.known.get(&key) {
            return Arc::clone(named);
        }
        let named = self.read(profile, key);
        self.known.insert(key, Arc::clone(&named));
        named
    }

    #[cold]
    fn read(&self, profile: &mut Profile, frame: NativeFrame) -> Named {
        if self.detail != NativeDetail::Full && frame.marks & marks::EVAL != 0 {
            return Arc::new([]);
        }
        let (name, file) = match self.modules.get(&frame.module) {
            Some(module) => {
                let base = module.path.rsplit(|byte| *byte == b'/').next().unwrap_or(&module.path);
                (format!("{}+{:#x}", String::from_utf8_lossy(base), frame.address), module.path.as_slice())
            }
            None => (format!("{:#x}", frame.address), b"".as_slice()),
        };
        let function = Function {
            name: profile.intern(name.as_bytes()),
            file: profile.intern(file),
            module: StringId::EMPTY,
            first_line: 0,
            kind: FunctionKind::Native,
            discriminator: frame.address,
        };
        Arc::new([(profile.function(function), 0)])
    }
}
