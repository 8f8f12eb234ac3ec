//! `embed`.

use gemma4_core::ops::embed::Embed;

use super::Lowering;
use crate::error::CudaError;
use crate::kernels::Unit;

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    Vec::new()
}

pub(super) fn embed(_op: &Embed, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    Err(cx.unsupported("embed", "it has no kernel"))
}
