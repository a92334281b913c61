//! Pure functions over the model. They own nothing and change nothing.

mod aggregate;
mod permutation;

pub use aggregate::{AggregatedStack, aggregate};
pub use permutation::differences;
