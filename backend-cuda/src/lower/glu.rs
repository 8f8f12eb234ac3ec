//! `glu`.

use gemma4_core::ops::glu::Glu;

use super::Lowering;
use crate::error::CudaError;
use crate::kernels::Unit;

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    Vec::new()
}

pub(super) fn glu(_op: &Glu, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    Err(cx.unsupported("glu", "it has no kernel"))
}
