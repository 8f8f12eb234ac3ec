//! The one comparator, golden models, property tests that every backend must pass, and the fuzzers.

pub mod backends;
pub mod bisect;
pub mod cases;
pub mod compare;
pub mod device;
pub mod fuzz;
pub mod golden;
pub mod invariance;
pub mod known;
pub mod kv;
pub mod ops;
pub mod procedural;
pub mod tiny;

mod failure;

pub use failure::Failure;
