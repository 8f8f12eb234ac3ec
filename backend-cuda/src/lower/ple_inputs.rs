//! `ple_inputs`.

use gemma4_core::ops::ple_inputs::PleInputs;

use super::Lowering;
use crate::error::CudaError;
use crate::kernels::Unit;

/// What it is compiled as.
pub(super) fn units() -> Vec<Unit> {
    Vec::new()
}

pub(super) fn ple_inputs(_op: &PleInputs, cx: &mut Lowering<'_>) -> Result<(), CudaError> {
    Err(cx.unsupported("ple_inputs", "it has no kernel"))
}
