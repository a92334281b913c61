//! The native half of spprof, in the order data flows: sampler -> resolve -> session -> export -> py.

pub mod error;
pub mod resolve;
pub mod sampler;
pub mod session;

#[pyo3::pymodule]
#[pyo3(name = "_native")]
mod native {}
