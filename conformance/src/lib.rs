//! The one comparator, golden models and property tests that every backend must pass.

pub mod compare;
pub mod fuzz;
pub mod golden;
pub mod procedural;
