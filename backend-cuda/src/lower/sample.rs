//! `sample`.

use gemma4_core::ops::sample::Sample;

use super::Lowering;
use crate::error::CudaError;
use crate::kernels::Unit;

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    Vec::new()
}

pub(super) fn sample(_op: &Sample, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    Err(cx.unsupported("sample", "it has no kernel"))
}
