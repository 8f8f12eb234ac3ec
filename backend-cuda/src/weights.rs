//! Weights on the device.

mod blocks;
mod layout;
mod pack;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use gemma4_core::tensor::DType;

/// A weight on the device. Clones share it.
#[derive(Clone, Debug)]
pub struct Weight {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dtype: DType,
    experts: usize,
    rows: usize,
    cols: usize,
    layout: Layout,
}

/// Part of a weight that has an address of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Plane {
    /// Values or codes.
    Values,
    /// Scales of blocks.
    Scales,
    /// What else blocks hold.
    Others,
}

/// How the values of a weight lie in its planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Layout {
    /// Rows one after another, as files hold them; vectors as `f32`.
    Rows,
}

impl Weight {
    /// Element type on the device.
    pub(crate) fn dtype(&self) -> DType {
        self.inner.dtype
    }

    /// Matrices.
    pub(crate) fn experts(&self) -> usize {
        self.inner.experts
    }

    /// Rows of a matrix.
    pub(crate) fn rows(&self) -> usize {
        self.inner.rows
    }

    /// Values of a row.
    pub(crate) fn cols(&self) -> usize {
        self.inner.cols
    }

    /// Where its values are.
    pub(crate) fn layout(&self) -> Layout {
        self.inner.layout
    }
}
