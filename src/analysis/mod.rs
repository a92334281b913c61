//! Pure functions over the model. They own nothing and change nothing.

mod aggregate;

pub use aggregate::{AggregatedStack, aggregate};
