//! The one comparator, golden models, property tests that every backend must pass, and the fuzzers.

#[cfg(feature = "backends")]
pub mod backends;
pub mod bisect;
pub mod cases;
pub mod compare;
pub mod device;
pub mod drafts;
pub mod faulty;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod golden;
pub mod invariance;
#[cfg(feature = "backends")]
pub mod known;
pub mod kv;
pub mod ops;
pub mod procedural;
pub mod queue;
pub mod tiny;

mod failure;

pub use failure::Failure;
