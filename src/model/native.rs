//! Views of a profile by kind of code: without native frames, with nothing else, or what went through some modules.

use crate::filter::{Selection, filter};
use crate::functions::{Function, FunctionKind};
use crate::ids::NodeId;
use crate::profile::Profile;
use crate::rewrite::rewrite;

/// Name of the synthetic frame above which the callers of a native frame are not known.
pub const NO_NATIVE_CALLER: &[u8] = b"<native callers unknown>";

impl Function {
    /// Whether it is compiled code, with a name or without one yet.
    #[must_use]
    pub fn is_native(&self) -> bool {
        matches!(self.kind, FunctionKind::Native | FunctionKind::Address)
    }
}

/// Native frames are merged into their Python callers: no sample and no weight is left out. A stack of native frames alone
/// becomes one native frame, `<native>`, as in a run without native frames.
#[must_use]
pub fn without_native(profile: &Profile) -> Profile {
    let mut python = rewrite(profile, false, |copies, to, parent, node| {
        let function = profile.function_info(node.function);
        let is_mark = function.kind == FunctionKind::Synthetic && profile.bytes(function.name) == NO_NATIVE_CALLER;
        if function.is_native() || is_mark {
            return parent;
        }
        let function = copies.function(to, node.function);
        to.child(parent, function, node.line)
    });
    python.meta.native.clear();
    python
}

/// The samples with a native frame, and of their stacks the native frames alone. What is left out is stated as by [`filter`].
#[must_use]
pub fn native_only(profile: &Profile) -> Profile {
    let is_native = |profile: &Profile, node: NodeId| profile.function_info(profile.node(node).function).is_native();
    let selected = filter(profile, &Selection { frame: Some(&is_native), ..Selection::default() });
    rewrite(&selected, true, |copies, to, parent, node| {
        if !selected.function_info(node.function).is_native() {
            return parent;
        }
        let function = copies.function(to, node.function);
        to.child(parent, function, node.line)
    })
}

/// The samples whose stack holds a frame of one of these modules, with the whole stack.
#[must_use]
pub fn through_modules(profile: &Profile, paths: &[Vec<u8>]) -> Profile {
    let is_of = |profile: &Profile, node: NodeId| {
        let function = profile.function_info(profile.node(node).function);
        function.is_native() && paths.iter().any(|path| path == profile.bytes(function.module))
    };
    filter(profile, &Selection { frame: Some(&is_of), ..Selection::default() })
}
