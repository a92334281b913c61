//! The native half of spprof, in the order data flows: sampler -> resolve -> session -> analysis, export -> py.

pub mod analysis;
pub mod error;
pub mod memprof;
mod py;
pub mod resolve;
pub mod rss;
pub mod sampler;
pub mod session;
pub mod tracer;
