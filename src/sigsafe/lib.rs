//! Everything that may run in a signal handler or on a remote stack walk.
#![no_std]
pub mod layout;
