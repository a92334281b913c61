//! Native frames to the model: addresses in modules, which get their names later. Runs on the manager thread, no GIL.

use rustc_hash::FxHashMap;
use spprof_model::{Function, FunctionId, Module, Profile};
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

impl NativeDetail {
    /// As in the metadata of a profile.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Folded => "folded",
            Self::Full => "full",
        }
    }
}

/// A native address as a profile has it; none when the frame is folded.
pub type Taken = Option<FunctionId>;

/// Puts native frames into one profile. [`super::naming`] names them when the profile is looked at.
#[derive(Debug, Default)]
pub struct Natives {
    detail: NativeDetail,
    modules: FxHashMap<u32, Arc<Module>>,
    /// The module's row in the profile, by its id.
    rows: FxHashMap<u32, u32>,
    known: FxHashMap<NativeFrame, Taken>,
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

    pub fn frame(&mut self, profile: &mut Profile, frame: NativeFrame) -> Taken {
        // What happened at the address in this sample is no part of its name.
        let key = NativeFrame { marks: frame.marks & marks::EVAL, ..frame };
        if let Some(taken) = self.known.get(&key) {
            return *taken;
        }
        let taken = self.take(profile, key);
        self.known.insert(key, taken);
        taken
    }

    #[cold]
    fn take(&mut self, profile: &mut Profile, frame: NativeFrame) -> Taken {
        if profile.meta.native.is_empty() {
            profile.meta.native = self.detail.name().to_owned();
        }
        if self.detail != NativeDetail::Full && frame.marks & marks::EVAL != 0 {
            return None;
        }
        let row = match (self.rows.get(&frame.module), self.modules.get(&frame.module)) {
            (Some(&row), _) => row,
            (None, Some(module)) => {
                let row = profile.module(module);
                self.rows.insert(frame.module, row);
                row
            }
            (None, None) => 0,
        };
        // Code that belongs to no file may be anywhere in the next run, and is made by the thousand.
        let address = if row == 0 { 0 } else { frame.address };
        Some(profile.function(Function::of_address(row, address)))
    }
}
