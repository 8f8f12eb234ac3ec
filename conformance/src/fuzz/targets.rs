//! The parsers that are fuzzed.

use super::Target;

mod gguf;

/// Every target.
#[must_use]
pub fn all() -> Vec<Box<dyn Target>> {
    vec![Box::new(gguf::Container)]
}
