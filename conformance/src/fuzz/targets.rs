//! The parsers that are fuzzed.

use super::Target;

/// Every target.
#[must_use]
pub fn all() -> Vec<Box<dyn Target>> {
    Vec::new()
}
