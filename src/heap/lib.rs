//! What runs inside malloc: from a front's countdown to a sampled block in the tables.
//!
//! Runs in any thread, with any lock of the program held, and in signal handlers of the program that allocate. The rules are
//! those of the signal zone: no allocation, no lock, no panic path, no lazily made thread-local storage, every loop bounded.
//!
//! In the order a block flows: a front (`interpose/`) calls [`hooks`], which draws the next distance ([`draw`]), captures a
//! stack ([`stacks`]), weighs the block ([`weight`]) and puts it into the table of live ones ([`live`]); when it is freed its
//! figures move to its stack's freed ones and to the [`freed`] log.
#![no_std]
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

pub mod abi;
pub mod draw;
pub mod filter;
pub mod freed;
pub mod hooks;
pub mod live;
pub mod stacks;
pub mod state;
pub mod weight;
