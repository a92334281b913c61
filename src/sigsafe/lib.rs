//! Everything that may run in a signal handler or on a remote stack walk.
//!
//! The rules of this crate: no allocation, no lock, no panic path, no formatting, no logging, no lazily bound symbol, no
//! thread-local with a destructor; system calls only from the list in `sys`; every loop bounded by a named constant;
//! foreign memory only through [`mem`]; errno saved first. A failure is a small outcome code and a counter.
//!
//! In the order a sample flows: [`handler`] is entered by the kernel, finds its [`thread::ThreadState`] in the
//! [`zone`], asks [`pywalk`] for the Python [`stack`], [`unwind`] for the native frames around it, and puts a record into the thread's [`ring`].
#![no_std]
// RealtimeSanitizer, on a nightly compiler: `make rtsan`.
#![cfg_attr(rtsan, feature(sanitize))]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

#[cfg(test)]
extern crate std;

pub mod handler;
pub mod layout;
pub mod mem;
pub mod pywalk;
pub mod ring;
pub mod stack;
pub mod sys;
pub mod thread;
pub mod unwind;
pub mod zone;
