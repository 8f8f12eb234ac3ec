//! The CUDA C++ files, and what they are compiled as.

use std::borrow::Cow;

/// What becomes one binary: a file of `kernels/` with values for its macros.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unit {
    /// File below `kernels/`, without `.cu`.
    pub file: &'static str,
    /// Macros and their values.
    pub defines: Vec<(&'static str, Cow<'static, str>)>,
}

impl Unit {
    /// A file without macros.
    #[must_use]
    pub fn new(file: &'static str) -> Self {
        Self { file, defines: Vec::new() }
    }

    /// With a value for a macro.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.defines.push((name, value.into()));
        self
    }
}
