//! The data model: what a profile is, once captured and resolved. No I/O, no signals, no Python.
#![forbid(unsafe_code)]

/// Being built.
#[derive(Debug)]
pub struct Profile {}
