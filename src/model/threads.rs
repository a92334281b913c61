//! Threads as the profile knows them.

use crate::ids::StringId;

/// One thread's presence in the profile. Times are relative to the start of the profile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Thread {
    pub os_id: u64,
    /// What `threading.get_ident()` gives; 0: the thread has no Python identity.
    pub python_ident: u64,
    pub name: Option<StringId>,
    pub start_ns: u64,
    pub end_ns: u64,
    /// CPU time measured over the run, sampled or not.
    pub cpu_ns: u64,
    /// The part of it that no sample claims.
    pub unattributed_ns: u64,
}
