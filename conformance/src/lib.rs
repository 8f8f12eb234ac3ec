//! The one comparator, golden models and property tests that every backend must pass.

pub mod fuzz;
