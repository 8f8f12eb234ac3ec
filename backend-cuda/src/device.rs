//! The opened GPU.

/// An opened GPU.
#[derive(Debug)]
pub(crate) struct Device {
    /// Streaming multiprocessors.
    pub(crate) multiprocessors: u32,
}
