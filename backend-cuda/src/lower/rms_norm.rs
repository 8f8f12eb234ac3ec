//! `rms_norm`.

use gemma4_core::ops::rms_norm::RmsNorm;

use super::Lowering;
use crate::error::CudaError;
use crate::kernels::Unit;

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    Vec::new()
}

pub(super) fn rms_norm(_op: &RmsNorm, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    Err(cx.unsupported("rms_norm", "it has no kernel"))
}
