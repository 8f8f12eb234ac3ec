//! `attention`.

use gemma4_core::ops::attention::Attention;

use super::Lowering;
use crate::error::CudaError;
use crate::kernels::Unit;

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    Vec::new()
}

pub(super) fn attention(_op: &Attention, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    Err(cx.unsupported("attention", "it has no kernel"))
}
