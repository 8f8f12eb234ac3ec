//! `gather_rows`.

use gemma4_core::ops::gather_rows::GatherRows;

use super::Lowering;
use crate::error::CudaError;
use crate::kernels::Unit;

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    Vec::new()
}

pub(super) fn gather_rows(_op: &GatherRows, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    Err(cx.unsupported("gather_rows", "it has no kernel"))
}
