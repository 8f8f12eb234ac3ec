//! `linear`.

use gemma4_core::ops::linear::Linear;

use super::Lowering;
use crate::error::CudaError;
use crate::kernels::Unit;

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    Vec::new()
}

/// Whether the op reads its input in the form of products.
pub(super) fn reads_prepared(_op: &Linear, _cx: &Lowering<'_>) -> bool {
    false
}

pub(super) fn linear(_op: &Linear, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    Err(cx.unsupported("linear", "it has no kernel"))
}
