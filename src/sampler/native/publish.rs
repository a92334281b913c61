//! The map that handlers see: replaced without a pause whenever modules come or go. The old one is freed when every handler
//! that may look at it has left.

use super::modules::{self, Modules};
use spprof_sigsafe::thread::ThreadState;
use spprof_sigsafe::zone::ZONE;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A replaced map, and the handlers that were inside then: each state with its count of entries.
#[derive(Debug)]
struct Retired {
    modules: Arc<Modules>,
    inside: Vec<(&'static ThreadState, u64)>,
}

/// Owned by the manager of a run; dropped, it takes the map away from the handlers.
#[derive(Debug, Default)]
pub struct Publisher {
    current: Option<Arc<Modules>>,
    retired: Vec<Retired>,
}

impl Publisher {
    /// Gives the handlers the modules as they are now. `announce` hears of them before a handler can name them.
    pub fn refresh(&mut self, announce: impl FnOnce(&Modules)) {
        self.free();
        let now = modules::current();
        if self.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, &now)) {
            return;
        }
        announce(&now);
        // SAFETY: it lives in `current`, then in `retired`, until no handler can be looking.
        unsafe { ZONE.replace_native(now.as_static()) };
        let before = self.current.replace(now);
        self.retire(before);
    }

    fn retire(&mut self, modules: Option<Arc<Modules>>) {
        let Some(modules) = modules else { return };
        // ORDER: after the replacement: who is counted as entered later sees the new map.
        let inside = ZONE
            .states()
            .iter()
            .map(|state| (state, state.entered.load(Ordering::SeqCst)))
            .filter(|(state, entered)| state.exited.load(Ordering::Acquire) < *entered)
            .collect();
        self.retired.push(Retired { modules, inside });
    }

    fn free(&mut self) {
        self.retired.retain(|retired| {
            retired.inside.iter().any(|(state, entered)| state.exited.load(Ordering::Acquire) < *entered)
        });
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // SAFETY: null.
        unsafe { ZONE.replace_native(std::ptr::null()) };
        let current = self.current.take();
        self.retire(current);
        self.free();
        for retired in self.retired.drain(..) {
            // A handler that has not left, though the run has waited for it: its map stays for ever.
            std::mem::forget(retired.modules);
        }
    }
}
