//! The profile as one may look at it: native addresses get their names on a thread of its own, whose stack is large enough for
//! demanglers whoever asks, and which takes no signal of the host's. The caller waits, without the GIL.

use crate::resolve::naming;
use crate::sampler::signals::AllBlocked;
use spprof_model::Profile;
use std::borrow::Cow;
use std::thread;

const STACK_BYTES: usize = 8 << 20;

/// The profile itself when it has nothing to name.
#[must_use]
pub fn named(profile: &Profile) -> Cow<'_, Profile> {
    if !naming::has_addresses(profile) {
        return Cow::Borrowed(profile);
    }
    let by_files = || naming::named(profile, spprof_symbols::resolve);
    let named = thread::scope(|scope| {
        let spawned = {
            let _blocked = AllBlocked::new();
            thread::Builder::new().name("spprof-names".into()).stack_size(STACK_BYTES).spawn_scoped(scope, by_files)
        };
        // A file that the libraries cannot take must not cost the profile.
        let by_offsets = || naming::named(profile, |file, addresses, _| spprof_symbols::offsets(file, addresses));
        spawned.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(by_offsets)
    });
    Cow::Owned(named)
}
